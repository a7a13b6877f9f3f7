#pragma once

namespace flowgrad {

/// While one lives, SIGINT and SIGTERM set a flag instead of ending the process, a second one ends
/// it at once with exit code 128 + signal, and SIGPIPE is ignored. Guards nest: the outermost
/// installs, and restores what was there before.
class InterruptGuard {
 public:
  explicit InterruptGuard(bool install = true);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  /// The signal that came since the outermost guard was made; 0 when none did.
  static int signal();

 private:
  bool installed_;
};

}  // namespace flowgrad
