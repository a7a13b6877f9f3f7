#pragma once
// The functions that elementwise.def names, on vec: hyperbolic, sigmoid family, powers. Bounds:
// 2.5 ulp each (tests/kernels/math_test.cpp measures them).

#include "flowgrad/kernels/cpu/isa/math_erf.h"
#include "flowgrad/kernels/cpu/isa/math_trig.h"
#include "flowgrad/kernels/functions.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// The sign of s on an x that has none or the same.
template <class T, int N>
FG_INLINE vec<T, N> with_sign_of(vec<T, N> s, vec<T, N> x) {
  return from_bits<T, N>(to_bits(x) | (to_bits(s) & (BitsOf<T>(1) << (sizeof(T) * 8 - 1))));
}

/// e^-2x for x in [0, 10] (NaN gives any number), good to a few digits less above 1/2 than below
/// it: one part of ln 2 is enough there.
template <int N>
FG_INLINE vec<float, N> exp_of_minus_twice(vec<float, N> x) {
  using V = vec<float, N>;
  const V shifted = fma(x, V(-2 * 1.44269504f), V(Format<float>::round_magic));
  const V r = fma(shifted - V(Format<float>::round_magic), V(0.5f * 0.693147182f), x);
  const V p = horner(r, 1.0f, -2.0f, 4 * kExpTail[0], -8 * kExpTail[1], 16 * kExpTail[2],
                     -32 * kExpTail[3], 64 * kExpTail[4]);
  return from_bits<float, N>(wrap_add<float, N>(to_bits(p), to_bits(shifted) << 23));
}

template <int N>
FG_INLINE vec<float, N> tanh(vec<float, N> x) {
  using V = vec<float, N>;
  const V a = abs(x), z = x * x;
  const V small = fma(x * z,
                      horner(z, -3.333332837e-01f, 1.333276927e-01f, -5.385090783e-02f,
                             2.099717967e-02f, -6.096714176e-03f),
                      x);
  // 1 - 2 / (e^2a + 1), written with the small exponential.
  const V e = exp_of_minus_twice(smaller(V(10), a));
  const V large = (V(1) - e) / (V(1) + e);
  // What is small has its sign by itself, but for a zero; and a NaN is kept by `small` alone.
  return with_sign_of(x, select(a >= V(0.625f), large, small));
}
template <int N>
FG_INLINE vec<double, N> tanh(vec<double, N> x) {
  using V = vec<double, N>;
  const V a = abs(x);
  const V t = expm1(V(2) * select(a > V(20), V(20), a));
  return copysign(t / (t + V(2)), x);
}

template <class T, int N>
FG_INLINE vec<T, N> sinh(vec<T, N> x) {
  using V = vec<T, N>;
  constexpr T top = sizeof(T) == 4 ? T(64) : T(512);
  const V a = abs(x);
  const V t = expm1(select(a > V(top), V(top), a));
  const V small = V(0.5) * (t + t / (t + V(1)));
  // e^(a-1) (e/2): a - 1 is exact here, and nothing overflows before the result does.
  const V large = exp(a - V(1)) * V(1.3591409142295225);
  return copysign(select(a > V(top), large, small), x);
}
template <class T, int N>
FG_INLINE vec<T, N> cosh(vec<T, N> x) {
  using V = vec<T, N>;
  constexpr T top = sizeof(T) == 4 ? T(64) : T(512);
  const V a = abs(x);
  const V e = exp(select(a > V(top), V(top), a));
  const V small = fma(V(0.5), e, V(0.5) / e);
  const V large = exp(a - V(1)) * V(1.3591409142295225);
  return select(a > V(top), large, small);
}

