#pragma once

#include <cstdint>

namespace flowgrad::kernels::cpu {

/// C (m, n) = A (m, k) B (k, n) [+ bias (n)] [+ C]. Any strides on A and B, in elements; the rows
/// of C are contiguous, ldc apart. T is float or double. Element (i, j) has the same bits for every
/// m and every number of threads: k is summed in one order, chosen by n and k alone.
template <class T>
struct Gemm {
  std::int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  std::int64_t a_row = 0, a_col = 0;
  const T* b = nullptr;
  std::int64_t b_row = 0, b_col = 0;
  T* c = nullptr;
  std::int64_t ldc = 0;
  const T* bias = nullptr;
  bool accumulate = false;
};

template <class T>
void gemm(Gemm<T> g);

extern template void gemm(Gemm<float>);
extern template void gemm(Gemm<double>);

}  // namespace flowgrad::kernels::cpu
