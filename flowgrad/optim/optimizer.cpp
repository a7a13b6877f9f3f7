#include "flowgrad/optim/optimizer.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/optim/state.h"

namespace flowgrad {
namespace {

void check_setting(const char* who, const char* name, double value, bool ok, const char* accepted) {
  if (ok) return;
  throw ValueError(fmt::format("{}: {} = {} given; {} is accepted", who, name, value, accepted));
}

double checked_rate(double lr) {
  check_setting("optimizer", "learning rate", lr, std::isfinite(lr) && lr >= 0,
                "a finite number of 0 or more");
  return lr;
}

}  // namespace

Optimizer::Optimizer(std::vector<ParameterGroup> groups, double lr,
                     std::vector<const char*> moments)
    : groups_(std::move(groups)), moment_names_(std::move(moments)), lr_(checked_rate(lr)) {
  std::set<std::string> names;
  std::map<const void*, std::string> memory;
  for (const ParameterGroup& group : groups_) {
    check_setting("optimizer", "weight_decay", group.weight_decay,
                  std::isfinite(group.weight_decay) && group.weight_decay >= 0,
                  "a finite number of 0 or more");
    check_setting("optimizer", "lr_factor", group.lr_factor,
                  std::isfinite(group.lr_factor) && group.lr_factor >= 0,
                  "a finite number of 0 or more");
    for (const auto& [name, tensor] : group.parameters) {
      if (!tensor.is_leaf() || !tensor.requires_grad()) {
        throw GradError(
            fmt::format("optimizer: \"{}\" is not a leaf that requires gradients", name));
      }
      if (!tensor.is_contiguous()) {
        throw ShapeError(fmt::format("optimizer: \"{}\" is not contiguous", name));
      }
      if (states_.empty()) device_ = tensor.device();
      if (tensor.device() != device_) {
        throw DeviceError(fmt::format(
            "optimizer: \"{}\" is on {} and a parameter before it on {}; all must be on "
            "one device",
            name, tensor.device().to_string(), device_.to_string()));
      }
      if (!names.insert(name).second) {
        throw ValueError(fmt::format("optimizer: \"{}\" is given twice", name));
      }
      if (tensor.numel() > 0 && !memory.emplace(tensor.raw(), name).second) {
        throw ValueError(
            fmt::format("optimizer: \"{}\" is the same memory as \"{}\"; it would be updated twice",
                        name, memory[tensor.raw()]));
      }
      all_.emplace_back(name, tensor);
      State& state = states_.emplace_back();
      for (size_t m = 0; m < moment_names_.size(); ++m) state.moments.push_back(zeros_like(tensor));
    }
  }
}

void Optimizer::set_learning_rate(double lr) { lr_ = checked_rate(lr); }

void Optimizer::zero_grad() const {
  for (const auto& [name, tensor] : all_) tensor.zero_grad();
}

std::vector<Optimizer::Batch> Optimizer::batches() const {
  std::vector<Batch> out;
  size_t next = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    // Nearly always all parameters of a group are of one age.
    std::map<int64_t, std::vector<size_t>> by_age;
    for (const auto& [name, p] : groups_[g].parameters) {
      const size_t i = next++;
      if (p.device() != device_) {
        throw DeviceError(
            fmt::format("optimizer: \"{}\" is on {} and its state on {}; build the optimizer after "
                        "Module::to",
                        name, p.device().to_string(), device_.to_string()));
      }
      if (p.grad().defined()) by_age[states_[i].updates].push_back(i);
    }
    for (auto& [age, members] : by_age) out.push_back({g, std::move(members)});
  }
  return out;
}

int64_t Optimizer::next_update(const Batch& batch) const {
  const int64_t age = states_[batch.members.front()].updates;
  for (const size_t i : batch.members) {
    if (states_[i].updates == age) continue;
    throw DeviceError(fmt::format(
        "optimizer: \"{}\" has {} updates and \"{}\" {}; they had as many when the step was "
        "captured, capture it again",
        all_[i].first, states_[i].updates, all_[batch.members.front()].first, age));
  }
  return age + 1;
}

