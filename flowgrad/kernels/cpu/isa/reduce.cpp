// Reductions, softmax and optimiser steps for one instruction set. A fold's order depends on the
// number of elements only.

#include "flowgrad/kernels/cpu/isa/math_exp.h"
#include "flowgrad/kernels/cpu/isa/shuffle.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::AdamCoefficients;
using cpu::ReduceTable;
using cpu::ReduceTables;
using cpu::SgdCoefficients;
using std::int64_t;

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
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return {_mm512_mask_loadu_ps(v.v, static_cast<__mmask16>((1u << count) - 1u), p)};
  else
    return {_mm512_mask_loadu_pd(v.v, static_cast<__mmask8>((1u << count) - 1u), p)};
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

template <class Op, class T>
FG_INLINE void join_into(Wide<T>& into, const Wide<T>& x) {
  for (int i = 0; i < static_cast<int>(sizeof(T) == 4 ? 2 : 1); ++i)
    into.part[i] = Op::join(into.part[i], x.part[i]);
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
};
template <class T>
struct Squared {
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
};

template <class Op, class T>
FG_INLINE Wide<T> identities() {
  Wide<T> w;
  for (auto& part : w.part) part = D(Op::identity);
  return w;
}

/// Four groups of four registers side by side, then joined.
template <class Op, class Map, class T>
FG_INLINE double fold_mapped(const T* x, int64_t n) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  Wide<T> acc[4];
  for (auto& a : acc) a = identities<Op, T>();
  int64_t i = 0;
  for (; i + 16 * W <= n; i += 16 * W)
    for (int k = 0; k < 4; ++k) join_into<Op>(acc[k], Map::template of4<Op>(x + i + 4 * k * W, W));
  for (; i + 4 * W <= n; i += 4 * W) join_into<Op>(acc[0], Map::template of4<Op>(x + i, W));
  for (; i + W <= n; i += W) join_into<Op>(acc[1], Map::of(V::load(x + i)));
  if (i < n) join_into<Op>(acc[2], Map::of(load_or(x + i, static_cast<int>(n - i), Op::identity)));
  join_into<Op>(acc[0], acc[1]);
  join_into<Op>(acc[2], acc[3]);
  join_into<Op>(acc[0], acc[2]);
  D total = acc[0].part[0];
  if constexpr (sizeof(T) == 4) total = Op::join(total, acc[0].part[1]);
  return join_lanes<Op>(total);
}

template <class Op, class T>
double fold(const T* x, int64_t n) {
  return fold_mapped<Op, Plain<T>>(x, n);
}
template <class T>
double sum_of_squares(const T* x, int64_t n) {
  return fold_mapped<Sum, Squared<T>>(x, n);
}

template <class Op, class T>
void fold_rows(const T* x, int64_t rows, int64_t row_stride, int64_t n, T* out) {
  // Short rows: the joins of the lanes would be most of the work.
  if (n < 16) {
    for (int64_t r = 0; r < rows; ++r, x += row_stride) {
      double value = Op::identity;
      for (int64_t i = 0; i < n; ++i) value = Op::join(value, static_cast<double>(x[i]));
      out[r] = static_cast<T>(value);
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r)
    out[r] = static_cast<T>(fold_mapped<Op, Plain<T>>(x + r * row_stride, n));
}

template <class Op, class T>
void fold_columns(const T* x, int64_t rows, int64_t row_stride, int64_t columns, double* partial) {
  constexpr int W = kLanes<T>;
  const int64_t whole = columns - columns % W;
  for (int64_t j = 0; j < columns; ++j) partial[j] = Op::identity;
  // Eight rows side by side, read from end to end, onto results that stay in the first-level cache.
  const auto join = [partial](int64_t j, const Wide<T>& w) __attribute__((always_inline)) {
    double* to = partial + j;
    for (const D part : w.part) {
      Op::join(D::load(to), part).store(to);
      to += kDoubles;
    }
  };
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    const T* const p = x + r * row_stride;
    for (int64_t j = 0; j < whole; j += W) {
      Wide<T> w = Plain<T>::template of4<Op>(p + j, row_stride);
      join_into<Op>(w, Plain<T>::template of4<Op>(p + 4 * row_stride + j, row_stride));
      join(j, w);
    }
  }
  for (; r < rows; ++r)
    for (int64_t j = 0; j < whole; j += W) join(j, wide(vec<T>::load(x + r * row_stride + j)));
  if (whole == columns) return;
  const int count = static_cast<int>(columns - whole);
  Wide<T> tail = identities<Op, T>();
  for (r = 0; r < rows; ++r)
    join_into<Op>(tail, wide(vec<T>::load(x + r * row_stride + whole, count)));
  double lanes[W];
  double* to = lanes;
  for (const D part : tail.part) {
    part.store(to);
    to += kDoubles;
  }
  __builtin_memcpy(partial + whole, lanes, static_cast<std::size_t>(count) * sizeof(double));
}

/// f(i, register of p[i ...], count) with -inf behind the last element.
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

