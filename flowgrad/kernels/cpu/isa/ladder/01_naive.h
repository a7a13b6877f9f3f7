#pragma once
// Rung 1: the definition. Each element of C is a sum over k; the inner loop walks down a column of
// B, one cache line a step, and its sum waits for itself: one multiply-add per latency.

#include <cstdint>

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

void naive(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
           std::int64_t k) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (std::int64_t l = 0; l < k; ++l) sum += a[i * k + l] * b[l * n + j];
      c[i * n + j] = sum;
    }
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
