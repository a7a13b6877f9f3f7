#pragma once

namespace flowgrad {

/// What to look for after every recorded operation and every backward rule.
enum class AnomalyCheck { off, nan, non_finite };

/// Per-thread switches of the tape.
struct Mode {
  bool recording = true;
  bool fused = true;
  AnomalyCheck anomaly = AnomalyCheck::off;
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

/// While this lives, operations that have a fused kernel and a twin of plain operations take the
/// kernel where a device has it (on, the default), or always the twin (off).
class Fused {
 public:
  explicit Fused(bool on) : previous_(mode().fused) { mode().fused = on; }
  ~Fused() { mode().fused = previous_; }
  Fused(const Fused&) = delete;
  Fused& operator=(const Fused&) = delete;

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
