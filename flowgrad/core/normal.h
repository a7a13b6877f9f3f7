#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "flowgrad/core/random.h"

#if !defined(FLOWGRAD_NORMAL_FUNCTION)
#define FLOWGRAD_NORMAL_FUNCTION FLOWGRAD_HOST_DEVICE inline
#endif

/// The one Box-Muller transform (Box and Muller 1958). Every backend draws normals with this code,
/// so equal words give equal bits everywhere: it consists of + - * / sqrt, integer steps and
/// conversions, one rounding each, without branches.
///
/// F is float, double, or a compiler vector of them; words are uint32_t (float) or uint64_t
/// (double), or vectors of these. `mul` keeps a product from being fused with the sum that consumes
/// it. GCC loses that barrier where it vectorises a loop by itself, and takes a vector apart to
/// build it, so code over vectors or loops must be compiled with -ffp-contract=off, as all here is.
namespace flowgrad::normal {

template <class F>
struct Pair {
  F first, second;
};

template <class F>
FLOWGRAD_NORMAL_FUNCTION F mul(F a, F b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(F) == 4) {
    return __fmul_rn(a, b);
  } else {
    return __dmul_rn(a, b);
  }
#elif defined(__clang__)
#pragma clang fp contract(off)
  return a * b;
#else
  if constexpr (std::is_arithmetic_v<F>) return __builtin_assoc_barrier(a * b);
  return a * b;
#endif
}

template <class F>
struct LaneOf {
  using type = std::remove_cvref_t<decltype(F{}[0])>;
};
template <class F>
requires std::is_arithmetic_v<F>
struct LaneOf<F> {
  using type = F;
};
/// Element type of a vector; a scalar is its own.
template <class F>
using Lane = typename LaneOf<F>::type;

/// A constant in every lane.
template <class F, class S>
FLOWGRAD_NORMAL_FUNCTION F lanes(S value) {
  if constexpr (std::is_arithmetic_v<F>) {
    return static_cast<F>(value);
  } else {
    return F{} + static_cast<Lane<F>>(value);
  }
}

/// Conversion of words, read as signed, to floating point: one rounding a lane.
template <class F, class U>
FLOWGRAD_NORMAL_FUNCTION F to_floating(U x) {
  if constexpr (std::is_arithmetic_v<F>) {
    return static_cast<F>(static_cast<std::make_signed_t<U>>(x));
  } else {
#if !defined(__CUDA_ARCH__)
    return __builtin_convertvector((decltype(x < x))x, F);
#endif
  }
}

template <class To, class From>
FLOWGRAD_NORMAL_FUNCTION To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  __builtin_memcpy(&out, &x, sizeof out);
  return out;
}

template <class F>
FLOWGRAD_NORMAL_FUNCTION F square_root(F x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(F) == 4) {
    return __fsqrt_rn(x);
  } else {
    return __dsqrt_rn(x);
  }
#else
  if constexpr (std::is_arithmetic_v<F>) {
    return std::sqrt(x);
  } else {
    F out{};
    for (unsigned i = 0; i < sizeof(F) / sizeof(x[0]); ++i) out[i] = std::sqrt(x[i]);
    return out;
  }
#endif
}

/// c[0] + c[1] z + c[2] z^2 + ...
template <class F, int n, class S>
FLOWGRAD_NORMAL_FUNCTION F polynomial(F z, const S (&c)[n]) {
  F y = lanes<F>(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) y = mul(y, z) + lanes<F>(c[i]);
  return y;
}

/// Mean and deviation applied to a standard normal, or low and width to a uniform: z * scale +
/// shift.
template <class F>
FLOWGRAD_NORMAL_FUNCTION F affine(F z, F scale, F shift) {
  return mul(z, scale) + shift;
}

/// radius * (cos, sin) of an angle given as quadrant * pi/2 + rest, from cosine and sine of the
/// rest.
template <class U, class F>
FLOWGRAD_NORMAL_FUNCTION Pair<F> turn(U quadrant, F radius, F cosine, F sine) {
  constexpr int kToTop = sizeof(Lane<F>) == 8 ? 62 : 30;
  const U swap = lanes<U>(0) - (quadrant & lanes<U>(1));  // all ones where the axes swap
  const U c = bits_as<U>(mul(radius, cosine));
  const U s = bits_as<U>(mul(radius, sine));
  const U minus_first = ((quadrant + lanes<U>(1)) & lanes<U>(2)) << kToTop;
  const U minus_second = (quadrant & lanes<U>(2)) << kToTop;
  return {bits_as<F>(((c & ~swap) | (s & swap)) ^ minus_first),
          bits_as<F>(((s & ~swap) | (c & swap)) ^ minus_second)};
}