template <class T, int N>
FG_INLINE vec<T, N> sigmoid(vec<T, N> x) {
  using V = vec<T, N>;
  const V e = exp(-abs(x));
  return select(x >= V(0), V(1), e) / (V(1) + e);
}
/// x sigmoid(x) as x / (1 + e^-x), which rounds once less; far out, where e^-x overflows, as x e^x.
template <class T, int N>
FG_INLINE vec<T, N> silu(vec<T, N> x) {
  using V = vec<T, N>;
  const mask<T, N> far = x < V(sizeof(T) == 4 ? -87 : -708);
  const V e = exp(select(far, x, -x));
  return select(far, x * e, x / (V(1) + e));
}
template <class T, int N>
FG_INLINE vec<T, N> softplus(vec<T, N> x) {
  using V = vec<T, N>;
  return max(x, V(0)) + log1p(exp(-abs(x)));
}
template <class T, int N>
FG_INLINE vec<T, N> logaddexp(vec<T, N> a, vec<T, N> b) {
  using V = vec<T, N>;
  const V y = max(a, b) + log1p(exp(-abs(a - b)));
  return select(a == b, a + V(0.6931471805599453), y);
}

/// Product where an exact zero in a wins over an infinite or NaN b.
template <class T, int N>
FG_INLINE vec<T, N> mul_zero(vec<T, N> a, vec<T, N> b) {
  using V = vec<T, N>;
  return select(a == V(0), V(0), a * b);
}
template <class T, int N>
FG_INLINE vec<T, N> times_slope(Zero wins, vec<T, N> g, vec<T, N> slope) {
  if (wins == WEAK) return g * slope;
  return wins == STRONG ? mul_zero(g, slope) : mul_zero(slope, g);
}
/// Quotient where an exact zero in a wins over any b.
template <class T, int N>
FG_INLINE vec<T, N> div_zero(vec<T, N> a, vec<T, N> b) {
  using V = vec<T, N>;
  return select(a == V(0), V(0), a / b);
}

/// x^y from |x|^y: no number where x is negative and y not whole.
template <class T, int N>
FG_INLINE vec<T, N> sign_of_power(vec<T, N> x, vec<T, N> y, vec<T, N> result) {
  using V = vec<T, N>;
  const V half = y * V(0.5);
  const V negative =
      select(y == floor(y), select(half == floor(half), result, -result), V(Format<T>::nan));
  return select(x < V(0), negative, result);
}

/// |x|^y good to a float, for finite x and y, x not zero: y times a logarithm good to 2^-37, in the
/// exponential of at most 2^-34. Its range is a float's, so that one factor scales it.
template <int N>
FG_INLINE vec<double, N> pow_of_floats(vec<double, N> x, vec<double, N> y) {
  using V = vec<double, N>;
  const auto l = reduce_log(abs(x));
  const V s = l.f / (V(2) + l.f), z = s * s;
  const V p = horner(z, 6.66666656444783956e-01, 4.00003354210297424e-01, 2.85372932357525921e-01,
                     2.35824553214257798e-01);
  const V log = fma(l.e, V(0.6931471805599453), fma(s * z, p, s + s));
  const auto e = reduce_exp(clamp_keeping_nan(y * log, -120., 120.));
  const V tail =
      horner(e.r, 5.00000006801574970e-01, 1.66666658615038127e-01, 4.16662936696560529e-02,
             8.33349828694013826e-03, 1.39447574764364865e-03, 1.97899510272826485e-04);
  return (fma(e.r * e.r, tail, e.r) + V(1)) * power_of_two<double, N>(e.bits);
}
template <int N>
FG_INLINE vec<float, N> pow(vec<float, N> x, vec<float, N> y) {
  using V = vec<float, N>;
  const auto hx = widen(x), hy = widen(y);
  const V result = sign_of_power(
      x, y, narrow<N>(pow_of_floats(hx.low, hy.low), pow_of_floats(hx.high, hy.high)));
  const V infinity = V(Format<float>::infinity);
  const mask<float, N> edge = !((x != V(0)) & (abs(x) < infinity) & (abs(y) < infinity));
  return rare_lanes(
      edge, result, [](float a, float b) { return __builtin_powf(a, b); }, x, y);
}

