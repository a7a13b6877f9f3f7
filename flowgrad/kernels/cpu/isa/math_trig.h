#pragma once
// sin, cos, tan and atan2 on vec. Floats are reduced by four short parts of pi / 2 (Cody and Waite
// 1980) and, farther out, in double; doubles by three 33-bit parts (fdlibm's medium range). Huge
// arguments go to libm, lane by lane.

#include "flowgrad/kernels/cpu/isa/math_exp.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

constexpr double kTwoOverPi = 6.36619772367581382433e-01;
// pi / 2 as a sum of 33-bit numbers, each with the rest behind it.
constexpr double kPio2_1 = 1.57079632673412561417e+00, kPio2_1t = 6.07710050650619224932e-11;
constexpr double kPio2_2 = 6.07710050630396597660e-11, kPio2_2t = 2.02226624879595063154e-21;
constexpr double kTrigLimit = 0x1p20;

/// x = n pi/2 + r + tail.
template <int N>
struct TrigReduction {
  vec<double, N> r, tail;
  Raw<std::int64_t, N> n;
};
template <int N>
FG_INLINE TrigReduction<N> reduce_trig(vec<double, N> x) {
  using V = vec<double, N>;
  const V shifted = fma(x, V(kTwoOverPi), V(Format<double>::round_magic));
  const V n = shifted - V(Format<double>::round_magic);
  const V first = fma(n, V(-kPio2_1), x);  // exact
  const V w = n * V(kPio2_2);
  const V r = first - w;
  const V rest = fma(n, V(kPio2_2t), w - (first - r));
  const V y = r - rest;
  return {y, (r - y) - rest, to_bits(shifted)};
}
/// Without the tail: enough where the result is a float.
template <int N>
FG_INLINE TrigReduction<N> reduce_trig_short(vec<double, N> x) {
  using V = vec<double, N>;
  const V shifted = fma(x, V(kTwoOverPi), V(Format<double>::round_magic));
  const V n = shifted - V(Format<double>::round_magic);
  return {(x - n * V(kPio2_1)) - n * V(kPio2_1t), V(0), to_bits(shifted)};
}

template <int N>
FG_INLINE Pair<vec<double, N>> sin_polynomial(vec<double, N> r, vec<double, N> tail) {
  using V = vec<double, N>;
  const V z = r * r;
  const V p = horner(z, 8.33333333333082654e-03, -1.98412698365757093e-04, 2.75573160081715513e-06,
                     -2.50511122725732434e-08, 1.59167261938893364e-10);
  const V v = z * r, rest = fma(z, fma(v, p, V(-0.5) * tail), tail);
  return fast_two_sum(r, fma(v, V(-1.66666666666666657e-01), rest));
}
template <int N>
FG_INLINE Pair<vec<double, N>> cos_polynomial(vec<double, N> r, vec<double, N> tail) {
  using V = vec<double, N>;
  const V z = r * r;
  const V p =
      z * horner(z, 4.16666666666666644e-02, -1.38888888888873217e-03, 2.48015872986512922e-05,
                 -2.75573172126865886e-07, 2.08761340240901448e-09, -1.13817546536629370e-11);
  const V half = V(0.5) * z, w = V(1) - half;
  return fast_two_sum(w, ((V(1) - w) - half) + fma(z, p, -(r * tail)));
}

/// Shift is 0 for the sine and 1 for the cosine.
template <int Shift, int N>
FG_INLINE vec<double, N> sin_or_cos(vec<double, N> x) {
  using V = vec<double, N>;
  const auto t = reduce_trig(x);
  const Raw<std::int64_t, N> quadrant = t.n + Shift;
  const mask<double, N> swap = {(quadrant & 1) != 0};
  const V y = select(swap, cos_polynomial(t.r, t.tail).high, sin_polynomial(t.r, t.tail).high);
  V result = from_bits<double, N>(to_bits(y) ^ ((quadrant & 2) << 62));
  if (Shift == 0) result = select(x == V(0), x, result);
  const auto exact = [](double v) { return Shift == 0 ? __builtin_sin(v) : __builtin_cos(v); };
  return rare_lanes(!(abs(x) <= V(kTrigLimit)), result, exact, x);
}

// pi / 2 as three numbers of 13 bits, whose products with n <= 2^11 are exact, and the rest.
constexpr float kPio2Parts[] = {0x1.922p+0f, -0x1.2afp-18f, 0x1.0b4p-34f, 0x1.84698ap-48f};
constexpr float kNearTrigLimit = 3200;

