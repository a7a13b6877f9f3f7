// First positions of extremes and running sums, along contiguous rows and down columns, for one
// instruction set. The order of every sum depends on the number of its terms only.

#include "flowgrad/kernels/cpu/isa/fold.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::kMostColumns;
using std::int64_t;

/// A bit for every lane.
template <class T, int N>
FG_INLINE std::uint64_t bits_of(mask<T, N> c) {
#if defined(FG_AVX512)
  if constexpr (sizeof c.m == 64 && sizeof(T) == 4)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(c.m));
  if constexpr (sizeof c.m == 64 && sizeof(T) == 8)
    return _mm512_movepi64_mask(reinterpret_cast<__m512i>(c.m));
#endif
#if defined(__AVX__)
  if constexpr (sizeof c.m == 32 && sizeof(T) == 4)
    return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(c.m)));
  if constexpr (sizeof c.m == 32 && sizeof(T) == 8)
    return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(c.m)));
#endif
#if defined(__SSE2__)
  if constexpr (sizeof c.m == 16 && sizeof(T) == 4)
    return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(c.m)));
  if constexpr (sizeof c.m == 16 && sizeof(T) == 8)
    return static_cast<unsigned>(_mm_movemask_pd(reinterpret_cast<__m128d>(c.m)));
#endif
  std::uint64_t bits = 0;
  for (int i = 0; i < N; ++i) bits |= static_cast<std::uint64_t>(c.m[i] & 1) << i;
  return bits;
}

/// Lanes where x takes the place of the extreme `best`; NaN is the extreme of all.
template <class Op, class T>
FG_INLINE mask<T, kLanes<T>> beats(vec<T> x, vec<T> best) {
  const auto stays = std::is_same_v<Op, Max> ? x <= best : x >= best;
  return (best == best) & !stays;
}
template <class Op, class T>
FG_INLINE bool beats(T x, T best) {
  return best == best && !(std::is_same_v<Op, Max> ? x <= best : x >= best);
}

// Of at least one register, the last may overlap the one before: neither an extreme nor a search
// in order minds.
template <class Op, class T>
FG_INLINE T extreme_of(const T* x, int64_t n) {
  using V = vec<T>;
  constexpr int W = V::size;
  V top[4];
  for (V& t : top) t = V(Op::identity);
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int k = 0; k < 4; ++k) top[k] = Op::join(top[k], V::load(x + i + k * W));
  for (; i + W <= n; i += W) top[0] = Op::join(top[0], V::load(x + i));
  top[1] = Op::join(top[1], V::load(x + n - W));
  return join_all<Op>(join4<Op, T>(top[0], top[1], top[2], top[3])).v[0];
}
template <class T>
FG_INLINE int64_t first_of(T value, const T* x, int64_t n) {
  using V = vec<T>;
  constexpr int W = V::size;
  const V wanted(value);
  const auto bits_at = [=](int64_t i) __attribute__((always_inline)) {
    const V v = V::load(x + i);
    return bits_of(value != value ? v != v : v == wanted);
  };
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    const std::uint64_t bits = bits_at(i) | bits_at(i + W) << W | bits_at(i + 2 * W) << 2 * W |
                               bits_at(i + 3 * W) << 3 * W;
    if (bits != 0) return i + __builtin_ctzll(bits);
  }
  for (; i + W <= n; i += W)
    if (const std::uint64_t bits = bits_at(i); bits != 0) return i + __builtin_ctzll(bits);
  return n - W + __builtin_ctzll(bits_at(n - W));
}

template <class Op, class T>
int64_t arg_of_row(const T* x, int64_t n) {
  // Parts stay in the first-level cache until the best of them is searched.
  constexpr int64_t kPart = 1024;
  if (n < kLanes<T>) {
    T best = x[0];
    int64_t at = 0;
    for (int64_t i = 1; i < n; ++i) {
      const bool take = beats<Op>(x[i], best);
      best = take ? x[i] : best;
      at = take ? i : at;
    }
    return at;
  }
  T best = 0;
  int64_t from = 0, length = 0;
  for (int64_t begin = 0; begin < n;) {
    const int64_t count = n - begin < 2 * kPart ? n - begin : kPart;
    const T top = extreme_of<Op>(x + begin, count);
    if (begin == 0 || beats<Op>(top, best)) {
      best = top;
      from = begin;
      length = count;
    }
    begin += count;
  }
  return from + first_of(best, x + from, length);
}

template <class Op, class T>
void arg_rows(const T* x, int64_t rows, int64_t n, int64_t* out) {
  for (int64_t r = 0; r < rows; ++r) out[r] = arg_of_row<Op>(x + r * n, n);
}

