#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "flowgrad/core/host_device.h"

/// The functions that elementwise.def may use, for one scalar, on the host and in kernels; is_nan
/// and beats serve reductions alone. The vec forms are in cpu/isa/, the tensor forms in
/// autograd/expression.h; all mean the same.
namespace flowgrad::kernels {

/// Which zero wins over what is infinite or NaN where a cotangent meets a slope: neither, the
/// cotangent, or the slope.
enum Zero : std::uint8_t { WEAK, STRONG, FLAT };

namespace scalar {

using std::abs;
using std::atan2;
using std::ceil;
using std::cos;
using std::cosh;
using std::erf;
using std::erfc;
using std::exp;
using std::expm1;
using std::floor;
using std::log;
using std::log1p;
using std::pow;
using std::sin;
using std::sinh;
using std::sqrt;
using std::tan;
using std::tanh;

template <class T>
FLOWGRAD_HOST_DEVICE T select(bool c, T a, T b) {
  return c ? a : b;
}
/// -1, 0 or 1; NaN stays NaN.
template <class T>
FLOWGRAD_HOST_DEVICE T sign(T x) {
  return x > T(0) ? T(1) : (x < T(0) ? T(-1) : (x == T(0) ? T(0) : x));
}
/// Half to even, as PyTorch and NumPy.
template <class T>
FLOWGRAD_HOST_DEVICE T round(T x) {
  return std::nearbyint(x);
}
/// NaN in either operand gives NaN.
template <class T>
FLOWGRAD_HOST_DEVICE T max(T a, T b) {
  return a != a ? a : (a > b ? a : b);
}
template <class T>
FLOWGRAD_HOST_DEVICE T min(T a, T b) {
  return a != a ? a : (a < b ? a : b);
}
template <class T>
FLOWGRAD_HOST_DEVICE bool is_nan(T x) {
  return x != x;
}
/// True where `x` takes the place of the extreme `best`; NaN is the extreme of all.
template <class T>
FLOWGRAD_HOST_DEVICE bool beats(bool maximum, T x, T best) {
  // Without branches: lanes of a device take one way.
  return (!is_nan(best)) & (is_nan(x) | (maximum ? x > best : x < best));
}
/// Product where an exact zero in a wins over an infinite or NaN b.
template <class T>
FLOWGRAD_HOST_DEVICE T mul_zero(T a, T b) {
  return a == T(0) ? T(0) : a * b;
}
/// Quotient where an exact zero in a wins over any b.
template <class T>
FLOWGRAD_HOST_DEVICE T div_zero(T a, T b) {
  return a == T(0) ? T(0) : a / b;
}
template <class T>
FLOWGRAD_HOST_DEVICE T times_slope(Zero wins, T g, T slope) {
  if (wins == WEAK) return g * slope;
  return wins == STRONG ? mul_zero(g, slope) : mul_zero(slope, g);
}
template <class T>
FLOWGRAD_HOST_DEVICE T sigmoid(T x) {
  const T e = std::exp(-std::abs(x));
  return x >= T(0) ? T(1) / (T(1) + e) : e / (T(1) + e);
}
template <class T>
FLOWGRAD_HOST_DEVICE T softplus(T x) {
  return max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}
/// The divisor's sign, as Python's %.
template <class T>
FLOWGRAD_HOST_DEVICE T remainder(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    const T r = a % b;
    return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
  } else {
    const T r = std::fmod(a, b);
    return r != T(0) && ((r < T(0)) != (b < T(0))) ? r + b : r;
  }
}
template <class T>
FLOWGRAD_HOST_DEVICE T logaddexp(T a, T b) {
  if (a == b) return a + T(0.6931471805599453);
  return max(a, b) + std::log1p(std::exp(-std::abs(a - b)));
}

}  // namespace scalar
}  // namespace flowgrad::kernels