/// Two independent standard normals from two 32-bit words; relative error about 2e-7, largest
/// magnitude 6.55. The polynomials are those of Cephes' logf, sinf and cosf (Moshier 1989).
template <class F, class U>
FLOWGRAD_NORMAL_FUNCTION Pair<F> box_muller32(U word0, U word1) {
  // u = (2k + 1) 2^-31 with k from the upper 30 bits: never 0. x = u 2^31.
  const F x = to_floating<F>((word0 >> 1) | lanes<U>(1));
  const U raw = bits_as<U>(x);
  const U exponent = (raw - lanes<U>(0x3f3504f3u)) >> 23;  // x = 2^exponent (1 + f), 1 + f near 1
  const F f = bits_as<F>(raw - (exponent << 23)) - lanes<F>(1.0f);
  const F e = to_floating<F>(exponent) - lanes<F>(31.0f);
  constexpr float kLog[] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,
                            -1.6668057665e-1f, 1.4249322787e-1f,  -1.2420140846e-1f,
                            1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
  const F ff = mul(f, f);
  F log_u = mul(mul(polynomial(f, kLog), f), ff);
  log_u = log_u + mul(e, lanes<F>(-2.12194440e-4f));
  log_u = log_u - mul(ff, lanes<F>(0.5f));
  log_u = (f + log_u) + mul(e, lanes<F>(0.693359375f));
  const F radius = square_root(mul(log_u, lanes<F>(-2.0f)));

  // The angle 2 pi word1 / 2^32 as a quadrant and a rest in [-pi/4, pi/4).
  const U quadrant = (word1 + lanes<U>(0x20000000u)) >> 30;
  const F rest = to_floating<F>(word1 - (quadrant << 30));
  const F a = mul(rest, lanes<F>(1.4629180792671596e-9f));
  const F aa = mul(a, a);
  constexpr float kSin[] = {-1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f};
  constexpr float kCos[] = {4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f};
  const F sine = a + mul(mul(polynomial(aa, kSin), aa), a);
  const F cosine =
      (mul(mul(polynomial(aa, kCos), aa), aa) - mul(aa, lanes<F>(0.5f))) + lanes<F>(1.0f);
  return turn(quadrant, radius, cosine, sine);
}

/// Two independent standard normals from two 64-bit words; relative error about 1e-15, largest
/// magnitude 8.57. The polynomials are those of fdlibm's log, sin and cos (Sun Microsystems 1993).
template <class F, class U>
FLOWGRAD_NORMAL_FUNCTION Pair<F> box_muller64(U word0, U word1) {
  // u = (k + 1/2) 2^-52 with k the upper 52 bits, by way of 1.k: exact, and never 0.
  constexpr uint64_t kOne = 0x3ff0000000000000u;
  const F u = (bits_as<F>((word0 >> 12) | lanes<U>(kOne)) - lanes<F>(1.0)) + lanes<F>(0x1p-53);
  const U raw = bits_as<U>(u);
  constexpr uint64_t kBias = 64;  // keeps the exponent, -53 to 0, above zero
  const U biased = (raw - lanes<U>(0x3fe6a09e667f3bcdu - (kBias << 52))) >> 52;
  const F f = bits_as<F>(raw - ((biased - lanes<U>(kBias)) << 52)) - lanes<F>(1.0);
  const F e = bits_as<F>(biased | lanes<U>(0x4330000000000000u)) - lanes<F>(0x1p52 + 64.0);
  constexpr double kLog[] = {6.666666666666735130e-01, 3.999999999940941908e-01,
                             2.857142874366239149e-01, 2.222219843214978396e-01,
                             1.818357216161805012e-01, 1.531383769920937332e-01,
                             1.479819860511658591e-01};
  const F s = f / (f + lanes<F>(2.0));
  const F ss = mul(s, s);
  const F half = mul(mul(f, f), lanes<F>(0.5));
  const F tail =
      mul(s, half + mul(polynomial(ss, kLog), ss)) + mul(e, lanes<F>(1.90821492927058770002e-10));
  const F log_u = mul(e, lanes<F>(6.93147180369123816490e-01)) - ((half - tail) - f);
  const F radius = square_root(mul(log_u, lanes<F>(-2.0)));

  // The angle in units of 2^-54 turns, as a quadrant and a rest of (fraction - 1/2) quarter turns.
  const U angle = (word1 >> 10) + lanes<U>(uint64_t{1} << 51);
  const U quadrant = angle >> 52;
  const U fraction = angle & lanes<U>((uint64_t{1} << 52) - 1);
  const F rest = bits_as<F>(fraction | lanes<U>(kOne)) - lanes<F>(1.5);
  const F a = mul(rest, lanes<F>(1.5707963267948966));
  const F aa = mul(a, a);
  constexpr double kSin[] = {-1.66666666666666324348e-01, 8.33333333332248946124e-03,
                             -1.98412698298579493134e-04, 2.75573137070700676789e-06,
                             -2.50507602534068634195e-08, 1.58969099521155010221e-10};
  constexpr double kCos[] = {4.16666666666666019037e-02, -1.38888888888741095749e-03,
                             2.48015872894767294178e-05, -2.75573143513906633035e-07,
                             2.08757232129817482790e-09, -1.13596475577881948265e-11};
  const F sine = a + mul(mul(polynomial(aa, kSin), aa), a);
  const F low = mul(aa, lanes<F>(0.5));
  const F top = lanes<F>(1.0) - low;
  const F cosine = top + (((lanes<F>(1.0) - top) - low) + mul(mul(polynomial(aa, kCos), aa), aa));
  return turn(quadrant, radius, cosine, sine);
}