void Optimizer::queue(const Batch& batch, double gradient_factor,
                      const kernels::CapturedStep& captured) {
  std::vector<kernels::OptimizerSlot> slots;
  std::vector<Tensor> gradients;  // slots borrow from them
  gradients.reserve(batch.members.size());
  for (const size_t i : batch.members) {
    const auto& [name, p] = all_[i];
    const State& state = states_[i];
    gradients.push_back(contiguous(p.grad()));
    kernels::OptimizerSlot& slot = slots.emplace_back();
    slot.parameter = p;
    slot.gradient = gradients.back();
    if (!state.moments.empty()) slot.moment1 = state.moments[0];
    if (state.moments.size() > 1) slot.moment2 = state.moments[1];
  }
  const ParameterGroup& group = groups_[batch.group];
  update(slots, group, next_update(batch), lr_ * group.lr_factor, gradient_factor, captured);
}

void Optimizer::count(const std::vector<Batch>& batches) {
  for (const Batch& batch : batches) {
    for (const size_t i : batch.members) {
      ++states_[i].updates;
      all_[i].second.storage().mark_written("optimiser step");
      for (const Tensor& moment : states_[i].moments)
        moment.storage().mark_written("optimiser step");
    }
  }
  ++steps_;
}

kernels::StepNumbers Optimizer::next_numbers(const Batch& batch) const {
  const ParameterGroup& group = groups_[batch.group];
  return numbers(group, next_update(batch), lr_ * group.lr_factor);
}

void Optimizer::step(double gradient_factor) {
  check_setting("Optimizer::step", "gradient_factor", gradient_factor,
                std::isfinite(gradient_factor) && gradient_factor >= 0,
                "a finite number of 0 or more");
  NoGrad off;
  const std::vector<Batch> all = batches();
  for (const Batch& batch : all) queue(batch, gradient_factor, {});
  count(all);
}

double Optimizer::clipped_step(double max_norm) {
  check_setting("Optimizer::clipped_step", "max_norm", max_norm, max_norm > 0, "a number above 0");
  const double norm = gradient_norm(all_);
  if (std::isfinite(norm)) step(clip_factor(norm, max_norm));
  return norm;
}

NamedTensors Optimizer::state_dict() const {
  NamedTensors out{{"step", integers({steps_})}};
  size_t next = 0;
  for (const auto& [name, tensor] : all_) {
    const State& state = states_[next++];
    out.emplace_back(name + ".step", integers({state.updates}));
    for (size_t m = 0; m < moment_names_.size(); ++m) {
      out.emplace_back(name + "." + moment_names_[m], state.moments[m]);
    }
  }
  return out;
}

void Optimizer::load_state_dict(const NamedTensors& state) {
  check_state("optimizer state", state_dict(), state);
  const std::map<std::string, Tensor> given(state.begin(), state.end());
  const auto count = [&](const std::string& name) {
    const int64_t value = given.at(name).to_vector<int64_t>().front();
    if (value < 0) {
      throw IoError(
          fmt::format("optimizer state: \"{}\" is {}; it must be at least 0", name, value));
    }
    return value;
  };
  std::vector<int64_t> updates;
  for (const auto& [name, tensor] : all_) updates.push_back(count(name + ".step"));
  steps_ = count("step");
  NoGrad off;
  for (size_t i = 0; i < all_.size(); ++i) {
    states_[i].updates = updates[i];
    for (size_t m = 0; m < moment_names_.size(); ++m) {
      copy_(states_[i].moments[m], given.at(all_[i].first + "." + moment_names_[m]));
    }
  }
}

namespace {

std::vector<const char*> sgd_moments(const SgdOptions& options) {
  if (options.momentum == 0) return {};
  return {"momentum_buffer"};
}

}  // namespace

