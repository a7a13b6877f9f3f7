#pragma once
// Error functions and GELU on vec: erfc(t) = e^(-t^2) h(t) for t >= 0 with h(t) = q R(q),
// q = k / (t + k), the variable of Shepherd and Laframboise (1981): R is smooth over the whole
// half-line. Polynomials are near-minimax.

#include "flowgrad/kernels/cpu/isa/math_exp.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

template <class T>
constexpr T kErfcScale = sizeof(T) == 4 ? T(3) : T(4);

/// The square of a number and what its rounding lost, both times -share, share 1 or 1/2.
template <class T, int N>
FG_INLINE Pair<vec<T, N>> negative_square(vec<T, N> t, T share) {
  using V = vec<T, N>;
#if defined(__FMA__)
  const V scaled = t * V(-share), square = scaled * t;
  return {square, fma(scaled, t, -square)};
#else
  const V high = upper_half(t + V(0)), low = t - high;  // + 0: a NaN of any kind stays one
  // Summed, so that the rest is as small as the reduction of the exponent takes it to be.
  return fast_two_sum(high * high * V(-share), low * (t + high) * V(-share));
#endif
}

template <int N>
FG_INLINE Pair<vec<float, N>> erfc_ratio(vec<float, N> q) {
  using V = vec<float, N>;
  const V w = q - V(0.49609375);
  return fast_two_sum(
      V(3.557137549e-01f),
      w * two_chains(w, 5.828191638e-01f, 7.773272395e-01f, 8.179940581e-01f, 6.318880320e-01f,
                     2.868166566e-01f, -2.252036892e-02f, -1.296610683e-01f, -4.386544600e-02f,
                     5.407653376e-02f, 2.399082063e-03f));
}
template <int N>
FG_INLINE Pair<vec<double, N>> erfc_ratio(vec<double, N> q) {
  using V = vec<double, N>;
  const V w = q - V(0.375);  // exact
  const V p =
      fma(four_chains(w, 4.68424040944401709e-01, 5.96339081678316063e-01, 6.88565258601463781e-01,
                      7.11457160678376721e-01, 6.44243012845565399e-01, 4.93216894564263542e-01,
                      2.96256453569374911e-01, 1.10802997881651405e-01, -1.20903659756990758e-02,
                      -5.35799587334366556e-02, -3.48622877599345446e-02, 4.44300553968084958e-04,
                      1.73777572160925507e-02, 1.00388678089727082e-02, -4.00240674766000684e-03,
                      -7.63777827119927963e-03, -1.82670664044220924e-03, 4.89906631975333545e-03,
                      4.88964364274878469e-03, -9.00942085008016487e-03, 4.67741632183263107e-03,
                      -8.64187924363973587e-04),
          w, V(3.36834742987477620e-01));
  return two_sum(V(2.23218192023947631e-01), fma(w, p, V(-1.16199095591903970e-17)));
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

/// f (1 + p).
template <class V>
FG_INLINE V grown(V f, V p) {
  return fma(f, p, f);
}
template <class V>
FG_INLINE V grown(Pair<V> f, V p) {
  return f.high + fma(f.high, p, fma(f.low, p, f.low));
}
/// f e^(-share t^2), share 1 or 1/2, for a t whose square does not overflow. The square's rounding
/// alone would cost t^2 ulp, so it joins the reduced argument.
template <class T, int N, class F>
FG_INLINE vec<T, N> gauss(vec<T, N> t, T share, F f) {
  const auto square = negative_square(t, share);
  const auto e = reduce_exp(square.high, square.low);
  return scale_down(grown(f, fma(e.r * e.r, exp_tail(e.r), e.r)), e);
}

/// erf(x) for |x| <= 0.93 (float) or 0.9.
template <int N>
FG_INLINE vec<float, N> erf_near_zero(vec<float, N> x) {
  return fma(x,
             two_chains(x * x, 1.283791512e-01f, -3.761248887e-01f, 1.128175408e-01f,
                        -2.676399425e-02f, 4.988905974e-03f, -5.967310863e-04f),
             x);
}
template <int N>
FG_INLINE vec<double, N> erf_near_zero(vec<double, N> x) {
  return fma(
      x,
      two_chains(x * x, 1.28379167095512586e-01, -3.76126389031841091e-01, 1.12837916709720390e-01,
                 -2.68661706482605407e-02, 5.22397765507716470e-03, -8.54832865227280803e-04,
                 1.20553882243055313e-04, -1.49268299727758710e-05, 1.64776349483370579e-06,
                 -1.64796989401339513e-07, 1.50982883859209822e-08, -1.08250086310527680e-09),
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
  const V g = two_chains(t, -3.628993290e-04f, 1.130446672e+00f, 6.313738823e-01f, 1.106159911e-01f,
                         -2.681335434e-02f, 4.943877924e-03f, -6.525363424e-04f, 5.654669076e-05f,
                         -2.754702791e-06f, 5.148567439e-08f);
  const V large = copysign(V(1) - exp_of_negative(-g), x);
  return select(a < V(0.9296875f), erf_near_zero(x), select(x == x, large, x));
}
template <int N>
FG_INLINE vec<double, N> erf(vec<double, N> x) {
  using V = vec<double, N>;
  // The same: e^-g is at most a quarter of the result, so its roundings need no care.
  const V t = smaller(V(6), abs(x));
  const V g =
      four_chains(t, 6.79306448986483759e-08, 1.12837844528254982e+00, 6.36623292929435758e-01,
                  1.02762226013353511e-01, -1.91080796412197371e-02, -2.36458479367851557e-04,
                  1.71957513581101856e-03, -5.97900139928993907e-04, 1.48718918282938724e-05,
                  8.68754793528124053e-05, -5.23007870652578613e-05, 1.90585459453993581e-05,
                  -5.03158200797175843e-06, 1.00264989170722568e-06, -1.50732986025030730e-07,
                  1.66571622936000592e-08, -1.27993112175164404e-09, 6.11476607751230961e-11,
                  -1.36796125594587691e-12);
  const V large = copysign(V(1) - exp_of_negative(-g), x);
  return select(t < V(0.9), erf_near_zero(x), large);
}

/// Beyond, Phi(-a) is less than half the smallest number.
template <class T>
constexpr T kGeluEnd = sizeof(T) == 4 ? T(14.7) : T(38.8);
/// Phi(-a) = e^(-a^2/2) phi_tail(a), a >= 0. In float without what the roundings of q lost: GELU
/// has room for 8 ulp.
template <int N>
FG_INLINE vec<float, N> phi_tail(vec<float, N> a) {
  using V = vec<float, N>;
  const V k(2.5f), q = k / (a + k);
  return q * two_chains(q - V(0.5f), 2.826626599e-01f, 3.469536602e-01f, 2.111795396e-01f,
                        -2.955728397e-02f, -1.048801541e-01f, 2.052962035e-02f, 6.468052417e-02f,
                        -3.528633341e-02f, -3.207527846e-02f, 3.281375766e-02f);
}
template <int N>
FG_INLINE Pair<vec<double, N>> phi_tail(vec<double, N> a) {
  using V = vec<double, N>;
  return V(0.5) * scaled_erfc(a * V(0.7071067811865476));
}
/// x Phi(x). Through erfc(-x / sqrt 2), the rounding of the argument alone would cost 80 ulp in the
/// left tail.
template <class T, int N>
FG_INLINE vec<T, N> gelu(vec<T, N> x) {
  using V = vec<T, N>;
  const V a = smaller(V(kGeluEnd<T>), abs(x));
  const auto h = phi_tail(a);
  const V y = gauss(a, T(0.5), a * h);
  // At -infinity it is infinity times 0, as in the table's line.
  return select(x < V(0), x * V(0), x) - y;
}
/// Phi(x) + x phi(x), NaN at the infinities as the table's line.
template <class T, int N>
FG_INLINE vec<T, N> gelu_slope(vec<T, N> x) {
  using V = vec<T, N>;
  const V a = smaller(V(kGeluEnd<T>), abs(x));
  const auto h = phi_tail(a);
  const V y = gauss(a, T(0.5), a * V(-0.3989422804014327) + h);
  return select(x < V(0), y, V(1) - y) + x * V(0);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
