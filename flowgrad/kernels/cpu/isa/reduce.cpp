// Reductions, softmax and optimiser steps for one instruction set. A fold's order depends on the
// number of elements only.

#include "flowgrad/kernels/cpu/isa/fold.h"
#include "flowgrad/kernels/cpu/isa/math_exp.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::AdamCoefficients;
using cpu::kMostColumns;
using cpu::ReduceTable;
using cpu::ReduceTables;
using cpu::SgdCoefficients;
using std::int64_t;

template <class Op, class Map, class T>
double fold(const T* x, int64_t n) {
  return fold_mapped<Op, Map>(x, n);
}

/// Rows no longer than a register, one in every lane; each in the order of its elements.
template <class Op, class Map, class T>
void fold_short_rows(const T* x, int64_t rows, int64_t row_stride, int n, T* out) {
  using V = vec<T>;
  constexpr int W = V::size;
  for (int64_t r0 = 0; r0 < rows; r0 += W, x += W * row_stride) {
    const int block = rows - r0 < W ? static_cast<int>(rows - r0) : W;
    V column[W];
    for (int r = 0; r < W; ++r) column[r] = r < block ? V::load(x + r * row_stride, n) : V(0);
    transpose(column);
    Wide<T> value = identities<Op, T>();
    for (int i = 0; i < n; ++i) join_into<Op>(value, Map::of(column[i]));
    put(narrow(value), out + r0, block);
  }
}

