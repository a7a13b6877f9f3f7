#include "flowgrad/models/planar.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

namespace flowgrad {
namespace {

/// Scales u_hat and products k = w.u_hat of all layers.
struct Constrained {
  std::vector<Tensor> scale;    // (D) each
  std::vector<Tensor> product;  // one element each
};

/// All layers at once: the arithmetic is a few small operations whatever the number of layers.
Constrained constrain(std::span<const PlanarFlow* const> layers) {
  std::vector<Tensor> weights, scales;
  for (const PlanarFlow* layer : layers) {
    weights.push_back(layer->weight());
    scales.push_back(layer->scale());
  }
  const Tensor w = stack(weights);
  const Tensor u = stack(scales);
  const Tensor wu = sum(w * u, {1}, true);
  // w = 0 is divided by 1, so that u_hat = u there.
  const Tensor length = sum(square(w), {1}, true);
  const Tensor norm = length + cast(equal(length, 0), length.dtype());
  const Tensor u_hat = u + (softplus(wu) - 1.0 - wu) / norm * w;
  return {unbind(u_hat), unbind(sum(w * u_hat, {1}))};
}

Transformed layer_forward(const PlanarFlow& layer, const Tensor& u, const Tensor& k,
                          const Tensor& z) {
  const Tensor h = tanh(matmul(z, layer.weight()) + layer.bias());
  return {z + unsqueeze(h, 1) * u, log1p((1.0 - square(h)) * k)};
}

Transformed layer_inverse(const PlanarFlow& layer, const Tensor& u, const Tensor& k,
                          const Tensor& x) {
  const Tensor h = tanh(planar_root(matmul(x, layer.weight()) + layer.bias(), k));
  return {x - unsqueeze(h, 1) * u, -log1p((1.0 - square(h)) * k)};
}

double root_of(double c, double k) {
  double s = k > 0 ? 0 : c + std::copysign(std::abs(k), c);
  // The residual's own rounding ends the iteration; 60 steps are far beyond the slowest case.
  for (int step = 0; step < 60; ++step) {
    const double h = std::tanh(s);
    const double residual = s + k * h - c;
    const double rounding =
        std::numeric_limits<double>::epsilon() * (std::abs(s) + std::abs(k * h) + std::abs(c));
    if (std::abs(residual) <= rounding) break;
    const double slope = 1 + k * (1 - h * h);
    if (!(slope > 0)) break;
    s -= residual / slope;
  }
  return s;
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
  const Constrained c = constrain(std::array<const PlanarFlow*, 1>{this});
  return layer_forward(*this, c.scale[0], c.product[0], z);
}

Transformed PlanarFlow::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("PlanarFlow", x, dim_);
  check_condition("PlanarFlow", condition, x.size(0), 0);
  const Constrained c = constrain(std::array<const PlanarFlow*, 1>{this});
  return layer_inverse(*this, c.scale[0], c.product[0], x);
}

Tensor planar_root(const Tensor& c, const Tensor& k) {
  if (k.numel() != 1) {
    throw ShapeError("planar_root: k has shape " + k.shape().to_string() +
                     "; one element is accepted");
  }
  const auto solve = [](std::span<const Tensor> in) {
    const double factor = in[1].item();
    std::vector<double> roots = in[0].to_vector<double>();
    for (double& r : roots) r = root_of(r, factor);
    return std::vector<Tensor>{Tensor::from(roots, in[0].shape(), in[0].dtype(), in[0].device())};
  };
  // ds/dc = 1 / (1 + k h') and ds/dk = -h / (1 + k h') with h = tanh(s): functions of the root
  // itself, so differentiating them again gives every order.
  const auto rule = [](std::span<const Tensor> cotangents, std::span<const Tensor> in,
                       std::span<const Tensor> out) {
    const Tensor h = tanh(out[0]);
    const Tensor d = cotangents[0] / ((1.0 - square(h)) * in[1] + 1.0);
    return std::vector<Tensor>{d, reshape(-sum(d * h), in[1].shape())};
  };
  return custom_vjp("planar_root", solve, rule, std::array<Tensor, 2>{c, k})[0];
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
  const Constrained c = constrain(flows_);
  Transformed out{z, {}};
  for (size_t i = 0; i < flows_.size(); ++i) {
    out = then(out, layer_forward(*flows_[i], c.scale[i], c.product[i], out.value));
  }
  return out;
}

Transformed NormalizingFlow::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("NormalizingFlow", x, dim_);
  check_condition("NormalizingFlow", condition, x.size(0), 0);
  const Constrained c = constrain(flows_);
  Transformed out{x, {}};
  for (size_t i = flows_.size(); i-- > 0;) {
    out = then(out, layer_inverse(*flows_[i], c.scale[i], c.product[i], out.value));
  }
  return out;
}

}  // namespace flowgrad
