#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace flowgrad {

struct ProgressState {
  int64_t step = 0;
  int64_t steps = 0;
  double loss = 0;
  double steps_per_second = 0;
};

/// Where a training tells how it is going.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  /// Called after every step; the sink decides what it shows.
  virtual void update(const ProgressState& state) = 0;
  /// A line that must not be lost.
  virtual void message(const std::string& text) = 0;
  /// After the last update: shows the final state.
  virtual void finish(const ProgressState& state) = 0;
};

/// "step 1200/5000  loss 2.431  812 it/s  ETA 0:04".
std::string progress_text(const ProgressState& state);

/// Writes to a file descriptor (2 is stderr): on a terminal one line that is redrawn, elsewhere a
/// plain line every `seconds_between_lines` and at the end. Quiet shows messages only. A closed
/// pipe or a full device is not an error.
std::unique_ptr<ProgressSink> make_progress(bool quiet = false, int fd = 2,
                                            double seconds_between_lines = 10);

}  // namespace flowgrad
