#pragma once
// Rung 4: a tile of C lives in registers until its sums are done. For each k it takes 2 registers
// of B and one element of A per row, and makes 2 multiply-adds of each: enough of them side by side
// to hide their latency, and few enough loads to keep up with them.

#include <cstdint>

#include "flowgrad/kernels/cpu/isa/shuffle.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

#if defined(FG_AVX512)
constexpr int kLadderRows = 12;  // of 32 registers: 24 sums, 2 of B, 1 of A
#else
constexpr int kLadderRows = 6;  // of 16 registers: 12 sums, 2 of B, 1 of A
#endif
constexpr std::int64_t kLadderColumns = 2 * kLanes<float>;

/// c (MR, columns) = [c +] a (MR, k) b (k, columns), at most kLadderColumns columns; rows of A, B
/// and C are lda, ldb and ldc apart.
template <int MR>
FG_INLINE void ladder_tile(const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                           float* c, std::int64_t ldc, std::int64_t k, std::int64_t columns,
                           bool add) {
  using V = vec<float>;
  constexpr int W = kLanes<float>;
  const int first = static_cast<int>(columns < W ? columns : W);
  const int second = static_cast<int>(columns - first);
  const bool whole = columns == kLadderColumns;
  V sum[MR][2];
  unroll<MR>([&](auto i) __attribute__((always_inline)) { sum[i][0] = sum[i][1] = V(0); });
  for (std::int64_t l = 0; l < k; ++l, b += ldb) {
    const V b0 = whole ? V::load(b) : V::load(b, first);
    const V b1 = whole ? V::load(b + W) : V::load(b + first, second);
    unroll<MR>([&](auto i) __attribute__((always_inline)) {
      const V x(a[i * lda + l]);
      sum[i][0] = fma(x, b0, sum[i][0]);
      sum[i][1] = fma(x, b1, sum[i][1]);
    });
  }
  unroll<MR>([&](auto i) __attribute__((always_inline)) {
    float* const row = c + i * ldc;
    if (add) {
      sum[i][0] = sum[i][0] + V::load(row, first);
      sum[i][1] = sum[i][1] + V::load(row + first, second);
    }
    sum[i][0].store(row, first);
    sum[i][1].store(row + first, second);
  });
}

/// All m rows of A times one panel of B; the rows that fill no tile go one by one.
void ladder_panel(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                  std::int64_t ldc, std::int64_t m, std::int64_t k, std::int64_t columns,
                  bool add) {
  std::int64_t i = 0;
  for (; i + kLadderRows <= m; i += kLadderRows)
    ladder_tile<kLadderRows>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, k, columns, add);
  for (; i < m; ++i) ladder_tile<1>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, k, columns, add);
}

void register_tile(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
                   std::int64_t k) {
  for (std::int64_t j = 0; j < n; j += kLadderColumns) {
    const std::int64_t columns = n - j < kLadderColumns ? n - j : kLadderColumns;
    ladder_panel(a, k, b + j, n, c + j, n, m, k, columns, false);
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
