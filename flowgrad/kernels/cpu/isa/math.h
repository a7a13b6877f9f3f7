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

// Error functions: erfc(t) = e^(-t^2) h(t) for t >= 0 with h(t) = q R(q), q = k / (t + k), the
// variable of Shepherd and Laframboise (1981): R is smooth over the whole half-line.

template <class T>
constexpr T kErfcScale = sizeof(T) == 4 ? T(3) : T(4);

template <int N>
FG_INLINE Pair<vec<float, N>> erfc_ratio(vec<float, N> q) {
  using V = vec<float, N>;
  const V w = q - V(0.49609375);
  return fast_two_sum(
      V(3.557137549e-01f),
      w * horner(w, 5.828191638e-01f, 7.773272395e-01f, 8.179940581e-01f, 6.318880320e-01f,
                 2.868166566e-01f, -2.252036892e-02f, -1.296610683e-01f, -4.386544600e-02f,
                 5.407653376e-02f, 2.399082063e-03f));
}
template <int N>
FG_INLINE Pair<vec<double, N>> erfc_ratio(vec<double, N> q) {
  using V = vec<double, N>;
  const V w = q - V(0.4599609375);
  return fast_two_sum(
      V(2.55622249348124941e-01),
      w * horner(w, 4.31236976335603150e-01, 6.55158332172099844e-01, 8.90577571831468018e-01,
                 1.07227883713434013e+00, 1.12551296010009660e+00, 1.00290405736648380e+00,
                 7.21441148783726005e-01, 3.70757591585227586e-01, 7.47429543058999168e-02,
                 -7.76725264741731231e-02, -8.43933506843589365e-02, -2.07484630182789044e-02,
                 2.63900138882536828e-02, 2.35284854648924110e-02, -2.65810949343902540e-03,
                 -1.36326719424447358e-02, -3.16288281928992941e-03, 7.18610105779420982e-03,
                 3.08566312051880998e-03, -4.09272966696857220e-03, -1.02080107620679175e-03,
                 1.75840386910787569e-03, -3.45813434641282103e-04));
}
/// h(t) for 0 <= t <= 10.6 (float) or 27.6.
template <class T, int N>
FG_INLINE Pair<vec<T, N>> scaled_erfc(vec<T, N> t) {
  using V = vec<T, N>;
  const V k(kErfcScale<T>), sum = t + k, q = k / sum;
  const auto ratio = erfc_ratio(q);
  const V h = q * ratio.high;
  // q belongs to a t that is off by the roundings of the sum and the quotient, which a k this large
  // magnifies; the slope is h' = 2 t h - 2 / sqrt(pi).
  const V off = fma(residual(k, q, sum) * sum, V(-1 / kErfcScale<T>), t - (sum - k));
  const V lost = fma(q, ratio.low, -residual(h, q, ratio.high));
  return {h, fma(off, fma(t + t, h, V(-1.1283791670955126)), lost)};
}

/// f e^(-share t^2), share 1 or 1/2, for a t whose square does not overflow. The square's rounding
/// alone would cost t^2 ulp, so its upper half is exact and what is left joins the reduced
/// argument.
template <class T, int N>
FG_INLINE vec<T, N> gauss(vec<T, N> t, T share, Pair<vec<T, N>> f) {
  using V = vec<T, N>;
  const V high = upper_half(t + V(0)), low = t - high;  // + 0: a NaN of any kind stays one
  const auto e = reduce_exp(high * high * V(-share), low * (t + high) * V(-share));
  const V p = fma(e.r * e.r, exp_tail(e.r), e.r);
  return scale(f.high + fma(f.high, p, fma(f.low, p, f.low)), e);
}

