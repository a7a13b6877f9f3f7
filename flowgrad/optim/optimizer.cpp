#include "flowgrad/optim/optimizer.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

void check_setting(const char* who, const char* name, double value, bool ok, const char* accepted) {
  if (ok) return;
  throw ValueError(fmt::format("{}: {} = {} given; {} is accepted", who, name, value, accepted));
}

/// The stored gradient, made contiguous where it is not.
Tensor dense_grad(const Tensor& p) {
  const Tensor g = p.grad();
  return g.defined() ? contiguous(g) : g;
}

}  // namespace

Optimizer::Optimizer(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {
  std::set<std::string> names;
  for (const ParameterGroup& group : groups_) {
    check_setting("optimizer", "weight_decay", group.weight_decay, group.weight_decay >= 0, "0 or more");
    check_setting("optimizer", "lr_factor", group.lr_factor, group.lr_factor >= 0, "0 or more");
    for (const auto& [name, tensor] : group.parameters) {
      if (!tensor.is_leaf() || !tensor.requires_grad()) {
        throw GradError(fmt::format("optimizer: \"{}\" is not a leaf that requires gradients", name));
      }
      if (!tensor.is_contiguous()) throw ShapeError(fmt::format("optimizer: \"{}\" is not contiguous", name));
      if (!names.insert(name).second) throw ValueError(fmt::format("optimizer: \"{}\" is given twice", name));
    }
  }
}

void Optimizer::set_learning_rate(double lr) {
  check_setting("optimizer", "learning rate", lr, std::isfinite(lr) && lr >= 0, "a finite number of 0 or more");
  lr_ = lr;
}

NamedTensors Optimizer::parameters() const {
  NamedTensors all;
  for (const ParameterGroup& group : groups_) all.insert(all.end(), group.parameters.begin(), group.parameters.end());
  return all;
}

void Optimizer::zero_grad() const {
  for (const ParameterGroup& group : groups_) {
    for (const auto& [name, tensor] : group.parameters) tensor.zero_grad();
  }
}

void Optimizer::step() {
  NoGrad off;
  size_t first = 0;
  for (const ParameterGroup& group : groups_) {
    update_group(group, first, lr_ * group.lr_factor);
    first += group.parameters.size();
  }
  ++steps_;
}

std::vector<Tensor>& Optimizer::add_moment(const char* name) {
  auto values = std::make_unique<std::vector<Tensor>>();
  for (const auto& [parameter, tensor] : parameters()) values->push_back(zeros_like(tensor));
  moments_.push_back({name, std::move(values)});
  return *moments_.back().values;
}

NamedTensors Optimizer::state_dict() const {
  NamedTensors out{{"step", Tensor::from(std::vector<int64_t>{steps_}, {1})}};
  const NamedTensors all = parameters();
  for (const Moment& m : moments_) {
    for (size_t i = 0; i < all.size(); ++i) out.emplace_back(all[i].first + "." + m.name, (*m.values)[i]);
  }
  return out;
}

void Optimizer::load_state_dict(const NamedTensors& state) {
  std::map<std::string, Tensor> given(state.begin(), state.end());
  const NamedTensors mine = state_dict();
  for (const auto& [name, tensor] : mine) {
    const auto found = given.find(name);
    if (found == given.end()) throw IoError(fmt::format("optimizer state: \"{}\" is missing", name));
    if (found->second.shape() != tensor.shape() || found->second.dtype() != tensor.dtype()) {
      throw IoError(fmt::format("optimizer state: \"{}\" is {} {}; this optimizer needs {} {}", name,
                                found->second.shape().to_string(), name_of(found->second.dtype()),
                                tensor.shape().to_string(), name_of(tensor.dtype())));
    }
  }
  for (const auto& [name, tensor] : state) {
    bool known = false;
    for (const auto& [own, value] : mine) known = known || own == name;
    if (!known) throw IoError(fmt::format("optimizer state: \"{}\" is not part of this optimizer", name));
  }
  const auto steps = static_cast<int64_t>(given["step"].item());
  if (steps < 0) throw IoError(fmt::format("optimizer state: step is {}; it must be at least 0", steps));
  NoGrad off;
  for (const auto& [name, tensor] : mine) {
    if (name != "step") copy_(tensor, given[name]);
  }
  steps_ = steps;
}

Sgd::Sgd(std::vector<ParameterGroup> groups, const SgdOptions& options)
    : Optimizer(std::move(groups)), options_(options) {
  set_learning_rate(options.lr);
  check_setting("Sgd", "momentum", options.momentum, options.momentum >= 0, "0 or more");
  check_setting("Sgd", "dampening", options.dampening, !options.nesterov || (options.momentum > 0 && options.dampening == 0),
                "0, with a momentum above 0, beside nesterov");
  if (options.momentum > 0) momentum_ = &add_moment("momentum_buffer");
}

void Sgd::update_group(const ParameterGroup& group, size_t first, double lr) {
  std::vector<Tensor> grads;
  std::vector<kernels::OptimizerSlot> slots;
  grads.reserve(group.parameters.size());
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    const Tensor& p = group.parameters[i].second;
    grads.push_back(dense_grad(p));
    if (!grads.back().defined()) continue;
    kernels::OptimizerSlot slot{p, grads.back(), {}, {}};
    if (momentum_) slot.moment1 = (*momentum_)[first + i];
    slots.push_back(slot);
    p.storage().mark_written("sgd step");
  }
  if (slots.empty()) return;
  const kernels::SgdParams params{lr,           options_.momentum,  options_.dampening,
                                  group.weight_decay, options_.nesterov, current_step() == 1};
  kernels::backend(group.parameters.front().second.device()).sgd_step(slots, params);
}