template <class Op, class T>
void arg_columns(const T* x, int64_t rows, int64_t row_stride, int64_t columns, int64_t* out) {
  using V = vec<T>;
  using Index = Raw<BitsOf<T>, V::size>;
  constexpr int W = V::size;
  T best[kMostColumns];
  BitsOf<T> at[kMostColumns];
  for (int64_t j = 0; j < columns; ++j) {
    best[j] = x[j];
    at[j] = 0;
  }
  // The last register may overlap the one before: what has been taken is not taken again.
  const auto take_rows = [&](int64_t r, auto count) __attribute__((always_inline)) {
    const auto take_at = [&](int64_t j) __attribute__((always_inline)) {
      V top = V::load(best + j);
      Index position;
      __builtin_memcpy(&position, at + j, sizeof position);
      for (int k = 0; k < count; ++k) {
        const V v = V::load(x + (r + k) * row_stride + j);
        const auto take = beats<Op>(v, top);
        top = select(take, v, top);
        position = take.m ? Index{} + static_cast<BitsOf<T>>(r + k) : position;
      }
      top.store(best + j);
      __builtin_memcpy(at + j, &position, sizeof position);
    };
    int64_t j = 0;
    for (; j + W <= columns; j += W) take_at(j);
    if (j < columns) take_at(columns - W);
  };
  int64_t r = 1;
  for (; r + 4 <= rows; r += 4) take_rows(r, std::integral_constant<int, 4>{});
  for (; r < rows; ++r) take_rows(r, std::integral_constant<int, 1>{});
  for (int64_t j = 0; j < columns; ++j) out[j] = at[j];
}

FG_INLINE vec<float> narrowed(const Wide<float>& w) {
  return narrow<kLanes<float>>(w.part[0], w.part[1]);
}
FG_INLINE vec<double> narrowed(const Wide<double>& w) { return w.part[0]; }

/// Lane i is lane i - S, or i + S from the end; zeros, of the second operand, come in.
template <int S, int N, bool Reverse>
struct Shift {
  static constexpr int lane(int i) {
    const int from = Reverse ? i + S : i - S;
    return from < 0 || from >= N ? N : from;
  }
};
template <int Lane>
struct Only {
  static constexpr int lane(int) { return Lane; }
};
template <bool Reverse, int S = 1>
FG_INLINE D running_sums(D x) {
  if constexpr (S < kDoubles)
    return running_sums<Reverse, 2 * S>(x + shuffle<Shift<S, kDoubles, Reverse>>(x, D(0)));
  else
    return x;
}

template <bool Reverse, class T>
void cumsum_rows(const T* x, int64_t rows, int64_t n, T* out) {
  constexpr int W = kLanes<T>;
  constexpr int kParts = sizeof(T) == 4 ? 2 : 1;
  using Edge = Only<Reverse ? 0 : kDoubles - 1>;
  for (int64_t row = 0; row < rows; ++row, x += n, out += n) {
    // Each register's own sums come first: from one register to the next there is one addition.
    D carry(0);
    const auto step = [&](int64_t i, auto count) __attribute__((always_inline)) {
      Wide<T> w = wide(take(x + i, count));
      D total(0);
      for (int k = 0; k < kParts; ++k) {
        D& part = w.part[Reverse ? kParts - 1 - k : k];
        part = running_sums<Reverse>(part);
        if (k > 0) part = part + total;
        total = shuffle<Edge>(part, part);
      }
      for (D& part : w.part) part = part + carry;
      carry = carry + total;
      put(narrowed(w), out + i, count);
    };
    if constexpr (Reverse) {
      int64_t i = n;
      for (; i >= W; i -= W) step(i - W, std::integral_constant<int, W>{});
      if (i > 0) step(0, static_cast<int>(i));
    } else {
      for_registers<W>(n, step);
    }
  }
}

template <bool Reverse, class T>
void cumsum_columns(const T* x, int64_t rows, int64_t row_stride, int64_t columns, T* out) {
  constexpr int W = kLanes<T>;
  double running[kMostColumns];
  for (double& r : running) r = 0;
  const auto add_rows = [&](int64_t first, auto rows_at_once) __attribute__((always_inline)) {
    for_registers<W>(
        columns, [&](int64_t j, auto count) __attribute__((always_inline)) {
          Wide<T> sum;
          double* from = running + j;
          for (D& part : sum.part) {
            part = D::load(from);
            from += kDoubles;
          }
          for (int k = 0; k < rows_at_once; ++k) {
            const int64_t at = (Reverse ? rows - 1 - first - k : first + k) * row_stride + j;
            join_into<Sum>(sum, wide(take(x + at, count)));
            put(narrowed(sum), out + at, count);
          }
          double* to = running + j;
          for (const D& part : sum.part) {
            part.store(to);
            to += kDoubles;
          }
        });
  };
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) add_rows(r, std::integral_constant<int, 4>{});
  for (; r < rows; ++r) add_rows(r, std::integral_constant<int, 1>{});
}

template <class T>
constexpr cpu::ScanTable<T> table_of() {
  return {{&arg_rows<Min, T>, &arg_rows<Max, T>},
          {&arg_columns<Min, T>, &arg_columns<Max, T>},
          {&cumsum_rows<false, T>, &cumsum_rows<true, T>},
          {&cumsum_columns<false, T>, &cumsum_columns<true, T>}};
}

}  // namespace

extern const cpu::ScanTables scan_tables;
const cpu::ScanTables scan_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
