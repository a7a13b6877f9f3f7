#pragma once

#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Exponential moving average of parameters: average = d average + (1 - d) value, with
/// d = min(decay, (1 + updates) / (10 + updates)), so that the first steps count.
class Ema {
 public:
  /// Copies the parameters; ValueError for a decay outside [0, 1).
  Ema(NamedTensors parameters, double decay);

  void update();
  /// Exchanges averages and parameters; called twice it restores. Only between update() calls.
  void swap();
  bool swapped() const { return swapped_; }

  /// The averages by parameter name, and "updates" (int64).
  NamedTensors state_dict() const;
  /// Strict: IoError for a missing or extra entry or a wrong shape.
  void load_state_dict(const NamedTensors& state);

 private:
  NamedTensors parameters_;
  std::vector<Tensor> averages_;
  double decay_;
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
