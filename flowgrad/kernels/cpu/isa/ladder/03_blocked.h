#pragma once
// Rung 3: the same loops over a block of B that stays in the second-level cache while all rows of A
// go over it. B comes from memory once instead of m times.

#include <cstdint>

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

void blocked(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
             std::int64_t k) {
  constexpr std::int64_t kDepth = 128, kColumns = 512;  // 256 kB of B
  for (std::int64_t i = 0; i < m * n; ++i) c[i] = 0;
  for (std::int64_t j0 = 0; j0 < n; j0 += kColumns) {
    const std::int64_t j1 = n - j0 < kColumns ? n : j0 + kColumns;
    for (std::int64_t l0 = 0; l0 < k; l0 += kDepth) {
      const std::int64_t l1 = k - l0 < kDepth ? k : l0 + kDepth;
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t l = l0; l < l1; ++l) {
          const float x = a[i * k + l];
          for (std::int64_t j = j0; j < j1; ++j) c[i * n + j] += x * b[l * n + j];
        }
      }
    }
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