/// x = n pi/2 + r + tail, r good to a rounding of its own.
template <int N>
struct ShortTrigReduction {
  vec<float, N> r, tail;
  Raw<std::int32_t, N> n;
  bool any_far;
};
/// For |x| <= kNearTrigLimit.
template <int N>
FG_INLINE ShortTrigReduction<N> reduce_trig_near(vec<float, N> x) {
  using V = vec<float, N>;
  const V shifted = fma(x, V(static_cast<float>(kTwoOverPi)), V(Format<float>::round_magic));
  const V n = shifted - V(Format<float>::round_magic);
  const V first = fma(n, V(-kPio2Parts[0]), x);  // exact
  const V second = n * V(kPio2Parts[1]);
  const V r = first - second;
  // What that rounding lost, and the other parts: one more rounding for all of them.
  const V lost = (first - r) - second;
  const auto sum = fast_two_sum(r, fma(n, V(-kPio2Parts[3]), fma(n, V(-kPio2Parts[2]), lost)));
  return {sum.high, sum.low, to_bits(shifted), false};
}
/// For |x| <= kTrigLimit.
template <int N>
FG_INLINE ShortTrigReduction<N> reduce_trig_far(vec<float, N> x) {
  const auto halves = widen(x);
  const auto low = reduce_trig_short(halves.low), high = reduce_trig_short(halves.high);
  struct {
    Raw<std::int32_t, N / 2> low, high;
  } parts{__builtin_convertvector(low.n & 3, Raw<std::int32_t, N / 2>),
          __builtin_convertvector(high.n & 3, Raw<std::int32_t, N / 2>)};
  const vec<float, N> r = narrow<N>(low.r, high.r);
  const auto rounded = widen(r);
  return {r, narrow<N>(low.r - rounded.low, high.r - rounded.high),
          bit_cast<Raw<std::int32_t, N>>(parts), true};
}
/// For |x| <= kTrigLimit, with the long reduction only in registers that need it.
template <int N>
FG_INLINE ShortTrigReduction<N> reduce_trig(vec<float, N> x) {
  const auto t = reduce_trig_near(x);
  const mask<float, N> far = !(abs(x) <= vec<float, N>(kNearTrigLimit));
  if (__builtin_expect(!any(far), 1)) return t;
  const auto w = reduce_trig_far(x);
  return {select(far, w.r, t.r), select(far, w.tail, t.tail), far.m ? w.n : t.n, true};
}
/// y, and f(x) in the lanes beyond kTrigLimit.
template <int N, class F>
FG_INLINE vec<float, N> beyond_reduction(const ShortTrigReduction<N>& t, vec<float, N> x,
                                         vec<float, N> y, F f) {
  if (__builtin_expect(!t.any_far, 1)) return y;
  return rare_lanes(!(abs(x) <= vec<float, N>(static_cast<float>(kTrigLimit))), y, f, x);
}

template <int Shift, int N>
FG_INLINE vec<float, N> sin_or_cos(vec<float, N> x) {
  using V = vec<float, N>;
  const auto t = reduce_trig(x);
  const Raw<std::int32_t, N> quadrant = t.n + Shift;
  const V r = t.r, z = r * r;
  const V s =
      fma(z * r,
          horner(z, -1.666666716e-01f, 8.333331905e-03f, -1.984006376e-04f, 2.724686965e-06f), r);
  const V c = fma(z * z, horner(z, 4.166666418e-02f, -1.388829085e-03f, 2.454541936e-05f),
                  fma(z, V(-0.5f), V(1)));
  const V y = select(mask<float, N>{(quadrant & 1) != 0}, c, s);
  V result = from_bits<float, N>(to_bits(y) ^ ((quadrant & 2) << 30));
  if (Shift == 0) result = select(x == V(0), x, result);
  return beyond_reduction(
      t, x, result, [](float v) { return Shift == 0 ? __builtin_sinf(v) : __builtin_cosf(v); });
}

template <class T, int N>
FG_INLINE vec<T, N> sin(vec<T, N> x) {
  return sin_or_cos<0>(x);
}
template <class T, int N>
FG_INLINE vec<T, N> cos(vec<T, N> x) {
  return sin_or_cos<1>(x);
}

