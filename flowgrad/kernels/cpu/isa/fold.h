#pragma once
// Folds of many elements to one: operations, wide accumulators, and runs of registers. A fold's
// order depends on the number of elements only.

#include "flowgrad/kernels/cpu/isa/shuffle.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

constexpr int kDoubles = kLanes<double>;
using D = vec<double>;

// Joining a few registers in T before they are widened costs a sum a rounding or two of those few
// numbers, and the extrema nothing; a product could overflow.
struct Sum {
  static constexpr double identity = 0;
  static constexpr bool joins_in_type = true;
  template <class V>
  static FG_INLINE V join(V a, V b) {
    return a + b;
  }
};
struct Prod {
  static constexpr double identity = 1;
  static constexpr bool joins_in_type = false;
  template <class V>
  static FG_INLINE V join(V a, V b) {
    return a * b;
  }
};
struct Min {
  static constexpr double identity = __builtin_inf();
  static constexpr bool joins_in_type = true;
  template <class T, int N>
  static FG_INLINE vec<T, N> join(vec<T, N> a, vec<T, N> b) {
    return min(a, b);
  }
  static FG_INLINE double join(double a, double b) { return a != a ? a : (a < b ? a : b); }
};
struct Max {
  static constexpr double identity = -__builtin_inf();
  static constexpr bool joins_in_type = true;
  template <class T, int N>
  static FG_INLINE vec<T, N> join(vec<T, N> a, vec<T, N> b) {
    return max(a, b);
  }
  static FG_INLINE double join(double a, double b) { return a != a ? a : (a > b ? a : b); }
};

template <class T>
FG_INLINE vec<T> load_or(const T* p, int count, double fill) {
  vec<T> v(fill);
#if defined(FG_AVX512)
  if constexpr (sizeof(T) == 4)
    return {_mm512_mask_loadu_ps(v.v, static_cast<__mmask16>((1u << count) - 1u), p)};
  else
    return {_mm512_mask_loadu_pd(v.v, static_cast<__mmask8>((1u << count) - 1u), p)};
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256i first = first_words(count);
    return {_mm256_blendv_ps(v.v, _mm256_maskload_ps(p, first), _mm256_castsi256_ps(first))};
  } else {
    const __m256i first = first_words(2 * count);
    return {_mm256_blendv_pd(v.v, _mm256_maskload_pd(p, first), _mm256_castsi256_pd(first))};
  }
#else
  __builtin_memcpy(&v.v, p, static_cast<std::size_t>(count) * sizeof(T));
  return v;
#endif
}

/// The doubles of one register of T: one register of doubles, or two.
template <class T>
struct Wide {
  D part[sizeof(T) == 4 ? 2 : 1];
};
FG_INLINE Wide<float> wide(vec<float> x) {
  const auto h = widen(x);
  return {{h.low, h.high}};
}
FG_INLINE Wide<double> wide(vec<double> x) { return {{x}}; }

FG_INLINE vec<float> narrow(const Wide<float>& x) {
  return narrow<kLanes<float>>(x.part[0], x.part[1]);
}
FG_INLINE vec<double> narrow(const Wide<double>& x) { return x.part[0]; }

template <class Op, class T>
FG_INLINE void join_into(Wide<T>& into, const Wide<T>& x) {
  for (int i = 0; i < static_cast<int>(sizeof(T) == 4 ? 2 : 1); ++i)
    into.part[i] = Op::join(into.part[i], x.part[i]);
}

/// Joins x onto a register's worth of doubles in memory.
template <class Op, class T>
FG_INLINE void join_onto(double* to, const Wide<T>& x) {
  for (const D& part : x.part) {
    Op::join(D::load(to), part).store(to);
    to += kDoubles;
  }
}

/// Lane i is lane i + Half of x.
template <int Half, int N>
struct FromHalf {
  static constexpr int lane(int i) { return (i + Half) % N; }
};
/// All lanes joined into every lane: halves first, then quarters, ...
template <class Op, class T, int N, int Half = N / 2>
FG_INLINE vec<T, N> join_all(vec<T, N> x) {
  if constexpr (Half >= 1)
    return join_all<Op, T, N, Half / 2>(Op::join(x, shuffle<FromHalf<Half, N>>(x, x)));
  else
    return x;
}
template <class Op>
FG_INLINE double join_lanes(D x) {
  return join_all<Op>(x).v[0];
}

