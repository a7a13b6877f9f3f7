#include "flowgrad/models/realnvp.h"

#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

Tensor even_mask(int64_t dim, bool keep_even, DType dtype) {
  std::vector<double> mask;
  for (int64_t i = 0; i < dim; ++i) mask.push_back((i % 2 == 0) == keep_even ? 1 : 0);
  return Tensor::from(mask, {dim}, dtype);
}

const RealNVPOptions& checked(const RealNVPOptions& o) {
  if (o.hidden >= 1 && o.log_scale_bound >= 0) return o;
  throw ValueError(
      fmt::format("RealNVP: hidden = {}, log_scale_bound = {} given; at least 1 and 0 are accepted",
                  o.hidden, o.log_scale_bound));
}

std::vector<int64_t> net_widths(const RealNVPOptions& o) {
  return {o.dim + o.condition_dim, o.hidden, o.hidden, o.dim};
}

std::unique_ptr<MLP> coupling_net(const RealNVPOptions& o, Generator& generator, DType dtype) {
  auto net = std::make_unique<MLP>(net_widths(o), relu, generator, dtype);
  net->last().set_zero();  // a fresh flow is the identity
  return net;
}

}  // namespace

CouplingLayer::CouplingLayer(const RealNVPOptions& options, bool keep_even, Generator& generator,
                             DType dtype)
    : options_(checked(options)),
      mask_(add_buffer("mask", even_mask(options.dim, keep_even, dtype))),
      active_(add_constant(even_mask(options.dim, !keep_even, dtype))),
      scale_factor_(
          add_constant(active_ * (options.log_scale_bound > 0 ? options.log_scale_bound : 1.0))),
      minus_scale_factor_(add_constant(-scale_factor_)),
      scale_net_(add_module("scale_net", coupling_net(options, generator, dtype))),
      translate_net_(add_module("translate_net", coupling_net(options, generator, dtype))) {}

CouplingLayer::Affine CouplingLayer::affine(const Tensor& x, const Tensor& condition, double sign) {
  // mul_zero: 0 beats infinity and NaN, so that what a mask hides can never show.
  const Tensor masked = mul_zero(mask_, x);
  const Tensor in = condition.defined() ? concat({masked, condition}, 1) : masked;
  const Tensor raw = scale_net_(in);
  const double c = options_.log_scale_bound;
  const Tensor& active = sign > 0 ? scale_factor_ : minus_scale_factor_;
  return {mul_zero(active, c > 0 ? tanh(raw * (1 / c)) : raw),
          mul_zero(active_, translate_net_(in))};
}

Transformed CouplingLayer::forward(const Tensor& z, const Tensor& condition) {
  check_rows("CouplingLayer", z, options_.dim);
  const Affine a = affine(z, condition, 1);
  return {z * exp(a.log_scale) + a.shift, sum(a.log_scale, {1})};
}

Transformed CouplingLayer::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("CouplingLayer", x, options_.dim);
  const Affine a = affine(x, condition, -1);
  return {(x - a.shift) * exp(a.log_scale), sum(a.log_scale, {1})};
}

RealNVP::RealNVP(const RealNVPOptions& o, Generator& generator, DType dtype)
    : CouplingStack(
          "RealNVP", {o.dim, o.n_flows, o.condition_dim, o.permute, o.actnorm, o.base_components},
          [&](bool keep_even) {
            return std::make_unique<CouplingLayer>(o, keep_even, generator, dtype);
          },
          generator, dtype) {}

}  // namespace flowgrad
