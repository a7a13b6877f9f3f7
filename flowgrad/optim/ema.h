#pragma once

#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {
namespace kernels {
struct CapturedStep;
}

/// Exponential moving average of parameters: average = d average + (1 - d) value. With `warm_up`,
/// d = min(decay, (1 + updates) / (10 + updates)), so that the first steps count.
class Ema {
 public:
  /// Copies the parameters; ValueError for a decay outside [0, 1), DeviceError for parameters on
  /// two devices.
  Ema(NamedTensors parameters, double decay, bool warm_up = true);

  /// Raises ValueError while swapped.
  void update();
  /// Exchanges averages and parameters; called twice it restores, bit for bit.
  void swap();
  bool swapped() const { return swapped_; }

  /// The averages as "averages.<parameter>", and "updates" (int64). Raises ValueError while
  /// swapped.
  NamedTensors state_dict() const;
  /// Raises IoError for a missing or extra entry, a wrong shape or dtype, or a count below 0, and
  /// ValueError while swapped; then nothing changes.
  void load_state_dict(const NamedTensors& state);

 private:
  friend class StepGraph;
  void check_not_swapped(const char* who) const;
  /// Of the next update.
  double next_decay() const;
  void queue(const kernels::CapturedStep& captured) const;
  /// Notes that the averages were updated.
  void count();

  NamedTensors parameters_;
  std::vector<Tensor> averages_;
  double decay_;
  bool warm_up_;
  int64_t updates_ = 0;
  bool swapped_ = false;
};

/// Evaluates with the averages while it lives.
class EmaScope {
 public:
  explicit EmaScope(Ema* ema) : ema_(ema) {
    if (ema_) ema_->swap();
  }
  ~EmaScope() {
    if (ema_) ema_->swap();
  }
  EmaScope(const EmaScope&) = delete;
  EmaScope& operator=(const EmaScope&) = delete;

 private:
  Ema* ema_;
};

}  // namespace flowgrad
