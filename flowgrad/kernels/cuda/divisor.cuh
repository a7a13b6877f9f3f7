#pragma once

#include <cstdint>

#include "flowgrad/core/host_device.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels::cuda {

/// Division of numbers below 2^31 by a divisor known before, by one multiplication (Granlund and
/// Montgomery 1994). 0, of an axis without places, divides as 1.
struct Divisor {
  uint32_t value = 1;
  uint32_t multiplier = 1;
  uint32_t shift = 0;

  Divisor() = default;
  FLOWGRAD_HOST_DEVICE explicit Divisor(uint32_t given) : value(given == 0 ? 1 : given) {
    while ((uint64_t{1} << shift) < value) ++shift;
    const uint64_t power = uint64_t{1} << shift;
    multiplier = static_cast<uint32_t>((power - value) * (uint64_t{1} << 32) / value + 1);
  }
  GPU_INLINE uint32_t divide(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }

  struct Parts {
    int quotient, rest;
  };
  /// Of n, which is not negative.
  GPU_INLINE Parts split(int n) const {
    const auto quotient = static_cast<int>(divide(static_cast<uint32_t>(n)));
    return {quotient, n - quotient * static_cast<int>(value)};
  }
};

}  // namespace flowgrad::kernels::cuda