/// log(x) good to 2^-65, for positive normal x: twice the artanh of s = f / (2 + f), whose first
/// two terms keep what their rounding lost.
template <int N>
FG_INLINE Pair<vec<double, N>> log_of_two_parts(vec<double, N> x) {
  using V = vec<double, N>;
  using F = Format<double>;
  const auto l = reduce_log(x);
  const Pair<V> divisor = fast_two_sum(V(2), l.f);
  const V inverse = V(1) / divisor.high, s = l.f * inverse;
  const V s_low = (residual(l.f, s, divisor.high) - s * divisor.low) * inverse;
  const V z = s * s, z_low = fma(s + s, s_low, -residual(z, s, s));
  const V cube = z * s, cube_low = fma(z_low, s, fma(z, s_low, -residual(cube, z, s)));
  constexpr double two_thirds = 0x1.5555555555555p-1, two_thirds_low = 0x1.5555555555555p-55;
  const V third = cube * V(two_thirds);
  const V third_low = fma(cube, V(two_thirds_low),
                          fma(cube_low, V(two_thirds), -residual(third, cube, V(two_thirds))));
  const V tail = two_chains(z, 2. / 5, 2. / 7, 2. / 9, 2. / 11, 2. / 13, 2. / 15, 2. / 17, 2. / 19,
                            2. / 21, 2. / 23);
  const Pair<V> sum = fast_two_sum(s + s, third);
  const V low = fma(cube * z, tail, sum.low + fma(V(2), s_low, third_low));
  const Pair<V> total = fast_two_sum(l.e * V(F::ln2_hi), sum.high);
  return {total.high, total.low + fma(l.e, V(F::ln2_lo), low)};
}
template <int N>
FG_INLINE vec<double, N> pow(vec<double, N> x, vec<double, N> y) {
  using V = vec<double, N>;
  const V a = abs(x);
  const Pair<V> log = log_of_two_parts(a);
  const V exponent = y * log.high;
  const auto e = reduce_exp(exponent, fma(y, log.low, -residual(exponent, y, log.high)));
  const V result = (fma(e.r * e.r, exp_tail(e.r), e.r) + V(1)) * power_of_two<double, N>(e.bits);
  const mask<double, N> plain = (a >= V(Format<double>::min_normal)) &
                                (a < V(Format<double>::infinity)) & (abs(exponent) < V(700));
  return rare_lanes(
      !plain, sign_of_power(x, y, result), [](double a, double b) { return __builtin_pow(a, b); },
      x, y);
}

/// The divisor's sign, as Python's %. The remainder of magnitudes is exact where the quotient is
/// short enough for its product with b to be (or to be formed without rounding); others go to libm.
template <class T, int N>
FG_INLINE vec<T, N> remainder(vec<T, N> a, vec<T, N> b) {
  using V = vec<T, N>;
#if defined(__FMA__)
  constexpr T most = sizeof(T) == 4 ? T(0x1p22) : T(0x1p51);
#else
  constexpr T most = sizeof(T) == 4 ? T(0x1p10) : T(0x1p24);
#endif
  const V m = abs(a), d = abs(b), ratio = m / d;
  V r = residual(m, floor(ratio), d);
  // The quotient may have been rounded up to the next whole number.
  r = select(r < V(0), r + d, r);
  r = with_sign_of(a, select(m < d, m, r));
  const auto exact = [](T x, T y) {
    if constexpr (sizeof(T) == 4)
      return __builtin_fmodf(x, y);
    else
      return __builtin_fmod(x, y);
  };
  r = rare_lanes(!(ratio < V(most)), r, exact, a, b);
  const mask<T, N> r_negative = r < V(0), b_negative = b < V(0);
  const mask<T, N> differ = {r_negative.m ^ b_negative.m};
  return select(differ & (r != V(0)), r + b, r);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
