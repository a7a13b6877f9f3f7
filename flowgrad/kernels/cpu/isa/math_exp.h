#pragma once
// Exponentials and logarithms on vec: argument reduction by ln 2 in two parts (Cody and Waite 1980)
// and near-minimax polynomials, interpolated at Chebyshev nodes. The same steps for float and
// double.

#include "flowgrad/kernels/cpu/isa/vec.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// c0 + x (c1 + x (c2 + ...)).
template <class V, class C>
FG_INLINE V horner(V, C c) {
  return V(c);
}
template <class V, class C, class... Rest>
FG_INLINE V horner(V x, C c, Rest... rest) {
  return fma(horner(x, rest...), x, V(c));
}

/// c0 + z (cS + z (c2S + ...)) of the coefficients behind the first Skip, S the stride.
template <int Stride, int Skip, class V, class C, class... Rest>
FG_INLINE V every(V z, C c, Rest... rest) {
  if constexpr (Skip > 0)
    return every<Stride, Skip - 1>(z, rest...);
  else if constexpr (sizeof...(Rest) < Stride)
    return V(c);
  else
    return fma(every<Stride, Stride - 1>(z, rest...), z, V(c));
}
/// horner(x, c...) as two or four sums that do not wait for each other (Knuth, second-order rule):
/// a chain of 11 takes longer than the processor looks ahead.
template <class V, class... C>
FG_INLINE V two_chains(V x, C... c) {
  const V z = x * x;
  return fma(every<2, 1>(z, c...), x, every<2, 0>(z, c...));
}
template <class V, class... C>
FG_INLINE V four_chains(V x, C... c) {
  const V z = x * x, w = z * z;
  return fma(fma(every<4, 3>(w, c...), x, every<4, 2>(w, c...)), z,
             fma(every<4, 1>(w, c...), x, every<4, 0>(w, c...)));
}

template <class T>
struct Format;
template <>
struct Format<float> {
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float round_magic = 0x1.8p23f, min_normal = 0x1p-126f;
  static constexpr float infinity = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
  static constexpr float exp_min = -104.f, exp_max = 89.f;
  static constexpr std::int32_t sqrt_half = 0x3f3504f3;
};
template <>
struct Format<double> {
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double round_magic = 0x1.8p52, min_normal = 0x1p-1022;
  static constexpr double infinity = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double ln2_hi = 0x1.62e42feep-1, ln2_lo = 0x1.a39ef35793c76p-33;
  static constexpr double exp_min = -746., exp_max = 710.;
  static constexpr std::int64_t sqrt_half = 0x3fe6a09e667f3bcd;
};

/// The upper half of a number's digits: products of two such halves are exact.
template <class T, int N>
FG_INLINE vec<T, N> upper_half(vec<T, N> x) {
  constexpr BitsOf<T> keep = ~((BitsOf<T>(1) << (sizeof(T) == 4 ? 12 : 27)) - 1);
  return from_bits<T, N>(to_bits(x) & keep);
}
/// c - a b for a b that is nearly c, without the product's rounding.
template <class T, int N>
FG_INLINE vec<T, N> residual(vec<T, N> c, vec<T, N> a, vec<T, N> b) {
#if defined(__FMA__)
  return fma(-a, b, c);
#else
  const vec<T, N> ah = upper_half(a), al = a - ah, bh = upper_half(b), bl = b - bh;
  return (((c - ah * bh) - ah * bl) - al * bh) - al * bl;
#endif
}

/// A number and what its rounding lost.
template <class V>
struct Pair {
  V high, low;
};
template <class V>
FG_INLINE Pair<V> operator*(V a, Pair<V> b) {
  return {a * b.high, a * b.low};
}
template <class V>
FG_INLINE Pair<V> operator+(V a, Pair<V> b) {
  return {a + b.high, b.low};
}
template <class T, int N>
FG_INLINE Pair<vec<T, N>> two_sum(vec<T, N> a, vec<T, N> b) {
  const vec<T, N> sum = a + b, part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}
/// For |a| >= |b|.
template <class T, int N>
FG_INLINE Pair<vec<T, N>> fast_two_sum(vec<T, N> a, vec<T, N> b) {
  const vec<T, N> sum = a + b;
  return {sum, b - (sum - a)};
}

/// x = n ln 2 + r with |r| <= ln 2 / 2; `n` also as bits, to build 2^n from.
template <class T, int N>
struct ExpReduction {
  vec<T, N> r, n;
  Raw<BitsOf<T>, N> bits;
};
template <class T, int N>
FG_INLINE ExpReduction<T, N> reduce_exp(vec<T, N> x) {
  using V = vec<T, N>;
  using F = Format<T>;
  const V shifted = fma(x, V(1.4426950408889634), V(F::round_magic));
  const V n = shifted - V(F::round_magic);
  const V r = fma(n, V(-F::ln2_lo), fma(n, V(-F::ln2_hi), x));
  return {r, n, wrap_sub<T, N>(to_bits(shifted), to_bits(V(F::round_magic)))};
}

