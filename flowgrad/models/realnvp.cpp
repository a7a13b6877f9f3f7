#include "flowgrad/models/realnvp.h"

#include <fmt/format.h>

#include "flowgrad/autograd/coupling.h"
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

CouplingNet weights_of(const MLP& net, DType dtype) {
  CouplingNet out;
  for (size_t i = 0; i < out.weight.size(); ++i) {
    out.weight[i] = cast(net.linears()[i]->weight(), dtype);
    out.bias[i] = cast(net.linears()[i]->bias(), dtype);
  }
  return out;
}

}  // namespace

CouplingLayer::CouplingLayer(const RealNVPOptions& options, bool keep_even, Generator& generator,
                             DType dtype)
    : options_(checked(options)),
      mask_(add_buffer("mask", even_mask(options.dim, keep_even, dtype))),
      scale_net_(add_module("scale_net", coupling_net(options, generator, dtype))),
      translate_net_(add_module("translate_net", coupling_net(options, generator, dtype))) {}

Transformed CouplingLayer::move(const Tensor& x, const Tensor& given_condition, bool inverse) {
  check_rows("CouplingLayer", x, options_.dim);
  const Tensor condition =
      check_condition("CouplingLayer", given_condition, x.size(0), options_.condition_dim);
  // The kernel takes one dtype.
  DType dtype = promote(x.dtype(), mask_.dtype());
  if (condition.defined()) dtype = promote(dtype, condition.dtype());
  const auto [value, log_det] = mlp_coupling(
      cast(x, dtype), condition.defined() ? cast(condition, dtype) : condition, cast(mask_, dtype),
      weights_of(scale_net_, dtype), weights_of(translate_net_, dtype),
      {.bound = options_.log_scale_bound, .inverse = inverse});
  return {value, log_det};
}

Transformed CouplingLayer::forward(const Tensor& z, const Tensor& condition) {
  return move(z, condition, false);
}

Transformed CouplingLayer::inverse(const Tensor& x, const Tensor& condition) {
  return move(x, condition, true);
}

RealNVP::RealNVP(const RealNVPOptions& o, Generator& generator, DType dtype)
    : CouplingStack(
          "RealNVP", {o.dim, o.n_flows, o.condition_dim, o.permute, o.actnorm, o.base_components},
          [&](bool keep_even) {
            return std::make_unique<CouplingLayer>(o, keep_even, generator, dtype);
          },
          generator, dtype) {}

}  // namespace flowgrad
