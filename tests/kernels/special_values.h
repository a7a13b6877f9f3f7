#pragma once

#include <limits>

namespace flowgrad::testing {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace flowgrad::testing