/// The same for x + rest, rest much smaller, as if the sum were exact.
template <class T, int N>
FG_INLINE ExpReduction<T, N> reduce_exp(vec<T, N> x, vec<T, N> rest) {
  using V = vec<T, N>;
  using F = Format<T>;
  auto e = reduce_exp(x);
  e.r = fma(e.n, V(-F::ln2_hi), x) + fma(e.n, V(-F::ln2_lo), rest);
  return e;
}

/// 2^n for n within the exponent range of normal numbers.
template <class T, int N>
FG_INLINE vec<T, N> power_of_two(Raw<BitsOf<T>, N> n) {
  return from_bits<T, N>(wrap_add<T, N>(n, all_bits<T, N>(Format<T>::bias)) << Format<T>::mantissa);
}

/// p 2^n for p near 1, rounded once below the normal range, infinite above it.
template <class T, int N>
FG_INLINE vec<T, N> scale(vec<T, N> p, const ExpReduction<T, N>& e) {
#if defined(FG_AVX512)
  if constexpr (sizeof p.v == 64 && std::is_same_v<T, float>)
    return {_mm512_maskz_scalef_ps(static_cast<__mmask16>(-1), p.v, e.n.v)};
  if constexpr (sizeof p.v == 64 && std::is_same_v<T, double>)
    return {_mm512_maskz_scalef_pd(static_cast<__mmask8>(-1), p.v, e.n.v)};
#endif
  // Two factors, of which neither leaves the normal range.
  const Raw<BitsOf<T>, N> half = e.bits >> 1;
  return p * power_of_two<T, N>(half) * power_of_two<T, N>(wrap_sub<T, N>(e.bits, half));
}

/// The same for n <= 0, not below the smallest number by more than a few digits.
template <class T, int N>
FG_INLINE vec<T, N> scale_down(vec<T, N> p, const ExpReduction<T, N>& e) {
  if constexpr (sizeof p.v == 64) return scale(p, e);
  // Two factors again, but only one of them depends on n.
  constexpr int lift = sizeof(T) == 4 ? 64 : 512;
  constexpr T back = sizeof(T) == 4 ? T(0x1p-64) : T(0x1p-512);
  return p * power_of_two<T, N>(wrap_add<T, N>(e.bits, all_bits<T, N>(lift))) * vec<T, N>(back);
}

constexpr float kExpTail[] = {5.000000000e-01f, 1.666657329e-01f, 4.166654870e-02f,
                              8.363774046e-03f, 1.392692677e-03f};
/// (e^r - 1 - r) / r^2.
template <int N>
FG_INLINE vec<float, N> exp_tail(vec<float, N> r) {
  return horner(r, kExpTail[0], kExpTail[1], kExpTail[2], kExpTail[3], kExpTail[4]);
}
template <int N>
FG_INLINE vec<double, N> exp_tail(vec<double, N> r) {
  return two_chains(r, 0.5, 1.66666666666666713e-01, 4.16666666666666713e-02,
                    8.33333333332554431e-03, 1.38888888888833275e-03, 1.98412698768643558e-04,
                    2.48015873270071872e-05, 2.75572528335169111e-06, 2.75572718102198004e-07,
                    2.51062747335732955e-08, 2.09154422977801163e-09);
}

template <class T, int N>
FG_INLINE vec<T, N> clamp_keeping_nan(vec<T, N> x, T low, T high) {
  using V = vec<T, N>;
  return smaller(V(high), larger(V(low), x));
}

template <class T, int N>
FG_INLINE vec<T, N> exp(vec<T, N> x) {
  x = clamp_keeping_nan(x, Format<T>::exp_min, Format<T>::exp_max);
  const auto e = reduce_exp(x);
  return scale(fma(e.r * e.r, exp_tail(e.r), e.r) + vec<T, N>(1), e);
}

/// exp for arguments in [-87, 0] (float) or [-708, 0]: one scale factor is enough; below, the
/// result is a little more than the smallest normal number.
template <class T, int N>
FG_INLINE vec<T, N> exp_of_negative(vec<T, N> x) {
  constexpr T low = sizeof(T) == 4 ? T(-87) : T(-708);
  const auto e = reduce_exp(larger(vec<T, N>(low), x));
  const vec<T, N> p = fma(e.r * e.r, exp_tail(e.r), e.r) + vec<T, N>(1);
  if constexpr (sizeof p.v == 64) return scale(p, e);
  return p * power_of_two<T, N>(e.bits);
}

