#pragma once
// Products of few rows, which read B once. Times a transposed matrix, x W^T for a layer's W (out,
// in): W is read where it lies, its squares transposed in registers on the way to the sums, for
// panels that are transposed in memory cost more than such a product itself. Times packed panels:
// several panels side by side. k is summed as in gemm_tile.h, each depth block added to what C has
// by then: same bits.

#include "flowgrad/kernels/cpu/isa/gemm_tile.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// Rows whose sums fit into registers beside a square.
constexpr int kFewRows = kTileRows >= 14 ? 8 : 4;

template <class T>
bool takes_few_rows(const cpu::GemmBlock<T>& g) {
  return g.m <= kFewRows && g.packed == nullptr && g.b_row == 1 && g.b_col != 1 && g.a_col == 1 &&
         g.k >= kLanes<T>;
}

/// A register of columns of MR rows (a pack R). K counts the lanes.
template <class T, class Rows, class Lanes>
struct FewRows;
template <class T, int... R, int... K>
struct FewRows<T, std::integer_sequence<int, R...>, std::integer_sequence<int, K...>> {
  using V = vec<T>;
  static constexpr int MR = sizeof...(R), W = sizeof...(K);

  FG_INLINE static void multiply_lane(const T* const (&a)[MR], std::int64_t k, V b, V (&sum)[MR]) {
    ((sum[R] = fma(V(a[R][k]), b, sum[R])), ...);
  }
  /// The first `skip` lanes have been summed before.
  FG_INLINE static void multiply_square(const T* const (&a)[MR], std::int64_t k, const T* b,
                                        std::int64_t b_col, auto skip, V (&sum)[MR]) {
    V x[W];
    load_transposed(b + k, b_col, x);
    ((K < skip ? void() : multiply_lane(a, k + K, x[K], sum)), ...);
  }
  /// The last columns, fewer than a register has.
  static void multiply_columns(const T* const (&a)[MR], std::int64_t k, std::int64_t end,
                               const T* b, std::int64_t b_col, int columns, V (&sum)[MR]) {
    T x[W] = {};
    for (; k < end; ++k) {
      for (int j = 0; j < columns; ++j) x[j] = b[j * b_col + k];
      multiply_lane(a, k, V::load(x), sum);
    }
  }

  /// Registers of columns that are summed side by side: sums wait less for each other, and more
  /// columns would push each other out of the first-level cache.
  static constexpr int NV = MR <= 2 ? 2 : 1;

  /// NVs registers of columns from j on.
  template <int NVs>
  static void run_columns(const cpu::GemmBlock<T>& g, const T* const (&a)[MR], T* const (&c)[MR],
                          std::int64_t j) {
    const T* const b = g.b + j * g.b_col;
    const int columns = g.n - j < W ? static_cast<int>(g.n - j) : W;
    bool add = g.accumulate;
    V total[NVs][MR], sum[NVs][MR];
    for (int v = 0; v < NVs; ++v)
      ((total[v][R] = add ? V::load(c[R] + j + v * W, columns) : V(0)), ...);
    for (std::int64_t k = 0; k < g.k;) {
      const std::int64_t end = g.k - k < cpu::kGemmDepth ? g.k : k + cpu::kGemmDepth;
      for (int v = 0; v < NVs; ++v) {
        const bool biased = k == 0 && g.bias != nullptr;
        const V first = biased ? V::load(g.bias + j + v * W, columns) : V(0);
        ((sum[v][R] = first), ...);
      }
      if (columns < W) {
        multiply_columns(a, k, end, b, g.b_col, columns, sum[0]);
      } else {
        for (; k + W <= end; k += W)
          for (int v = 0; v < NVs; ++v)
            multiply_square(a, k, b + v * W * g.b_col, g.b_col, std::integral_constant<int, 0>{},
                            sum[v]);
        for (int v = 0; v < NVs && k < end; ++v)
          multiply_square(a, end - W, b + v * W * g.b_col, g.b_col, W - static_cast<int>(end - k),
                          sum[v]);
      }
      k = end;
      for (int v = 0; v < NVs; ++v)
        ((total[v][R] = add ? sum[v][R] + total[v][R] : sum[v][R]), ...);
      add = true;
    }
    for (int v = 0; v < NVs; ++v)
      for (int i = 0; i < g.m; ++i) total[v][i].store(c[i] + j + v * W, columns);
  }