template <class Op, class Map, class T>
void fold_rows(const T* x, int64_t rows, int64_t row_stride, int64_t n, T* out) {
  // Short rows: the joins of the lanes would be most of the work.
  if (n <= kLanes<T>)
    return fold_short_rows<Op, Map>(x, rows, row_stride, static_cast<int>(n), out);
  if (n < 16) {
    for (int64_t r = 0; r < rows; ++r, x += row_stride) {
      double value = Op::identity;
      for (int64_t i = 0; i < n; ++i) value = Op::join(value, Map::of(static_cast<double>(x[i])));
      out[r] = static_cast<T>(value);
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r)
    out[r] = static_cast<T>(fold_mapped<Op, Map>(x + r * row_stride, n));
}

template <class Op, class Map, class T>
void fold_columns(const T* x, int64_t rows, int64_t row_stride, int64_t columns, double* partial) {
  constexpr int W = kLanes<T>;
  const int64_t whole = columns - columns % W;
  for (int64_t j = 0; j < columns; ++j) partial[j] = Op::identity;
  // Eight rows side by side, read from end to end, onto results that stay in the first-level cache.
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    const T* const p = x + r * row_stride;
    for (int64_t j = 0; j < whole; j += W) {
      join_onto<Op>(partial + j, Map::template of8<Op>(p + j, row_stride));
    }
  }
  for (; r < rows; ++r)
    for (int64_t j = 0; j < whole; j += W)
      join_onto<Op>(partial + j, Map::of(vec<T>::load(x + r * row_stride + j)));
  if (whole == columns) return;
  const int count = static_cast<int>(columns - whole);
  Wide<T> tail = identities<Op, T>();
  for (r = 0; r < rows; ++r)
    join_into<Op>(tail, Map::of(vec<T>::load(x + r * row_stride + whole, count)));
  double lanes[W];
  double* to = lanes;
  for (const D part : tail.part) {
    part.store(to);
    to += kDoubles;
  }
  __builtin_memcpy(partial + whole, lanes, static_cast<std::size_t>(count) * sizeof(double));
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
      V four(0);
      for (int k = 0; k < 4; ++k) {
        const V v = V::load(x + begin + k * W) - shift, e = exp(v);
        (Logarithm ? v : e).store(out + begin + k * W);
        four = four + e;
      }
      join_into<Sum>(sum, wide(four));
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

/// The sum of n elements of g, times those of y where they are softmax's and not its logarithm's.
/// Products and sums of four stay in T: their sum is one of shares of the largest g.
template <bool Logarithm, class T>
FG_INLINE double softmax_weight(const T* g, const T* y, int64_t n) {
  using V = vec<T>;
  constexpr int W = V::size;
  const auto term = [=](int64_t i, auto count) __attribute__((always_inline)) {
    if constexpr (Logarithm)
      return take(g + i, count);
    else
      return take(g + i, count) * take(y + i, count);
  };
  constexpr std::integral_constant<int, W> whole;
  const auto four = [=](int64_t i) __attribute__((always_inline)) {
    return wide(join4<Sum, T>(term(i, whole), term(i + W, whole), term(i + 2 * W, whole),
                              term(i + 3 * W, whole)));
  };
  Wide<T> sum[2] = {identities<Sum, T>(), identities<Sum, T>()};
  int64_t i = 0;
  for (; i + 8 * W <= n; i += 8 * W)
    for (int k = 0; k < 2; ++k) join_into<Sum>(sum[k], four(i + 4 * k * W));
  for (; i + W <= n; i += W) join_into<Sum>(sum[0], wide(term(i, whole)));
  if (i < n) join_into<Sum>(sum[1], wide(term(i, static_cast<int>(n - i))));
  join_into<Sum>(sum[0], sum[1]);
  return total_of(sum[0]);
}

template <bool Logarithm, class T>
void softmax_grad(const T* g, const T* y, int64_t rows, int64_t n, T* out) {
  using V = vec<T>;
  for (int64_t r = 0; r < rows; ++r, g += n, y += n, out += n) {
    const V total(softmax_weight<Logarithm>(g, y, n));
    for_registers<V::size>(
        n, [=](int64_t i, auto count) __attribute__((always_inline)) {
          const V vg = take(g + i, count), vy = take(y + i, count);
          put(Logarithm ? vg - exp(vy) * total : vy * (vg - total), out + i, count);
        });
  }
}

/// f(row, j, count, rows) over groups of four rows, then single ones, each group from end to end.
template <class T, class F>
FG_INLINE void for_row_groups(int64_t rows, int64_t columns, F f) {
  const auto group = [=](int64_t r, auto at_once) __attribute__((always_inline)) {
    for_registers<vec<T>::size>(
        columns, [=](int64_t j, auto count)
                     __attribute__((always_inline)) { f(r, j, count, at_once); });
  };
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) group(r, std::integral_constant<int, 4>{});
  for (; r < rows; ++r) group(r, std::integral_constant<int, 1>{});
}
template <bool Logarithm, class T>
void softmax_columns(const T* x, int64_t rows, int64_t stride, int64_t columns, T* out) {
  using V = vec<T>;
  T tops[kMostColumns], scales[kMostColumns];
  double sums[kMostColumns] = {};
  T* const top = tops;
  double* const sum = sums;
  for (T& t : tops) t = -static_cast<T>(__builtin_inf());
  for_row_groups<T>(
      rows,
      columns, [=](int64_t r, int64_t j, auto count, auto at_once) __attribute__((always_inline)) {
        V v = V::load(top + j);
        for (int k = 0; k < at_once; ++k) v = max(v, take(x + (r + k) * stride + j, count));
        v.store(top + j);
      });
  for_row_groups<T>(
      rows,
      columns, [=](int64_t r, int64_t j, auto count, auto at_once) __attribute__((always_inline)) {
        const V shift = V::load(top + j);
        V total(0);
        for (int k = 0; k < at_once; ++k) {
          const int64_t at = (r + k) * stride + j;
          const V d = take(x + at, count) - shift, e = exp(d);
          total = total + e;
          put(Logarithm ? d : e, out + at, count);
        }
        join_onto<Sum>(sum + j, wide(total));
      });
  T* const scale = scales;
  for (int64_t j = 0; j < columns; ++j)
    scale[j] = static_cast<T>(Logarithm ? __builtin_log(sum[j]) : 1 / sum[j]);
  for_row_groups<T>(
      rows,
      columns, [=](int64_t r, int64_t j, auto count, auto at_once) __attribute__((always_inline)) {
        const V by = take(static_cast<const T*>(scale) + j, count);
        for (int k = 0; k < at_once; ++k) {
          T* const to = out + (r + k) * stride + j;
          const V v = take(static_cast<const T*>(to), count);
          put(Logarithm ? v - by : v * by, to, count);
        }
      });
}

