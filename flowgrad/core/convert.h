#pragma once

#include <limits>
#include <type_traits>

#include "flowgrad/core/dtype.h"

namespace flowgrad {

/// Conversion between element types. Out-of-range values saturate and NaN becomes 0 for integers,
/// where the language leaves the result undefined.
template <class To, class From>
FLOWGRAD_HOST_DEVICE To convert(From x) {
  if constexpr (std::is_same_v<From, To>) {
    return x;
  } else if constexpr (std::is_same_v<From, bfloat16>) {
    return convert<To>(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bfloat16>) {
    return bfloat16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    if (x != x) return To(0);
    if (x >= From(0x1p63)) return std::numeric_limits<To>::max();
    if (x < From(-0x1p63)) return std::numeric_limits<To>::min();
    return static_cast<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

}  // namespace flowgrad
