#include "flowgrad/optim/ema.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

Ema::Ema(NamedTensors parameters, double decay) : parameters_(std::move(parameters)), decay_(decay) {
  if (!(decay >= 0 && decay < 1)) {
    throw ValueError(fmt::format("Ema: decay = {} given; 0 up to, not including, 1 is accepted", decay));
  }
  NoGrad off;
  for (const auto& [name, p] : parameters_) averages_.push_back(clone(p.detach()));
}

void Ema::update() {
  const auto n = static_cast<double>(updates_);
  const double d = std::min(decay_, (1 + n) / (10 + n));
  for (size_t i = 0; i < averages_.size(); ++i) {
    kernels::backend(averages_[i].device()).lerp(averages_[i], parameters_[i].second, d);
  }
  ++updates_;
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
  NamedTensors out;
  for (size_t i = 0; i < averages_.size(); ++i) out.emplace_back(parameters_[i].first, averages_[i]);
  out.emplace_back("updates", Tensor::from(std::vector<int64_t>{updates_}, {1}));
  return out;
}

void Ema::load_state_dict(const NamedTensors& state) {
  std::map<std::string, Tensor> given(state.begin(), state.end());
  const NamedTensors mine = state_dict();
  for (const auto& [name, tensor] : mine) {
    const auto found = given.find(name);
    if (found == given.end()) throw IoError(fmt::format("ema state: \"{}\" is missing", name));
    if (found->second.shape() != tensor.shape()) {
      throw IoError(fmt::format("ema state: \"{}\" has shape {}; {} is needed", name,
                                found->second.shape().to_string(), tensor.shape().to_string()));
    }
  }
  if (given.size() != mine.size()) throw IoError(fmt::format("ema state: {} entries; {} are needed", given.size(), mine.size()));
  NoGrad off;
  for (const Tensor& average : averages_) {
    const size_t i = static_cast<size_t>(&average - averages_.data());
    copy_(average, given[parameters_[i].first]);
  }
  updates_ = static_cast<int64_t>(given["updates"].item());
}

}  // namespace flowgrad
