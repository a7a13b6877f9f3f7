#pragma once
// Moves between lanes: transposition of a square of registers, and many horizontal sums at once.

#include "flowgrad/kernels/cpu/isa/vec.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

template <int N, class F, int... I>
FG_INLINE void unroll_over(F f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
/// f(0), f(1), ... f(N - 1) with compile-time arguments, written out.
template <int N, class F>
FG_INLINE void unroll(F f) {
  unroll_over<N>(f, std::make_integer_sequence<int, N>{});
}

/// Lane i of the result is lane Pick(i) of a followed by b.
template <class Pick, class T, int N, int... I>
FG_INLINE vec<T, N> shuffle_with(vec<T, N> a, vec<T, N> b, std::integer_sequence<int, I...>) {
  return {__builtin_shufflevector(a.v, b.v, Pick::lane(I)...)};
}
template <class Pick, class T, int N>
FG_INLINE vec<T, N> shuffle(vec<T, N> a, vec<T, N> b) {
  return shuffle_with<Pick>(a, b, std::make_integer_sequence<int, N>{});
}

/// Swaps the off-diagonal squares of side S: one step of a transposition.
template <int S, int N>
struct SwapLow {
  static constexpr int lane(int i) { return (i & S) == 0 ? i : N + i - S; }
};
template <int S, int N>
struct SwapHigh {
  static constexpr int lane(int i) { return (i & S) == 0 ? i + S : N + i; }
};

template <int S, class T, int N>
FG_INLINE void transpose_step(vec<T, N> (&x)[N]) {
  if constexpr (S >= 1) {
    unroll<N>([&](auto i) __attribute__((always_inline)) {
      if constexpr ((i & S) == 0) {
        const vec<T, N> low = shuffle<SwapLow<S, N>>(x[i], x[i + S]);
        x[i + S] = shuffle<SwapHigh<S, N>>(x[i], x[i + S]);
        x[i] = low;
      }
    });
    transpose_step<S / 2>(x);
  }
}
template <class T, int N>
FG_INLINE void transpose(vec<T, N> (&x)[N]) {
  transpose_step<N / 2>(x);
}

/// Of vectors holding groups of G lanes: the first (or second) halves of all groups of a, then of
/// b.
template <int G, int N, bool Second>
struct HalfGroups {
  static constexpr int lane(int i) {
    const int half = G / 2, group = i / half;
    return group * G + i % half + (Second ? half : 0);
  }
};
template <int G, int Count, class T, int N>
FG_INLINE void sum_step(vec<T, N>* x) {
  if constexpr (G > 1) {
    unroll<Count / 2>([&](auto i) __attribute__((always_inline)) {
      const vec<T, N> a = x[2 * i], b = x[2 * i + 1];
      x[i] = shuffle<HalfGroups<G, N, false>>(a, b) + shuffle<HalfGroups<G, N, true>>(a, b);
    });
    sum_step<G / 2, Count / 2>(x);
  }
}
/// Lane i of the result is the sum of the lanes of x[i], halves added first, then quarters, ...
template <class T, int N>
FG_INLINE vec<T, N> horizontal_sums(vec<T, N> (&x)[N]) {
  sum_step<N, N>(&x[0]);
  return x[0];
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
