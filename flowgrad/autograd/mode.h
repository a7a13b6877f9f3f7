#pragma once

namespace flowgrad {

/// What to look for after every recorded operation and every backward rule.
enum class AnomalyCheck { off, nan, non_finite };

/// Per-thread switches of the tape.
struct Mode {
  bool recording = true;
  AnomalyCheck anomaly = AnomalyCheck::off;
  bool fused_kernels = true;
};
Mode& mode();

/// Nothing is recorded while this lives. Restores the previous state, also when an exception
/// leaves.
class NoGrad {
 public:
  explicit NoGrad(bool off = true) : previous_(mode().recording) { mode().recording = !off; }
  ~NoGrad() { mode().recording = previous_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};

/// Records again inside a NoGrad.
class EnableGrad : public NoGrad {
 public:
  EnableGrad() : NoGrad(false) {}
};

/// Whether kernels stand for several operations, where the device has them: a whole solve, which
/// rounds differently, or a product and its epilogue, which does not.
inline bool fused_kernels() { return mode().fused_kernels; }

/// Turns them off, or on, while this lives.
class FusedKernels {
 public:
  explicit FusedKernels(bool on) : previous_(mode().fused_kernels) { mode().fused_kernels = on; }
  ~FusedKernels() { mode().fused_kernels = previous_; }
  FusedKernels(const FusedKernels&) = delete;
  FusedKernels& operator=(const FusedKernels&) = delete;

 private:
  bool previous_;
};

/// While this lives, the first recorded operation whose value, or rule whose gradient, has a NaN
/// (or any non-finite value) raises GradError naming it.
class Anomaly {
 public:
  explicit Anomaly(AnomalyCheck check = AnomalyCheck::nan) : previous_(mode().anomaly) {
    mode().anomaly = check;
  }
  ~Anomaly() { mode().anomaly = previous_; }
  Anomaly(const Anomaly&) = delete;
  Anomaly& operator=(const Anomaly&) = delete;

 private:
  AnomalyCheck previous_;
};

}  // namespace flowgrad
