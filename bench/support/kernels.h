#pragma once

#include <cstdint>

namespace flowgrad::bench {

/// Queues a kernel whose every thread does 2 * `rounds` * 8 operations in registers; returns the
/// operations of the launch.
double launch_multiply_adds(float* sink, int blocks, int rounds);

/// out[i] = x[i] rounded to bfloat16.
void launch_round_bf16(const float* x, uint16_t* out, int64_t n);

}  // namespace flowgrad::bench