  static void run(const cpu::GemmBlock<T>& g) {
    // Rows past the last repeat it.
    const int rows = static_cast<int>(g.m);
    const T* const a[MR] = {g.a + (R < rows ? R : rows - 1) * g.a_row...};
    T* const c[MR] = {g.c + (R < rows ? R : rows - 1) * g.ldc...};
    std::int64_t j = 0;
    for (; j + NV * W <= g.n; j += NV * W) run_columns<NV>(g, a, c, j);
    for (; j < g.n; j += W) run_columns<1>(g, a, c, j);
  }
};

template <class T, int MR>
void few_rows(const cpu::GemmBlock<T>& g) {
  FewRows<T, std::make_integer_sequence<int, MR>, std::make_integer_sequence<int, kLanes<T>>>::run(
      g);
}
template <class T>
void few_rows(const cpu::GemmBlock<T>& g) {
  if (g.m == 1) return few_rows<T, 1>(g);
  if (g.m == 2) return few_rows<T, 2>(g);
  if (g.m <= 4) return few_rows<T, 4>(g);
  if constexpr (kFewRows == 8) return few_rows<T, 8>(g);
}

/// Rows of which each reads several packed panels at a time.
constexpr int kPanelRows = 2;

/// MR rows times adjacent packed panels, two registers each: the sums of one panel alone would wait
/// for each other, and panels that are read side by side keep more of the cache's lines on their
/// way. C counts the registers of all panels.
template <class T, int MR, class Registers>
struct FewRowsOfPanels;
template <class T, int MR, int... C>
struct FewRowsOfPanels<T, MR, std::integer_sequence<int, C...>> {
  using V = vec<T>;
  static constexpr int W = kLanes<T>, NV = sizeof...(C);

  FG_INLINE static void multiply_row(const T* a, const V (&b)[NV], V (&sum)[NV]) {
    const V av(*a);
    ((sum[C] = fma(av, b[C], sum[C])), ...);
  }

  /// As many whole groups of panels as there are; returns their columns.
  static std::int64_t run(const cpu::GemmBlock<T>& g) {
    std::int64_t j = 0;
    for (; j + NV * W <= g.n; j += NV * W) {
      for (std::int64_t k0 = 0; k0 < g.k; k0 += cpu::kGemmDepth) {
        const std::int64_t kc = g.k - k0 < cpu::kGemmDepth ? g.k - k0 : cpu::kGemmDepth;
        const T* const panels = g.packed + k0 * g.packed_width + (g.packed_column + j) * kc;
        const T* const b[NV] = {panels + C / kPanel * kPanelColumns<T> * kc + C % kPanel * W...};
        const T* const a = g.a + k0 * g.a_col;
        V sum[MR][NV];
        for (auto& row : sum)
          ((row[C] = g.bias != nullptr && k0 == 0 ? V::load(g.bias + j + C * W) : V(0)), ...);
        for (std::int64_t k = 0; k < kc; ++k) {
          const V bv[NV] = {V::load(b[C] + k * kPanelColumns<T>)...};
          for (int r = 0; r < MR; ++r) multiply_row(a + r * g.a_row + k * g.a_col, bv, sum[r]);
        }
        for (int r = 0; r < MR; ++r) {
          T* const c = g.c + r * g.ldc + j;
          if (g.accumulate || k0 > 0) ((sum[r][C] = sum[r][C] + V::load(c + C * W)), ...);
          (sum[r][C].store(c + C * W), ...);
        }
      }
    }
    return j;
  }
};

/// The columns of C that were computed, the first ones: 0 where this way is not for g.
template <class T>
std::int64_t few_rows_of_panels(const cpu::GemmBlock<T>& g) {
  if (g.packed == nullptr || g.m > kPanelRows) return 0;
  using Wide = std::make_integer_sequence<int, 4 * kPanel>;
  using Narrow = std::make_integer_sequence<int, 2 * kPanel>;
  return g.m == 1 ? FewRowsOfPanels<T, 1, Wide>::run(g) : FewRowsOfPanels<T, 2, Narrow>::run(g);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
