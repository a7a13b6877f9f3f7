#pragma once

#include <cstdint>

#include "flowgrad/kernels/gpu.cuh"

/// Integer arithmetic that wraps around: signed overflow is undefined in C++.
namespace flowgrad::kernels::scalar {

GPU_INLINE int64_t wrap(uint64_t x) { return static_cast<int64_t>(x); }
GPU_INLINE uint64_t bits(int64_t x) { return static_cast<uint64_t>(x); }

}  // namespace flowgrad::kernels::scalar
