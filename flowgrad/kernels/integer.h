#pragma once

#include <cstdint>

#include "flowgrad/core/host_device.h"

/// Integer arithmetic that wraps around, as NumPy's and PyTorch's: signed overflow is undefined in
/// C++.
namespace flowgrad::kernels::scalar {

FLOWGRAD_HOST_DEVICE inline int64_t wrap(uint64_t x) { return static_cast<int64_t>(x); }
FLOWGRAD_HOST_DEVICE inline uint64_t bits(int64_t x) { return static_cast<uint64_t>(x); }

/// By repeated squaring, for an exponent of at least 0.
FLOWGRAD_HOST_DEVICE inline int64_t power(int64_t base, int64_t exponent) {
  uint64_t result = 1;
  uint64_t factor = bits(base);
  for (int64_t e = exponent; e > 0; e >>= 1) {
    if (e & 1) result *= factor;
    factor *= factor;
  }
  return wrap(result);
}

}  // namespace flowgrad::kernels::scalar
