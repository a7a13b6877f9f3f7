#include "flowgrad/models/planar.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

/// Rows x through all layers, in the wider of their dtypes, the one that the kernel takes. u_hat
/// and 1 + w.u_hat of all layers at once: a few small operations whatever their number.
Transformed through(std::span<const PlanarFlow* const> layers, const Tensor& x, bool inverse) {
  const DType dtype = promote(x.dtype(), layers.front()->weight().dtype());
  std::vector<Tensor> weights, biases, scales;
  for (const PlanarFlow* layer : layers) {
    weights.push_back(cast(layer->weight(), dtype));
    biases.push_back(cast(layer->bias(), dtype));
    scales.push_back(cast(layer->scale(), dtype));
  }
  const Tensor w = stack(weights), free = stack(scales);  // (K, D)
  const Tensor wu = sum(w * free, {1}, true);
  // w = 0 is divided by 1, so that u_hat = u there.
  const Tensor length = sum(square(w), {1}, true);
  const Tensor vanishes = equal(length, 0), lifted = softplus(wu);
  const Tensor u = free + (lifted - 1.0 - wu) / (length + cast(vanishes, dtype)) * w;
  const Tensor margin = squeeze(where(vanishes, wu + 1.0, lifted), 1);
  const auto [value, log_det] = planar_stack(cast(x, dtype), w, concat(biases), u, inverse, margin);
  return {value, log_det};
}

}  // namespace

PlanarFlow::PlanarFlow(int64_t dim, Generator& generator, DType dtype) : dim_(dim) {
  if (dim < 1)
    throw ValueError(fmt::format("PlanarFlow: dim = {} given; at least 1 is accepted", dim));
  const double w = std::sqrt(2.0 / static_cast<double>(dim));
  const double u = std::sqrt(2.0);
  weight_ = add_parameter("weight", rand({dim}, generator, dtype, -w, w));
  bias_ = add_parameter("bias", zeros({1}, dtype));
  scale_ = add_parameter("scale", rand({dim}, generator, dtype, -u, u));
}

Transformed PlanarFlow::forward(const Tensor& z, const Tensor& condition) {
  check_rows("PlanarFlow", z, dim_);
  check_condition("PlanarFlow", condition, z.size(0), 0);
  return through(std::array<const PlanarFlow*, 1>{this}, z, false);
}

Transformed PlanarFlow::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("PlanarFlow", x, dim_);
  check_condition("PlanarFlow", condition, x.size(0), 0);
  return through(std::array<const PlanarFlow*, 1>{this}, x, true);
}

NormalizingFlow::NormalizingFlow(int64_t dim, int64_t n_flows, Generator& generator, DType dtype)
    : dim_(dim) {
  if (n_flows < 1)
    throw ValueError(
        fmt::format("NormalizingFlow: n_flows = {} given; at least 1 is accepted", n_flows));
  for (int64_t i = 0; i < n_flows; ++i) {
    flows_.push_back(&add_module("flows." + std::to_string(i),
                                 std::make_unique<PlanarFlow>(dim, generator, dtype)));
  }
}

Transformed NormalizingFlow::forward(const Tensor& z, const Tensor& condition) {
  check_rows("NormalizingFlow", z, dim_);
  check_condition("NormalizingFlow", condition, z.size(0), 0);
  return through(flows_, z, false);
}

Transformed NormalizingFlow::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("NormalizingFlow", x, dim_);
  check_condition("NormalizingFlow", condition, x.size(0), 0);
  return through(flows_, x, true);
}

}  // namespace flowgrad
