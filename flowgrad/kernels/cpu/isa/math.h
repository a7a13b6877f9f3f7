#pragma once
// The functions that elementwise.def names, on vec: hyperbolic, sigmoid family, error functions,
// powers. Bounds: 2.5 ulp each (tests/kernels/math_test.cpp measures them).

#include "flowgrad/kernels/cpu/isa/math_exp.h"
#include "flowgrad/kernels/cpu/isa/math_trig.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// The sign of s on an x that has none or the same.
template <class T, int N>
FG_INLINE vec<T, N> with_sign_of(vec<T, N> s, vec<T, N> x) {
  return from_bits<T, N>(to_bits(x) | (to_bits(s) & (BitsOf<T>(1) << (sizeof(T) * 8 - 1))));
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
  const V e = exp_of_negative(V(-2) * a);
  const V large = (V(1) - e) / (V(1) + e);
  // What is small has its sign by itself, but for a zero.
  return with_sign_of(x, select(a < V(0.625f), small, large));
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

/// e^(t^2) erfc(t) for 0 <= t <= 10.2, to 1e-10 relative: a polynomial in (t - 2) / (t + 2) over
/// 1 + 2t (the form of Shepherd and Laframboise 1981).
template <int N>
FG_INLINE vec<double, N> erfcx_polynomial(vec<double, N> t) {
  using V = vec<double, N>;
  const V w = (t - V(2)) / (t + V(2));
  return horner(w, 1.27697838162872523e+00, -9.27638260621596877e-02, -1.66030408638105975e-01,
                1.64051251318220681e-01, -5.42197462767039853e-02, -8.03351503357607397e-03,
                8.72053890206061708e-03, 1.26737115990623191e-03, -1.44922493899585854e-03,
                -4.38504405123185421e-04, 1.95859427348951172e-04, 1.19670022024897163e-04,
                -3.12766523813311381e-06, -1.01746260215963301e-05) /
         fma(V(2), t, V(1));
}
/// erfc good to a float.
template <int N>
FG_INLINE vec<double, N> erfc_of_float(vec<double, N> x) {
  using V = vec<double, N>;
  const V a = abs(x), t = select(a > V(10.2), V(10.2), a);
  // Beyond 10.2 it is less than half the smallest float.
  const V y = select(a > V(10.2), V(0), exp_of_negative(-(t * t)) * erfcx_polynomial(t));
  return select(x < V(0), V(2) - y, y);
}

template <int N>
FG_INLINE vec<float, N> erf(vec<float, N> x) {
  using V = vec<float, N>;
  const V a = abs(x), z = x * x;
  const V small = fma(x,
                      horner(z, 1.283791512e-01f, -3.761248887e-01f, 1.128175408e-01f,
                             -2.676399425e-02f, 4.988905974e-03f, -5.967310863e-04f),
                      x);
  // 1 - e^-g with g = -log erfc.
  const V t = select(a > V(4), V(4), a);
  const V g = horner(t, -3.628993290e-04f, 1.130446672e+00f, 6.313738823e-01f, 1.106159911e-01f,
                     -2.681335434e-02f, 4.943877924e-03f, -6.525363424e-04f, 5.654669076e-05f,
                     -2.754702791e-06f, 5.148567439e-08f);
  const V large = copysign(V(1) - exp_of_negative(-g), x);
  return select(a < V(0.9296875f), small, select(x == x, large, x));
}
template <int N>
FG_INLINE vec<float, N> erfc(vec<float, N> x) {
  const auto h = widen(x);
  return select(x == x, narrow<N>(erfc_of_float(h.low), erfc_of_float(h.high)), x);
}
template <int N>
FG_INLINE vec<double, N> erf(vec<double, N> x) {
  return per_lane(x, [](double v) { return __builtin_erf(v); });
}
template <int N>
FG_INLINE vec<double, N> erfc(vec<double, N> x) {
  return per_lane(x, [](double v) { return __builtin_erfc(v); });
}

/// x Phi(x). Through erfc(-x / sqrt 2) in float, the rounding of the argument alone would cost 80
/// ulp in the left tail.
template <int N>
FG_INLINE vec<double, N> gelu_of_float(vec<double, N> x) {
  using V = vec<double, N>;
  return V(0.5) * x * erfc_of_float(x * V(-0.7071067811865476));
}
template <int N>
FG_INLINE vec<float, N> gelu(vec<float, N> x) {
  const auto h = widen(x);
  return select(x == x, narrow<N>(gelu_of_float(h.low), gelu_of_float(h.high)), x);
}
template <int N>
FG_INLINE vec<double, N> gelu(vec<double, N> x) {
  using V = vec<double, N>;
  // 1 / sqrt 2 in three parts, so that what the product with x loses is known: u + lost is exact to
  // 2^-100, and the loss enters through the derivative of erfc.
  const V high(0x1.6a09e6p-1), low(0x1.9fcef34p-27), rest(-4.833646656726457e-17);
  const V u = x * V(0.7071067811865476);
  const V x_high = from_bits<double, N>(to_bits(x) & ~std::int64_t{0x7ffffff}), x_low = x - x_high;
  const V lost = (((x_high * high - u) + x_high * low) + x_low * high) + (x_low * low + x * rest);
  const V slope = V(1.1283791670955126) * exp(-(u * u));
  const V correction = select(abs(x) < V(40), slope * lost, V(0));
  return V(0.5) * x * (erfc(-u) + correction);
}

/// |x|^y good to a float, for finite x and y, x not zero.
template <int N>
FG_INLINE vec<double, N> pow_of_floats(vec<double, N> x, vec<double, N> y) {
  using V = vec<double, N>;
  const auto l = reduce_log(abs(x));
  return exp(y * log_of(l.f, l.e, V(0)));
}
template <int N>
FG_INLINE vec<float, N> pow(vec<float, N> x, vec<float, N> y) {
  using V = vec<float, N>;
  const auto hx = widen(x), hy = widen(y);
  V result = narrow<N>(pow_of_floats(hx.low, hy.low), pow_of_floats(hx.high, hy.high));
  const V whole = floor(y), half = y * V(0.5f);
  const V negative =
      select(y == whole, select(half == floor(half), result, -result), V(Format<float>::nan));
  result = select(x < V(0), negative, result);
  const V infinity = V(Format<float>::infinity);
  const mask<float, N> edge = !((x != V(0)) & (abs(x) < infinity) & (abs(y) < infinity));
  if (__builtin_expect(any(edge), 0))
    result =
        select(edge, per_lane(x, y, [](float a, float b) { return __builtin_powf(a, b); }), result);
  return result;
}
template <int N>
FG_INLINE vec<double, N> pow(vec<double, N> x, vec<double, N> y) {
  return per_lane(x, y, [](double a, double b) { return __builtin_pow(a, b); });
}

/// The divisor's sign, as Python's %.
template <class T, int N>
FG_INLINE vec<T, N> remainder(vec<T, N> a, vec<T, N> b) {
  using V = vec<T, N>;
  const V r = per_lane(a, b, [](T x, T y) {
    if constexpr (sizeof(T) == 4)
      return __builtin_fmodf(x, y);
    else
      return __builtin_fmod(x, y);
  });
  const mask<T, N> r_negative = r < V(0), b_negative = b < V(0);
  const mask<T, N> differ = {r_negative.m ^ b_negative.m};
  return select(differ & (r != V(0)), r + b, r);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
