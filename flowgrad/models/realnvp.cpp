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
    : options_(options),
      mask_(add_buffer("mask", even_mask(options.dim, keep_even, dtype))),
      scale_net_(add_module("scale_net", coupling_net(options, generator, dtype))),
      translate_net_(add_module("translate_net", coupling_net(options, generator, dtype))) {}

Transformed CouplingLayer::move(const Tensor& x, const Tensor& condition, bool inverse) {
  check_rows("CouplingLayer", x, options_.dim);
  // mul_zero: 0 beats infinity and NaN, so that what a mask hides can never show.
  const Tensor masked = mul_zero(mask_, x);
  const Tensor in = condition.defined() ? concat({masked, condition}, 1) : masked;
  const auto [value, log_det] =
      affine_coupling(x, scale_net_(in), translate_net_(in), mask_,
                      {.bound = options_.log_scale_bound, .inverse = inverse});
  return {value, log_det};
}

Transformed CouplingLayer::forward(const Tensor& z, const Tensor& condition) {
  return move(z, condition, false);
}

Transformed CouplingLayer::inverse(const Tensor& x, const Tensor& condition) {
  return move(x, condition, true);
}

ActNorm::ActNorm(int64_t dim, DType dtype)
    : dim_(dim),
      log_scale_(add_parameter("log_scale", zeros({dim}, dtype))),
      shift_(add_parameter("shift", zeros({dim}, dtype))) {}

Transformed ActNorm::forward(const Tensor& z, const Tensor&) {
  return {z * exp(log_scale_) + shift_, expand(sum(log_scale_), {z.size(0)})};
}

Transformed ActNorm::inverse(const Tensor& x, const Tensor&) {
  return {(x - shift_) * exp(-log_scale_), expand(-sum(log_scale_), {x.size(0)})};
}

Permutation::Permutation(int64_t dim, int64_t number) : dim_(dim) {
  // Drawn from the position in the stack, not from the model's seed: weights of any seed then fit.
  Generator generator(0x9e3779b97f4a7c15u, static_cast<uint64_t>(number));
  order_ = add_buffer("order", randperm(dim, generator));
  back_ = add_constant(sort(order_, 0).second);
}

Transformed Permutation::forward(const Tensor& z, const Tensor&) {
  return {index_select(z, 1, order_), zeros({z.size(0)}, z.dtype(), z.device())};
}

Transformed Permutation::inverse(const Tensor& x, const Tensor&) {
  return {index_select(x, 1, back_), zeros({x.size(0)}, x.dtype(), x.device())};
}

RealNVP::RealNVP(const RealNVPOptions& options, Generator& generator, DType dtype)
    : options_(options) {
  if (options.dim < 2) {
    throw ValueError(fmt::format(
        "RealNVP: dim = {} given; at least 2 is accepted, because a coupling moves some "
        "axes by a function of the others",
        options.dim));
  }
  if (options.n_flows < 1 || options.hidden < 1 || options.condition_dim < 0 ||
      !(options.log_scale_bound >= 0)) {
    throw ValueError(fmt::format(
        "RealNVP: n_flows = {}, hidden = {}, condition_dim = {}, log_scale_bound = {} given; "
        "at least 1, 1, 0 and 0 are accepted",
        options.n_flows, options.hidden, options.condition_dim, options.log_scale_bound));
  }
  for (int64_t i = 0; i < options.n_flows; ++i) {
    const std::string number = std::to_string(i);
    if (options.actnorm) {
      steps_.push_back(
          &add_module("actnorms." + number, std::make_unique<ActNorm>(options.dim, dtype)));
    }
    steps_.push_back(&add_module(
        "flows." + number, std::make_unique<CouplingLayer>(options, i % 2 == 0, generator, dtype)));
    if (options.permute) {
      steps_.push_back(
          &add_module("permutations." + number, std::make_unique<Permutation>(options.dim, i)));
    }
  }
}

Transformed RealNVP::forward(const Tensor& z, const Tensor& given) {
  check_rows("RealNVP", z, options_.dim);
  const Tensor condition = check_condition("RealNVP", given, z.size(0), options_.condition_dim);
  Transformed out{z, {}};
  for (Flow* step : steps_) out = then(out, step->forward(out.value, condition));
  return out;
}

Transformed RealNVP::inverse(const Tensor& x, const Tensor& given) {
  check_rows("RealNVP", x, options_.dim);
  const Tensor condition = check_condition("RealNVP", given, x.size(0), options_.condition_dim);
  Transformed out{x, {}};
  for (size_t i = steps_.size(); i-- > 0;)
    out = then(out, steps_[i]->inverse(out.value, condition));
  return out;
}

}  // namespace flowgrad