template <class Op, class T>
FG_INLINE vec<T> join4(vec<T> a, vec<T> b, vec<T> c, vec<T> d) {
  return Op::join(Op::join(a, b), Op::join(c, d));
}

/// How a fold takes its elements: as they are, or squared.
template <class T>
struct Plain {
  static FG_INLINE double of(double x) { return x; }
  static FG_INLINE Wide<T> of(vec<T> x) { return wide(x); }
  /// Four registers, `stride` elements apart.
  template <class Op>
  static FG_INLINE Wide<T> of4(const T* x, int64_t stride) {
    using V = vec<T>;
    const V a = V::load(x), b = V::load(x + stride), c = V::load(x + 2 * stride),
            d = V::load(x + 3 * stride);
    if constexpr (Op::joins_in_type) return wide(join4<Op, T>(a, b, c, d));
    Wide<T> ab = wide(a), cd = wide(c);
    join_into<Op>(ab, wide(b));
    join_into<Op>(cd, wide(d));
    join_into<Op>(ab, cd);
    return ab;
  }
  /// Eight registers, `stride` elements apart.
  template <class Op>
  static FG_INLINE Wide<T> of8(const T* x, int64_t stride) {
    if constexpr (Op::joins_in_type) {
      vec<T> half[2];
      for (int i = 0; i < 2; ++i) {
        const T* const p = x + 4 * i * stride;
        half[i] = join4<Op, T>(vec<T>::load(p), vec<T>::load(p + stride),
                               vec<T>::load(p + 2 * stride), vec<T>::load(p + 3 * stride));
      }
      return wide(Op::join(half[0], half[1]));
    }
    Wide<T> w = of4<Op>(x, stride);
    join_into<Op>(w, of4<Op>(x + 4 * stride, stride));
    return w;
  }
};
template <class T>
struct Squared {
  static FG_INLINE double of(double x) { return x * x; }
  static FG_INLINE Wide<T> of(vec<T> x) {
    Wide<T> w = wide(x);
    for (auto& part : w.part) part = part * part;
    return w;
  }
  template <class Op>
  static FG_INLINE Wide<T> of4(const T* x, int64_t stride) {
    Wide<T> w = of(vec<T>::load(x));
    for (int i = 1; i < 4; ++i) join_into<Op>(w, of(vec<T>::load(x + i * stride)));
    return w;
  }
  template <class Op>
  static FG_INLINE Wide<T> of8(const T* x, int64_t stride) {
    Wide<T> w = of4<Op>(x, stride);
    join_into<Op>(w, of4<Op>(x + 4 * stride, stride));
    return w;
  }
};

template <class Op, class T>
FG_INLINE Wide<T> identities() {
  Wide<T> w;
  for (auto& part : w.part) part = D(Op::identity);
  return w;
}

/// Two groups of eight registers side by side, then joined.
template <class Op, class Map, class T>
FG_INLINE double fold_mapped(const T* x, int64_t n) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  Wide<T> acc[2];
  for (auto& a : acc) a = identities<Op, T>();
  int64_t i = 0;
  for (; i + 16 * W <= n; i += 16 * W)
    for (int k = 0; k < 2; ++k) join_into<Op>(acc[k], Map::template of8<Op>(x + i + 8 * k * W, W));
  for (; i + 4 * W <= n; i += 4 * W) join_into<Op>(acc[0], Map::template of4<Op>(x + i, W));
  for (; i + W <= n; i += W) join_into<Op>(acc[1], Map::of(V::load(x + i)));
  if (i < n) join_into<Op>(acc[1], Map::of(load_or(x + i, static_cast<int>(n - i), Op::identity)));
  join_into<Op>(acc[0], acc[1]);
  D total = acc[0].part[0];
  if constexpr (sizeof(T) == 4) total = Op::join(total, acc[0].part[1]);
  return join_lanes<Op>(total);
}

/// f(i, register of p[i ...], count) with `fill` behind the last element.
template <class T, class F>
FG_INLINE void for_row(const T* p, int64_t n, double fill, F f) {
  constexpr int W = kLanes<T>;
  int64_t i = 0;
  for (; i + W <= n; i += W) f(i, vec<T>::load(p + i), std::integral_constant<int, W>{});
  if (i < n) f(i, load_or(p + i, static_cast<int>(n - i), fill), static_cast<int>(n - i));
}

template <class T>
FG_INLINE double total_of(const Wide<T>& w) {
  D total = w.part[0];
  if constexpr (sizeof(T) == 4) total = total + w.part[1];
  return join_lanes<Sum>(total);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