/// erf(x) for |x| <= 0.93 (float) or 0.65.
template <int N>
FG_INLINE vec<float, N> erf_near_zero(vec<float, N> x) {
  return fma(x,
             horner(x * x, 1.283791512e-01f, -3.761248887e-01f, 1.128175408e-01f, -2.676399425e-02f,
                    4.988905974e-03f, -5.967310863e-04f),
             x);
}
template <int N>
FG_INLINE vec<double, N> erf_near_zero(vec<double, N> x) {
  return fma(
      x,
      horner(x * x, 1.28379167095512586e-01, -3.76126389031837538e-01, 1.12837916709551234e-01,
             -2.68661706451302183e-02, 5.22397762541856707e-03, -8.54832702026335533e-04,
             1.20553327088911385e-04, -1.49256349592669773e-05, 1.64615335551684775e-06,
             -1.63513251380328117e-07, 1.45754108263905507e-08, -1.01282958847517251e-09),
      x);
}

template <class T, int N>
FG_INLINE vec<T, N> erfc(vec<T, N> x) {
  using V = vec<T, N>;
  // Beyond the bound it is less than half the smallest number.
  const V a = smaller(V(sizeof(T) == 4 ? 10.5 : 27.5), abs(x));
  const V y = gauss(a, T(1), scaled_erfc(a));
  return select(a < V(0.65), V(1) - erf_near_zero(x), select(x < V(0), V(2) - y, y));
}

template <int N>
FG_INLINE vec<float, N> erf(vec<float, N> x) {
  using V = vec<float, N>;
  const V a = abs(x);
  // 1 - e^-g with g = -log erfc.
  const V t = select(a > V(4), V(4), a);
  const V g = horner(t, -3.628993290e-04f, 1.130446672e+00f, 6.313738823e-01f, 1.106159911e-01f,
                     -2.681335434e-02f, 4.943877924e-03f, -6.525363424e-04f, 5.654669076e-05f,
                     -2.754702791e-06f, 5.148567439e-08f);
  const V large = copysign(V(1) - exp_of_negative(-g), x);
  return select(a < V(0.9296875f), erf_near_zero(x), select(x == x, large, x));
}
template <int N>
FG_INLINE vec<double, N> erf(vec<double, N> x) {
  using V = vec<double, N>;
  const V a = smaller(V(6), abs(x));
  const V large = copysign(V(1) - gauss(a, 1., scaled_erfc(a)), x);
  return select(a < V(0.65), erf_near_zero(x), large);
}

/// Beyond, Phi(-a) is less than half the smallest number.
template <class T>
constexpr T kGeluEnd = sizeof(T) == 4 ? T(14.7) : T(38.8);
/// Phi(-a) = e^(-a^2/2) phi_tail(a), a >= 0.
template <class T, int N>
FG_INLINE Pair<vec<T, N>> phi_tail(vec<T, N> a) {
  using V = vec<T, N>;
  const auto h = scaled_erfc(a * V(0.7071067811865476));
  return {V(0.5) * h.high, V(0.5) * h.low};
}
/// x Phi(x). Through erfc(-x / sqrt 2), the rounding of the argument alone would cost 80 ulp in the
/// left tail.
template <class T, int N>
FG_INLINE vec<T, N> gelu(vec<T, N> x) {
  using V = vec<T, N>;
  const V a = smaller(V(kGeluEnd<T>), abs(x));
  const auto h = phi_tail(a);
  const V y = gauss(a, T(0.5), {a * h.high, a * h.low});
  // At -infinity it is infinity times 0, as in the table's line.
  return select(x < V(0), x * V(0), x) - y;
}
/// Phi(x) + x phi(x), NaN at the infinities as the table's line.
template <class T, int N>
FG_INLINE vec<T, N> gelu_slope(vec<T, N> x) {
  using V = vec<T, N>;
  const V a = smaller(V(kGeluEnd<T>), abs(x));
  const auto h = phi_tail(a);
  const V y = gauss(a, T(0.5), {fma(a, V(-0.3989422804014327), h.high), h.low});
  return select(x < V(0), y, V(1) - y) + x * V(0);
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
  return rare_lanes(
      edge, result, [](float a, float b) { return __builtin_powf(a, b); }, x, y);
}
template <int N>
FG_INLINE vec<double, N> pow(vec<double, N> x, vec<double, N> y) {
  return per_lane(x, y, [](double a, double b) { return __builtin_pow(a, b); });
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
