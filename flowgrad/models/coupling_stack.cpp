#include "flowgrad/models/coupling_stack.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/models/bijectors.h"

namespace flowgrad {

CouplingStack::CouplingStack(const char* name, const CouplingStackOptions& options,
                             const Coupling& coupling, Generator& generator, DType dtype)
    : name_(name), options_(options) {
  if (options.dim < 2) {
    throw ValueError(fmt::format(
        "{}: dim = {} given; at least 2 is accepted, because a coupling moves some axes by a "
        "function of the others",
        name, options.dim));
  }
  if (options.n_flows < 1 || options.condition_dim < 0 || options.base_components < 0) {
    throw ValueError(fmt::format(
        "{}: n_flows = {}, condition_dim = {}, base_components = {} given; at least 1, 0 and 0 "
        "are accepted",
        name, options.n_flows, options.condition_dim, options.base_components));
  }
  for (int64_t i = 0; i < options.n_flows; ++i) {
    const std::string number = std::to_string(i);
    if (options.actnorm) {
      steps_.push_back(
          &add_module("actnorms." + number, std::make_unique<ActNorm>(options.dim, dtype)));
    }
    steps_.push_back(&add_module("flows." + number, coupling(i % 2 == 0)));
    if (options.permute) {
      steps_.push_back(
          &add_module("permutations." + number, std::make_unique<Permutation>(options.dim, i)));
    }
  }
  if (options.base_components > 0) {
    base_ = &add_module("base", std::make_unique<GaussianMixture>(options.base_components,
                                                                  options.dim, generator, dtype));
  }
}

Transformed CouplingStack::forward(const Tensor& z, const Tensor& given) {
  check_rows(name_, z, options_.dim);
  const Tensor condition = check_condition(name_, given, z.size(0), options_.condition_dim);
  Transformed out{z, {}};
  for (Flow* step : steps_) out = then(out, step->forward(out.value, condition));
  return out;
}

Transformed CouplingStack::inverse(const Tensor& x, const Tensor& given) {
  check_rows(name_, x, options_.dim);
  const Tensor condition = check_condition(name_, given, x.size(0), options_.condition_dim);
  Transformed out{x, {}};
  for (size_t i = steps_.size(); i-- > 0;)
    out = then(out, steps_[i]->inverse(out.value, condition));
  return out;
}

Tensor CouplingStack::base_log_prob(const Tensor& z) {
  return base_ ? base_->log_prob(z) : Flow::base_log_prob(z);
}

Tensor CouplingStack::base_sample(int64_t n, Generator& generator) {
  return base_ ? base_->rsample(n, generator) : Flow::base_sample(n, generator);
}

void CouplingStack::initialize_from(const Tensor& x, const Tensor& given) {
  if (!options_.actnorm) return;
  check_rows(name_, x, options_.dim);
  const Tensor condition = check_condition(name_, given, x.size(0), options_.condition_dim);
  NoGrad off;
  Tensor at = x.detach();
  for (size_t i = steps_.size(); i-- > 0;) {
    steps_[i]->initialize_from(at, condition);
    at = steps_[i]->inverse(at, condition).value;
  }
}

}  // namespace flowgrad
