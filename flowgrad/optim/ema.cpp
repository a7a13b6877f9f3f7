#include "flowgrad/optim/ema.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/optim/state.h"

namespace flowgrad {

Ema::Ema(NamedTensors parameters, double decay, bool warm_up)
    : parameters_(std::move(parameters)), decay_(decay), warm_up_(warm_up) {
  if (!(decay >= 0 && decay < 1)) {
    throw ValueError(
        fmt::format("Ema: decay = {} given; 0 up to, not including, 1 is accepted", decay));
  }
  NoGrad off;
  for (const auto& [name, p] : parameters_) {
    if (p.device() != parameters_.front().second.device()) {
      throw DeviceError(fmt::format(
          "Ema: \"{}\" is on {} and a parameter before it on {}; all must be on one device", name,
          p.device().to_string(), parameters_.front().second.device().to_string()));
    }
    averages_.push_back(clone(p.detach()));
  }
}

void Ema::check_not_swapped(const char* who) const {
  if (swapped_) {
    throw ValueError(
        fmt::format("Ema: {} while averages and parameters are exchanged; call swap first", who));
  }
}

double Ema::next_decay() const {
  const auto n = static_cast<double>(updates_);
  return warm_up_ ? std::min(decay_, (1 + n) / (10 + n)) : decay_;
}

void Ema::queue(const kernels::CapturedStep& captured) const {
  std::vector<kernels::AverageSlot> slots;
  for (size_t i = 0; i < averages_.size(); ++i) {
    const auto& [name, p] = parameters_[i];
    if (p.device() != averages_[i].device()) {
      throw DeviceError(
          fmt::format("Ema: \"{}\" is on {} and its average on {}; build the Ema after Module::to",
                      name, p.device().to_string(), averages_[i].device().to_string()));
    }
    slots.push_back({averages_[i], p});
  }
  if (slots.empty()) return;
  kernels::backend(averages_.front().device()).average_step(slots, {next_decay(), captured});
}

void Ema::count() {
  for (const Tensor& average : averages_) average.storage().mark_written("ema update");
  ++updates_;
}

void Ema::update() {
  check_not_swapped("update");
  queue({});
  count();
}

void Ema::swap() {
  NoGrad off;
  for (size_t i = 0; i < averages_.size(); ++i) {
    const Tensor held = clone(averages_[i]);
    copy_(averages_[i], parameters_[i].second.detach());
    copy_(parameters_[i].second, held);
  }
  swapped_ = !swapped_;
}

NamedTensors Ema::state_dict() const {
  check_not_swapped("state_dict");
  NamedTensors out{{"updates", integers({updates_})}};
  for (size_t i = 0; i < averages_.size(); ++i) {
    out.emplace_back("averages." + parameters_[i].first, averages_[i]);
  }
  return out;
}

void Ema::load_state_dict(const NamedTensors& state) {
  check_state("ema state", state_dict(), state);
  const int64_t updates = entry(state, "updates").to_vector<int64_t>().front();
  if (updates < 0) {
    throw IoError(fmt::format("ema state: \"updates\" is {}; it must be at least 0", updates));
  }
  NoGrad off;
  for (size_t i = 0; i < averages_.size(); ++i) {
    copy_(averages_[i], entry(state, "averages." + parameters_[i].first));
  }
  updates_ = updates;
}

}  // namespace flowgrad