template <bool Logarithm, class T>
void softmax_columns_grad(const T* g, const T* y, int64_t rows, int64_t stride, int64_t columns,
                          T* out) {
  using V = vec<T>;
  double sums[kMostColumns] = {};
  double* const sum = sums;
  for_row_groups<T>(
      rows,
      columns, [=](int64_t r, int64_t j, auto count, auto at_once) __attribute__((always_inline)) {
        V total(0);
        for (int k = 0; k < at_once; ++k) {
          const int64_t at = (r + k) * stride + j;
          const V vg = take(g + at, count);
          total = total + (Logarithm ? vg : vg * take(y + at, count));
        }
        join_onto<Sum>(sum + j, wide(total));
      });
  T totals[kMostColumns];
  T* const total = totals;
  for (int64_t j = 0; j < columns; ++j) total[j] = static_cast<T>(sum[j]);
  for_row_groups<T>(
      rows,
      columns, [=](int64_t r, int64_t j, auto count, auto at_once) __attribute__((always_inline)) {
        const V all = take(static_cast<const T*>(total) + j, count);
        for (int k = 0; k < at_once; ++k) {
          const int64_t at = (r + k) * stride + j;
          const V vg = take(g + at, count), vy = take(y + at, count);
          put(Logarithm ? vg - exp(vy) * all : vy * (vg - all), out + at, count);
        }
      });
}

template <class T>
void adam(T* parameter, const T* gradient, T* moment1, T* moment2, int64_t n,
          const AdamCoefficients& c) {
  using V = vec<T>;
  const V beta1(c.beta1), rest1(1 - c.beta1), beta2(c.beta2), rest2(1 - c.beta2), rate(c.rate),
      root(c.inverse_root_correction2), epsilon(c.epsilon), decay(c.decay),
      factor(c.gradient_factor);
  const bool decoupled = c.decoupled;
  for_row(
      parameter, n, 0, [=](int64_t i, V w, auto count) __attribute__((always_inline)) {
        const bool whole = static_cast<int>(count) == V::size;
        V g = factor * (whole ? V::load(gradient + i) : V::load(gradient + i, count));
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
  const V rate(c.rate), momentum(c.momentum), keep(c.keep), decay(c.decay),
      factor(c.gradient_factor);
  const bool has_momentum = c.momentum != 0, first = c.first_step, nesterov = c.nesterov;
  for_row(
      parameter, n, 0, [=](int64_t i, V w, auto count) __attribute__((always_inline)) {
        const bool whole = static_cast<int>(count) == V::size;
        V g = factor * (whole ? V::load(gradient + i) : V::load(gradient + i, count));
        g = fma(decay, w, g);
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
  using P = Plain<T>;
  using S = Squared<T>;
  return {
      {&fold<Sum, P, T>, &fold<Prod, P, T>, &fold<Min, P, T>, &fold<Max, P, T>, &fold<Sum, S, T>},
      {&fold_rows<Sum, P, T>, &fold_rows<Prod, P, T>, &fold_rows<Min, P, T>, &fold_rows<Max, P, T>,
       &fold_rows<Sum, S, T>},
      {&fold_columns<Sum, P, T>, &fold_columns<Prod, P, T>, &fold_columns<Min, P, T>,
       &fold_columns<Max, P, T>, &fold_columns<Sum, S, T>},
      {&softmax<false, T>, &softmax<true, T>},
      {&softmax_grad<false, T>, &softmax_grad<true, T>},
      {&softmax_columns<false, T>, &softmax_columns<true, T>},
      {&softmax_columns_grad<false, T>, &softmax_columns_grad<true, T>},
      &adam<T>,
      &sgd<T>};
}

}  // namespace

extern const ReduceTables reduce_tables;
const ReduceTables reduce_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
