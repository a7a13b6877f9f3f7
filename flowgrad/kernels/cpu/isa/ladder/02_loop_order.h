#pragma once
// Rung 2: the two inner loops change places. Rows of B and C are walked along, so every byte of a
// cache line is used and the compiler makes vector code of the inner loop. C is read and written k
// times.

#include <cstdint>

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

void loop_order(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
                std::int64_t k) {
  for (std::int64_t i = 0; i < m * n; ++i) c[i] = 0;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t l = 0; l < k; ++l) {
      const float x = a[i * k + l];
      for (std::int64_t j = 0; j < n; ++j) c[i * n + j] += x * b[l * n + j];
    }
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
