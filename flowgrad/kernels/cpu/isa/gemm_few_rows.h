#pragma once
// Few rows times a transposed matrix, x W^T for a layer's W (out, in): W is read once, where it
// lies, its squares transposed in registers on the way to the sums. Panels that are transposed in
// memory cost more than such a product itself. k is summed as in gemm_tile.h, each depth block
// added to what C has by then: same bits.

#include "flowgrad/kernels/cpu/isa/gemm_tile.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// Rows whose sums fit into registers beside a square.
constexpr int kFewRows = kIsAvx512 ? 8 : 4;

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
      const std::int64_t end = g.k - k < kGemmDepth ? g.k : k + kGemmDepth;
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
    for (int v = 0; v < NVs; ++v) {
      for (int i = 0; i < g.m; ++i) {
        const std::int64_t at = j + v * W;
        V x = total[v][i];
        if (g.relu) x = gated(x, x);
        if (g.gate != nullptr) x = gated(V::load(g.gate + i * g.ldc + at, columns), x);
        x.store(c[i] + at, columns);
      }
    }
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

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