FLOWGRAD_HOST_DEVICE constexpr uint64_t join(uint32_t high, uint32_t low) {
  return (uint64_t{high} << 32) | low;
}

/// Element `index` of a tensor of standard normals of type T drawn from (seed, stream).
template <class T>
FLOWGRAD_NORMAL_FUNCTION T element(uint64_t seed, uint64_t stream, uint64_t index) {
  constexpr uint64_t kInBlock = 16 / sizeof(T);
  const Philox::Block w = Philox::block(seed, stream, index / kInBlock);
  Pair<T> z;
  if constexpr (sizeof(T) == 4) {
    const bool upper = (index & 2) != 0;
    z = box_muller32<T>(upper ? w[2] : w[0], upper ? w[3] : w[1]);
  } else {
    z = box_muller64<T>(join(w[0], w[1]), join(w[2], w[3]));
  }
  return affine((index & 1) != 0 ? z.second : z.first, T(1), T(0));
}

}  // namespace flowgrad::normal

namespace flowgrad {

// The draws of float64 and int64 tensors, one at a time, for code that has no use for a tensor.

/// Draw `index` of (seed, stream), uniform in [0, 1).
inline double uniform_at(uint64_t seed, uint64_t stream, uint64_t index) {
  const Philox::Block w = Philox::block(seed, stream, index / 2);
  return index % 2 == 0 ? uniform53(w[0], w[1]) : uniform53(w[2], w[3]);
}

/// Draw `index` of (seed, stream), standard normal.
inline double normal_at(uint64_t seed, uint64_t stream, uint64_t index) {
  return normal::element<double>(seed, stream, index);
}

/// A 64-bit word as an integer in [0, count): the high half of their 128-bit product, from 32-bit
/// halves. The bias is at most count / 2^64.
FLOWGRAD_HOST_DEVICE constexpr uint64_t integer_of(uint64_t x, uint64_t count) {
  const uint64_t low = (x & 0xffffffffu) * (count & 0xffffffffu);
  const uint64_t middle = (x >> 32) * (count & 0xffffffffu) + (low >> 32);
  const uint64_t other = (x & 0xffffffffu) * (count >> 32) + (middle & 0xffffffffu);
  return (x >> 32) * (count >> 32) + (middle >> 32) + (other >> 32);
}

/// Draw `index` of (seed, stream), an integer in [0, count).
inline uint64_t integer_at(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count) {
  const Philox::Block w = Philox::block(seed, stream, index / 2);
  return integer_of(index % 2 == 0 ? normal::join(w[0], w[1]) : normal::join(w[2], w[3]), count);
}

}  // namespace flowgrad