template <bool Logarithm, class T>
void softmax(const T* x, int64_t rows, int64_t n, T* out) {
  using V = vec<T>;
  constexpr double lowest = -__builtin_inf();
  if (n <= V::size) {
    // A row in one register never goes through memory.
    const int count = static_cast<int>(n);
    for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
      const V v = load_or(x, count, lowest), d = v - join_all<Max>(v), e = exp(d);
      const double total = total_of(wide(e));
      (Logarithm ? d - V(__builtin_log(total)) : e * V(1 / total)).store(out, count);
    }
    return;
  }
  constexpr int W = V::size;
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    V top[4] = {V(lowest), V(lowest), V(lowest), V(lowest)};
    int64_t begin = 0;
    for (; begin + 4 * W <= n; begin += 4 * W)
      for (int k = 0; k < 4; ++k) top[k] = max(top[k], V::load(x + begin + k * W));
    for_row(
        x + begin, n - begin, lowest, [&](int64_t, V v, auto) __attribute__((always_inline)) {
          top[0] = max(top[0], v);
        });
    const V shift = join_all<Max>(join4<Max, T>(top[0], top[1], top[2], top[3]));
    Wide<T> sum = identities<Sum, T>();
    begin = 0;
    for (; begin + 4 * W <= n; begin += 4 * W) {
      V e[4];
      for (int k = 0; k < 4; ++k) {
        const V v = V::load(x + begin + k * W) - shift;
        e[k] = exp(v);
        (Logarithm ? v : e[k]).store(out + begin + k * W);
      }
      join_into<Sum>(sum, wide(join4<Sum, T>(e[0], e[1], e[2], e[3])));
    }
    T* const to = out + begin;
    for_row(
        x + begin, n - begin,
        lowest, [&](int64_t i, V v, auto count) __attribute__((always_inline)) {
          const V e = exp(v - shift);
          join_into<Sum>(sum, wide(e));
          put(Logarithm ? v - shift : e, to + i, count);
        });
    const double total = total_of(sum);
    const V log_total(Logarithm ? __builtin_log(total) : 0.0), scale(1 / total);
    for_row(
        static_cast<const T*>(out), n,
        0, [&](int64_t i, V v, auto count) __attribute__((always_inline)) {
          put(Logarithm ? v - log_total : v * scale, out + i, count);
        });
  }
}

template <bool Logarithm, class T>
void softmax_grad(const T* g, const T* y, int64_t rows, int64_t n, T* out) {
  using V = vec<T>;
  for (int64_t r = 0; r < rows; ++r, g += n, y += n, out += n) {
    Wide<T> sum = identities<Sum, T>();
    for_row(
        g, n, 0, [&](int64_t i, V vg, auto count) __attribute__((always_inline)) {
          Wide<T> w = wide(vg);
          if constexpr (!Logarithm) {
            const Wide<T> wy =
                wide(V::size == static_cast<int>(count) ? V::load(y + i) : V::load(y + i, count));
            for (int k = 0; k < static_cast<int>(sizeof(T) == 4 ? 2 : 1); ++k)
              w.part[k] = w.part[k] * wy.part[k];
          }
          join_into<Sum>(sum, w);
        });
    const V total(total_of(sum));
    for_row(
        g, n, 0, [&](int64_t i, V vg, auto count) __attribute__((always_inline)) {
          const V vy = V::size == static_cast<int>(count) ? V::load(y + i) : V::load(y + i, count);
          put(Logarithm ? vg - exp(vy) * total : vy * (vg - total), out + i, count);
        });
  }
}

template <class T>
void adam(T* parameter, const T* gradient, T* moment1, T* moment2, int64_t n,
          const AdamCoefficients& c) {
  using V = vec<T>;
  const V beta1(c.beta1), rest1(1 - c.beta1), beta2(c.beta2), rest2(1 - c.beta2), rate(c.rate),
      root(c.inverse_root_correction2), epsilon(c.epsilon), decay(c.decay);
  const bool decoupled = c.decoupled;
  for_row(
      parameter, n, 0, [=](int64_t i, V w, auto count) __attribute__((always_inline)) {
        const bool whole = static_cast<int>(count) == V::size;
        V g = whole ? V::load(gradient + i) : V::load(gradient + i, count);
        const V m0 = whole ? V::load(moment1 + i) : V::load(moment1 + i, count);
        const V v0 = whole ? V::load(moment2 + i) : V::load(moment2 + i, count);
        if (decoupled)
          w = w * decay;
        else
          g = fma(decay, w, g);
        const V m = fma(beta1, m0, rest1 * g), v = fma(beta2, v0, rest2 * g * g);
        put(m, moment1 + i, count);
        put(v, moment2 + i, count);
        put(w - rate * m / fma(sqrt(v), root, epsilon), parameter + i, count);
      });
}

template <class T>
void sgd(T* parameter, const T* gradient, T* buffer, int64_t n, const SgdCoefficients& c) {
  using V = vec<T>;
  const V rate(c.rate), momentum(c.momentum), keep(c.keep), decay(c.decay);
  const bool has_momentum = c.momentum != 0, first = c.first_step, nesterov = c.nesterov;
  for_row(
      parameter, n, 0, [=](int64_t i, V w, auto count) __attribute__((always_inline)) {
        const bool whole = static_cast<int>(count) == V::size;
        V g = fma(decay, w, whole ? V::load(gradient + i) : V::load(gradient + i, count));
        if (has_momentum) {
          V b = g;
          if (!first)
            b = fma(momentum, whole ? V::load(buffer + i) : V::load(buffer + i, count), keep * g);
          put(b, buffer + i, count);
          g = nesterov ? fma(momentum, b, g) : b;
        }
        put(fma(-rate, g, w), parameter + i, count);
      });
}

template <class T>
constexpr ReduceTable<T> table_of() {
  return {
      {&fold<Sum, T>, &fold<Prod, T>, &fold<Min, T>, &fold<Max, T>},
      {&fold_rows<Sum, T>, &fold_rows<Prod, T>, &fold_rows<Min, T>, &fold_rows<Max, T>},
      {&fold_columns<Sum, T>, &fold_columns<Prod, T>, &fold_columns<Min, T>, &fold_columns<Max, T>},
      &sum_of_squares<T>,
      {&softmax<false, T>, &softmax<true, T>},
      {&softmax_grad<false, T>, &softmax_grad<true, T>},
      &adam<T>,
      &sgd<T>};
}

}  // namespace

extern const ReduceTables reduce_tables;
const ReduceTables reduce_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