template <class T, int N>
FG_INLINE vec<T, N> expm1(vec<T, N> x) {
  using V = vec<T, N>;
  constexpr T low = sizeof(T) == 4 ? T(-18) : T(-40);
  const auto e = reduce_exp(clamp_keeping_nan(x, low, Format<T>::exp_max));
  const V p = fma(e.r * e.r, exp_tail(e.r), e.r);
  // With half the scale, 2^1024 stays finite on the way.
  const V s = power_of_two<T, N>(wrap_sub<T, N>(e.bits, all_bits<T, N>(1)));
  const V y = (fma(s, p, s - V(0.5))) * V(2);
  return select(abs(x) < V(sizeof(T) == 4 ? 0x1p-25 : 0x1p-54), x, y);
}

/// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for positive normal x.
template <class T, int N>
struct LogReduction {
  vec<T, N> f, e;
};
template <class T, int N>
FG_INLINE LogReduction<T, N> reduce_log(vec<T, N> x) {
  using V = vec<T, N>;
  using F = Format<T>;
  const Raw<BitsOf<T>, N> ix = to_bits(x);
  constexpr BitsOf<T> exponent_mask = ~((BitsOf<T>(1) << F::mantissa) - 1);
  const Raw<BitsOf<T>, N> shifted =
      wrap_sub<T, N>(ix, all_bits<T, N>(F::sqrt_half)) & exponent_mask;
  const V m = from_bits<T, N>(wrap_sub<T, N>(ix, shifted));
  // The exponent, biased to be positive so that a logical shift and a magic number convert it.
  const Raw<BitsOf<T>, N> biased =
      wrap_add<T, N>(shifted, all_bits<T, N>(BitsOf<T>(F::bias) << F::mantissa)) >> F::mantissa;
  const V e = from_bits<T, N>(wrap_add<T, N>(biased, to_bits(V(F::round_magic)))) -
              V(F::round_magic + F::bias);
  return {m - V(1), e};
}

/// log(1 + f) + e ln 2 + correction, where the correction is small.
template <int N>
FG_INLINE vec<float, N> log_of(vec<float, N> f, vec<float, N> e, vec<float, N> correction) {
  using V = vec<float, N>;
  using F = Format<float>;
  const V p = two_chains(f, 3.333333135e-01f, -2.499999702e-01f, 2.000071555e-01f,
                         -1.666780263e-01f, 1.424905807e-01f, -1.242568716e-01f, 1.168541983e-01f,
                         -1.147973388e-01f, 6.971611828e-02f);
  const V z = f * f;
  V low = fma(z * f, p, correction);
  low = fma(e, V(F::ln2_lo), low);
  low = fma(z, V(-0.5f), low);
  return fma(e, V(F::ln2_hi), f + low);
}
template <int N>
FG_INLINE vec<double, N> log_of(vec<double, N> f, vec<double, N> e, vec<double, N> correction) {
  using V = vec<double, N>;
  using F = Format<double>;
  const V s = f / (V(2) + f), z = s * s, half = V(0.5) * f * f;
  const V r =
      z * two_chains(z, 6.66666666666666963e-01, 3.99999999998932210e-01, 2.85714286288109964e-01,
                     2.22222106742385156e-01, 1.81829225135159422e-01, 1.53306173067433049e-01,
                     1.46300313641228613e-01);
  const V low = fma(e, V(F::ln2_lo), fma(s, half + r, correction));
  return fma(e, V(F::ln2_hi), f - (half - low));
}

/// What a logarithm gives at 0, below and at infinity.
template <class T, int N>
FG_INLINE vec<T, N> log_edges(vec<T, N> argument, vec<T, N> y) {
  using V = vec<T, N>;
  using F = Format<T>;
  y = select(argument == V(0), V(-F::infinity), y);
  y = select(argument < V(0), V(F::nan), y);
  // Infinity stays infinity and NaN stays NaN.
  return select(argument < V(F::infinity), y, argument);
}

template <class T, int N>
FG_INLINE vec<T, N> log(vec<T, N> x) {
  using V = vec<T, N>;
  using F = Format<T>;
  const mask<T, N> plain = (x >= V(F::min_normal)) & (x < V(F::infinity));
  const auto l = reduce_log(x);
  const V y = log_of(l.f, l.e, V(0));
  if (__builtin_expect(!any(!plain), 1)) return y;
  const mask<T, N> tiny = x < V(F::min_normal);
  constexpr T digits = F::mantissa + 2, lift = sizeof(T) == 4 ? T(0x1p25) : T(0x1p54);
  const auto s = reduce_log(x * V(lift));
  return log_edges(x, select(tiny, log_of(s.f, s.e - V(digits), V(0)), y));
}

template <class T, int N>
FG_INLINE vec<T, N> log1p(vec<T, N> x) {
  using V = vec<T, N>;
  const V u = x + V(1);
  // What rounding x + 1 lost; its share in the logarithm is lost / u.
  const V lost = select(x > V(1), V(1) - (u - x), x - (u - V(1)));
  const auto l = reduce_log(u);
  const V y = log_edges(u, log_of(l.f, l.e, lost / u));
  return select(abs(x) < V(Format<T>::min_normal), x, y);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