Sgd::Sgd(std::vector<ParameterGroup> groups, const SgdOptions& options)
    : Optimizer(std::move(groups), options.lr, sgd_moments(options)), options_(options) {
  check_setting("Sgd", "momentum", options.momentum, options.momentum >= 0 && options.momentum < 1,
                "0 up to, not including, 1");
  check_setting("Sgd", "dampening", options.dampening,
                options.dampening >= 0 && options.dampening <= 1, "0 to 1");
  if (options.nesterov && (options.momentum == 0 || options.dampening != 0)) {
    throw ValueError(
        fmt::format("Sgd: nesterov with momentum = {} and dampening = {} given; a momentum "
                    "above 0 and no dampening are accepted beside it",
                    options.momentum, options.dampening));
  }
}

kernels::SgdParams Sgd::params(const ParameterGroup& group, int64_t count, double lr) const {
  return {lr,        options_.momentum, options_.dampening, group.weight_decay, options_.nesterov,
          count == 1};
}

void Sgd::update(std::span<const kernels::OptimizerSlot> slots, const ParameterGroup& group,
                 int64_t count, double lr, double gradient_factor,
                 const kernels::CapturedStep& captured) {
  kernels::SgdParams p = params(group, count, lr);
  p.gradient_factor = gradient_factor;
  p.captured = captured;
  kernels::backend(group.parameters.front().second.device()).sgd_step(slots, p);
}

kernels::StepNumbers Sgd::numbers(const ParameterGroup& group, int64_t count, double lr) const {
  return numbers_of(params(group, count, lr));
}

Adam::Adam(std::vector<ParameterGroup> groups, const AdamOptions& options)
    : Optimizer(std::move(groups), options.lr, {"exp_avg", "exp_avg_sq"}), options_(options) {
  check_setting("Adam", "beta1", options.beta1, options.beta1 >= 0 && options.beta1 < 1,
                "0 up to, not including, 1");
  check_setting("Adam", "beta2", options.beta2, options.beta2 >= 0 && options.beta2 < 1,
                "0 up to, not including, 1");
  check_setting("Adam", "epsilon", options.epsilon,
                std::isfinite(options.epsilon) && options.epsilon >= 0,
                "a finite number of 0 or more");
}

kernels::AdamParams Adam::params(const ParameterGroup& group, int64_t count, double lr) const {
  const auto t = static_cast<double>(count);
  return {lr,
          options_.beta1,
          options_.beta2,
          options_.epsilon,
          group.weight_decay,
          1 - std::pow(options_.beta1, t),
          1 - std::pow(options_.beta2, t),
          options_.decoupled};
}

void Adam::update(std::span<const kernels::OptimizerSlot> slots, const ParameterGroup& group,
                  int64_t count, double lr, double gradient_factor,
                  const kernels::CapturedStep& captured) {
  kernels::AdamParams p = params(group, count, lr);
  p.gradient_factor = gradient_factor;
  p.captured = captured;
  kernels::backend(group.parameters.front().second.device()).adam_step(slots, p);
}

kernels::StepNumbers Adam::numbers(const ParameterGroup& group, int64_t count, double lr) const {
  return numbers_of(params(group, count, lr));
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
    if (g.device() != grads.front().device()) {
      throw DeviceError(fmt::format(
          "gradient_norm: the gradient of \"{}\" is on {} and one before it on {}; all must be on "
          "one device",
          name, g.device().to_string(), grads.front().device().to_string()));
    }
  }
  if (views.empty()) return 0;
  return std::sqrt(kernels::backend(grads.front().device()).sum_of_squares(views));
}

double clip_factor(double norm, double max_norm) {
  return std::isfinite(norm) ? std::min(1.0, max_norm / (norm + 1e-6)) : 1;
}

double clip_grad_norm(const NamedTensors& parameters, double max_norm) {
  check_setting("clip_grad_norm", "max_norm", max_norm, max_norm > 0, "a number above 0");
  const double norm = gradient_norm(parameters), factor = clip_factor(norm, max_norm);
  if (factor == 1) return norm;
  for (const auto& [name, p] : parameters) {
    const Tensor g = p.grad();
    if (!g.defined()) continue;
    kernels::backend(g.device()).scale(g, factor);
    g.storage().mark_written("clip_grad_norm");
  }
  return norm;
}

}  // namespace flowgrad