Adam::Adam(std::vector<ParameterGroup> groups, const AdamOptions& options)
    : Optimizer(std::move(groups)),
      options_(options),
      exp_avg_(&add_moment("exp_avg")),
      exp_avg_sq_(&add_moment("exp_avg_sq")) {
  set_learning_rate(options.lr);
  check_setting("Adam", "beta1", options.beta1, options.beta1 >= 0 && options.beta1 < 1, "0 up to, not including, 1");
  check_setting("Adam", "beta2", options.beta2, options.beta2 >= 0 && options.beta2 < 1, "0 up to, not including, 1");
  check_setting("Adam", "epsilon", options.epsilon, options.epsilon >= 0, "0 or more");
}

void Adam::update_group(const ParameterGroup& group, size_t first, double lr) {
  std::vector<Tensor> grads;
  std::vector<kernels::OptimizerSlot> slots;
  grads.reserve(group.parameters.size());
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    const Tensor& p = group.parameters[i].second;
    grads.push_back(dense_grad(p));
    if (!grads.back().defined()) continue;
    slots.push_back({p, grads.back(), (*exp_avg_)[first + i], (*exp_avg_sq_)[first + i]});
    p.storage().mark_written("adam step");
  }
  if (slots.empty()) return;
  const auto t = static_cast<double>(current_step());
  const kernels::AdamParams params{lr,
                                   options_.beta1,
                                   options_.beta2,
                                   options_.epsilon,
                                   group.weight_decay,
                                   1 - std::pow(options_.beta1, t),
                                   1 - std::pow(options_.beta2, t),
                                   options_.decoupled};
  kernels::backend(group.parameters.front().second.device()).adam_step(slots, params);
}

double gradient_norm(const NamedTensors& parameters) {
  std::vector<Tensor> grads;
  std::vector<kernels::View> views;
  grads.reserve(parameters.size());
  for (const auto& [name, p] : parameters) {
    const Tensor g = p.grad();
    if (!g.defined()) continue;
    grads.push_back(g);
    views.emplace_back(grads.back());
  }
  if (views.empty()) return 0;
  return std::sqrt(kernels::backend(grads.front().device()).sum_of_squares(views));
}

double clip_grad_norm(const NamedTensors& parameters, double max_norm) {
  check_setting("clip_grad_norm", "max_norm", max_norm, max_norm > 0, "a number above 0");
  const double norm = gradient_norm(parameters);
  if (!std::isfinite(norm) || norm <= max_norm) return norm;
  // PyTorch's factor, its 1e-6 included.
  const double factor = max_norm / (norm + 1e-6);
  for (const auto& [name, p] : parameters) {
    const Tensor g = p.grad();
    if (g.defined()) kernels::backend(g.device()).scale(g, factor);
  }
  return norm;
}

}  // namespace flowgrad
