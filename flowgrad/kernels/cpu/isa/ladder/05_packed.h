#pragma once
// Rung 5: a panel of B, of as many rows as fit into the first-level cache, is copied together
// before the tiles go over it: in B its rows are a page apart, and share few cache sets. What
// gemm.cpp adds to this: tiles of equal height, rows of A packed where they collide, the next panel
// and C fetched ahead, transposed operands, paths for few columns.

#include "flowgrad/kernels/cpu/isa/ladder/04_register_tile.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

void packed(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
            std::int64_t k) {
  constexpr std::int64_t kDepth = 256;
  alignas(64) float panel[kDepth * kLadderColumns];
  if (k == 0) return register_tile(a, b, c, m, n, k);
  for (std::int64_t l0 = 0; l0 < k; l0 += kDepth) {
    const std::int64_t depth = k - l0 < kDepth ? k - l0 : kDepth;
    for (std::int64_t j = 0; j < n; j += kLadderColumns) {
      const std::int64_t columns = n - j < kLadderColumns ? n - j : kLadderColumns;
      for (std::int64_t l = 0; l < depth; ++l) {
        for (std::int64_t i = 0; i < columns; ++i)
          panel[l * kLadderColumns + i] = b[(l0 + l) * n + j + i];
      }
      ladder_panel(a + l0, k, panel, kLadderColumns, c + j, n, m, depth, columns, l0 > 0);
    }
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
