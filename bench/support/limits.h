#pragma once

namespace flowgrad::bench {

/// Queues a kernel whose every thread does 2 * `rounds` * 8 operations in registers; returns the
/// operations of the launch.
double launch_multiply_adds(float* sink, int blocks, int rounds);

}  // namespace flowgrad::bench
