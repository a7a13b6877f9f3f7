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

/// 128 bits each from p, p + stride, p + 2 stride ..., one behind the other.
template <class T, int N>
FG_INLINE vec<T, N> load_quarters(const T* p, [[maybe_unused]] std::int64_t stride) {
#if defined(FG_AVX512)
  if constexpr (sizeof(Raw<T, N>) == 64) {
    const auto at = [=](int i) {
      return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * stride));
    };
    __m512 r = _mm512_castps128_ps512(at(0));
    r = _mm512_insertf32x4(r, at(1), 1);
    r = _mm512_insertf32x4(r, at(2), 2);
    return {reinterpret_cast<Raw<T, N>>(_mm512_insertf32x4(r, at(3), 3))};
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(Raw<T, N>) == 32) {
    const auto at = [=](int i) {
      return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * stride));
    };
    return {
        reinterpret_cast<Raw<T, N>>(_mm256_insertf128_ps(_mm256_castps128_ps256(at(0)), at(1), 1))};
  }
#endif
  return vec<T, N>::load(p);
}

/// Within every 128 bits: runs of S elements of a and b in turn, from their low or high halves.
template <class T, int N, int S, bool High>
struct Unpack {
  static constexpr int lane(int i) {
    constexpr int G = 16 / sizeof(T);
    const int run = i % G / S;
    return run % 2 * N + i / G * G + run / 2 * S + i % S + (High ? G / 2 : 0);
  }
};
template <int S, class T, int N>
FG_INLINE void unpack(vec<T, N>& a, vec<T, N>& b) {
  const vec<T, N> low = shuffle<Unpack<T, N, S, false>>(a, b);
  b = shuffle<Unpack<T, N, S, true>>(a, b);
  a = low;
}

/// A square in memory, transposed: lane i of x[k] is p[i * stride + k]. Loads place the quarters,
/// so that shuffles, of which a processor may do but one a cycle, remain within 128 bits only.
template <class T, int N>
FG_INLINE void load_transposed(const T* p, std::int64_t stride, vec<T, N> (&x)[N]) {
  constexpr int G = 16 / sizeof(T);
  unroll<N>([&](auto i) __attribute__((always_inline)) {
    x[i] = load_quarters<T, N>(p + i % G * stride + i / G * G, G * stride);
  });
  unroll<N / G>([&](auto q) __attribute__((always_inline)) {
    vec<T, N>* const of = x + q * G;
    if constexpr (G == 2) {
      unpack<1>(of[0], of[1]);
    } else {
      unpack<1>(of[0], of[1]);
      unpack<1>(of[2], of[3]);
      unpack<2>(of[0], of[2]);
      unpack<2>(of[1], of[3]);
      const vec<T, N> second = of[2];
      of[2] = of[1];
      of[1] = second;
    }
  });
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
