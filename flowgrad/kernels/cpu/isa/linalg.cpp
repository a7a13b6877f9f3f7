// What factorisations and triangular solves do between their products, for one instruction set: few
// rows or few columns at a time, in double.

#include "flowgrad/kernels/cpu/isa/shuffle.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::kFactorColumns;
using cpu::LinalgTable;
using cpu::Triangle;
using std::int64_t;

using V = vec<double>;
constexpr int W = V::size;

/// For NV registers of columns of `count` each. A sum for every register runs beside the others,
/// since each of its steps waits for the one before.
template <int NV>
FG_INLINE void solve_columns(const Triangle& t, double* x, int64_t x_row, auto count) {
  const auto registers = [](auto f) __attribute__((always_inline)) { unroll<NV>(f); };
  for (int64_t i = 0; i < t.n; ++i) {
    const double* const row = t.at + i * t.row;
    double* const to = x + i * x_row;
    V sum[NV];
    registers([&](auto j) __attribute__((always_inline)) { sum[j] = take(to + j * W, count); });
    for (int64_t k = 0; k < i; ++k) {
      const V factor(-row[k * t.column]);
      const double* const from = x + k * x_row;
      registers([&](auto j) __attribute__((always_inline)) {
        sum[j] = fma(factor, take(from + j * W, count), sum[j]);
      });
    }
    const V diagonal(row[i * t.column]);
    registers([&](auto j) __attribute__((always_inline)) {
      put(t.unit ? sum[j] : sum[j] / diagonal, to + j * W, count);
    });
  }
}

void solve(const Triangle& t, double* x, int64_t x_row, int64_t columns) {
  constexpr std::integral_constant<int, W> whole;
  int64_t j = 0;
  for (; j + 8 * W <= columns; j += 8 * W) solve_columns<8>(t, x + j, x_row, whole);
  for (; j + 2 * W <= columns; j += 2 * W) solve_columns<2>(t, x + j, x_row, whole);
  for (; j + W <= columns; j += W) solve_columns<1>(t, x + j, x_row, whole);
  if (j < columns) solve_columns<1>(t, x + j, x_row, static_cast<int>(columns - j));
}

void swap_rows(double* a, int64_t row, int64_t columns, const int64_t* swaps, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (swaps[i] == i) continue;
    double *const one = a + i * row, *const other = a + swaps[i] * row;
    for_registers<W>(
        columns, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
          const V kept = take(one + j, lanes);
          put(take(other + j, lanes), one + j, lanes);
          put(kept, other + j, lanes);
        });
  }
}

/// The first row from k on whose element of column k is the largest; a NaN in row k stays.
FG_INLINE int64_t largest(const double* w, int64_t m, int64_t k) {
  int64_t best = k;
  double most = __builtin_fabs(w[k * kFactorColumns + k]);
  for (int64_t i = k + 1; i < m; ++i) {
    const double size = __builtin_fabs(w[i * kFactorColumns + k]);
    if (size > most) best = i, most = size;
  }
  return best;
}

void factor_columns(double* a, int64_t a_row, int64_t m, int64_t n, double* w, int64_t* swaps) {
  constexpr int64_t kRow = kFactorColumns;
  constexpr int NV = static_cast<int>(kRow) / W;
  const auto registers = [](auto f) __attribute__((always_inline)) { unroll<NV>(f); };
  V number[NV];  // of the columns
  registers([&](auto j) __attribute__((always_inline)) {
    for (int lane = 0; lane < W; ++lane) number[j].v[lane] = j * W + lane;
  });
  const auto lanes_of = [n](auto j) __attribute__((always_inline)) {
    const int64_t left = n - j * W;
    return static_cast<int>(left < 0 ? 0 : left < W ? left : W);
  };
  for (int64_t i = 0; i < m; ++i) {
    registers([&](auto j) __attribute__((always_inline)) {
      V::load(a + i * a_row + j * W, lanes_of(j)).store(w + i * kRow + j * W);
    });
  }
  for (int64_t k = 0; k < n; ++k) {
    const int64_t best = largest(w, m, k);
    double *const top = w + k * kRow, *const other = w + best * kRow;
    swaps[k] = best;
    V pivot[NV];
    mask<double, W> later[NV];
    registers([&](auto j) __attribute__((always_inline)) {
      pivot[j] = V::load(other + j * W);
      V::load(top + j * W).store(other + j * W);
      pivot[j].store(top + j * W);
      later[j] = number[j] > V(k);
    });
    const double diagonal = top[k];
    if (diagonal == 0) continue;  // the column below is zero too: U is singular, L needs nothing
    for (int64_t i = k + 1; i < m; ++i) {
      double* const row = w + i * kRow;
      const double factor = row[k] / diagonal;
      registers([&](auto j) __attribute__((always_inline)) {
        const V x = V::load(row + j * W);
        select(later[j], fma(V(-factor), pivot[j], x), x).store(row + j * W);
      });
      row[k] = factor;
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    registers([&](auto j) __attribute__((always_inline)) {
      V::load(w + i * kRow + j * W).store(a + i * a_row + j * W, lanes_of(j));
    });
  }
}

}  // namespace

extern const LinalgTable linalg_table;
const LinalgTable linalg_table = {&solve, &swap_rows, &factor_columns};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