template <int N>
FG_INLINE vec<float, N> tan(vec<float, N> x) {
  using V = vec<float, N>;
  const auto t = reduce_trig(x);
  const V z = t.r * t.r;
  const V p = two_chains(z, 3.333334923e-01f, 1.333267391e-01f, 5.405917764e-02f, 2.128450759e-02f,
                         1.083250903e-02f, 9.114763816e-05f, 4.376482684e-03f);
  // The slope of the tangent is near enough to 1 + r^2 for what the reduction lost.
  const V s = t.r + fma(t.r * z, p, fma(t.tail, z, t.tail));
  const mask<float, N> odd = {(t.n & 1) != 0};
  const V y = select(odd, V(-1), s) / select(odd, s, V(1));
  return beyond_reduction(t, x, select(x == V(0), x, y), [](float v) { return __builtin_tanf(v); });
}
template <int N>
FG_INLINE vec<double, N> tan(vec<double, N> x) {
  using V = vec<double, N>;
  const auto t = reduce_trig(x);
  const auto s = sin_polynomial(t.r, t.tail), c = cos_polynomial(t.r, t.tail);
  const mask<double, N> odd = {(t.n & 1) != 0};
  const V top = select(odd, -c.high, s.high), bottom = select(odd, s.high, c.high);
  const V inverse = V(1) / bottom, y = top * inverse;
  // Three roundings would be too many: what they lost.
  const V low = select(odd, -c.low, s.low) - y * select(odd, s.low, c.low);
  const V sum = fma(residual(top, y, bottom) + low, inverse, y);
  const auto exact = [](double v) { return __builtin_tan(v); };
  return rare_lanes(!(abs(x) <= V(kTrigLimit)), select(x == V(0), x, sum), exact, x);
}

/// atan(y / x) in the right quadrant, good to a float, for finite arguments that are not both zero.
template <int N>
FG_INLINE vec<double, N> atan2_of_floats(vec<double, N> y, vec<double, N> x) {
  using V = vec<double, N>;
  const V ay = abs(y), ax = abs(x);
  const mask<double, N> steep = ay > ax;
  const V s = select(steep, ax, ay) / select(steep, ay, ax), z = s * s;
  V a = fma(s * z,
            horner(z, -3.33333333323085790e-01, 1.99999996526934509e-01, -1.42856945706402921e-01,
                   1.11106663036254188e-01, -9.08562417788707222e-02, 7.65429547264439847e-02,
                   -6.48706235660656272e-02, 5.29439088161992658e-02, -3.87670225685259051e-02,
                   2.32483736984358189e-02, -1.02571662714996455e-02, 2.87548560994342487e-03,
                   -3.77885807666260916e-04),
            s);
  a = select(steep, V(1.5707963267948966) - a, a);
  a = select(x < V(0), V(3.1415926535897932) - a, a);
  return copysign(a, y);
}
template <int N>
FG_INLINE vec<float, N> atan2(vec<float, N> y, vec<float, N> x) {
  using V = vec<float, N>;
  const auto hy = widen(y), hx = widen(x);
  const V result = narrow<N>(atan2_of_floats(hy.low, hx.low), atan2_of_floats(hy.high, hx.high));
  const V sum = abs(x) + abs(y);
  const auto exact = [](float a, float b) { return __builtin_atan2f(a, b); };
  return rare_lanes(!((sum > V(0)) & (sum < V(Format<float>::infinity))), result, exact, y, x);
}
/// The angle is whole eighths of a turn and an arc tangent of at most tan(pi / 8), so that the last
/// sum is nearly all of the rounding.
template <int N>
FG_INLINE vec<double, N> atan2(vec<double, N> y, vec<double, N> x) {
  using V = vec<double, N>;
  const V ay = abs(y), ax = abs(x);
  const mask<double, N> steep = ay > ax, left = x < V(0);
  const V low = select(steep, ax, ay), high = select(steep, ay, ax);
  const mask<double, N> middle = low > high * V(0.41421356237309505);
  const V s = select(middle, low - high, low) / select(middle, low + high, high), z = s * s;
  V a = fma(s * z,
            two_chains(z, -3.33333333333331983e-01, 1.99999999999538186e-01,
                       -1.42857142802205322e-01, 1.11111107846754237e-01, -9.09089779275237125e-02,
                       7.69206083325237461e-02, -6.66311096894612320e-02, 5.84793854326954299e-02,
                       -5.03952058178414120e-02, 3.80698787386535217e-02, -1.79128414535101900e-02),
            s);
  V eighths = select(middle, V(1), V(0));
  eighths = select(steep, V(2) - eighths, eighths);
  eighths = select(left, V(4) - eighths, eighths);
  a = select(mask<double, N>{steep.m ^ left.m}, -a, a);
  a = fma(eighths, V(kPio2_1 / 2), fma(eighths, V(kPio2_1t / 2), a));
  const V sum = ax + ay;
  const auto exact = [](double u, double v) { return __builtin_atan2(u, v); };
  return rare_lanes(!((sum > V(0x1p-1000)) & (sum < V(Format<double>::infinity))), copysign(a, y),
                    exact, y, x);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
