#pragma once

#include <cstdint>

#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::cpu {

/// C (m, n) = f(A (m, k) B (k, n) [+ bias (n)] [+ C]). Any strides on A and B, in elements; the
/// rows of C are contiguous, ldc apart. f, which may be null, meets elements of C while they are
/// near, a relu in the registers of their sums. In place of f there may be `gate`, laid out as C
/// is: C becomes 0 where it is at most 0, the gradient of the relu that it is. T is float or
/// double. Element (i, j) has the same bits for every m and every number of
/// threads: k is summed in one order, chosen by n and k alone.
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
  UnaryKernel<T> f = nullptr;
  const T* gate = nullptr;
  const T* ahead = nullptr;  ///< as in GemmBlock
};

template <class T>
void gemm(Gemm<T> g);
/// `count` products, operands of one and the next so many elements apart, by the calling thread.
template <class T>
void gemm_batch(Gemm<T> g, std::int64_t count, std::int64_t a_item, std::int64_t b_item,
                std::int64_t c_item);

/// Whether gemm has a path of its own for so few columns, faster than one with a packed B.
template <class T>
bool is_narrow(std::int64_t k, std::int64_t n);
/// B (k, n) packed for several products with it: the elements that it takes, and the packing.
template <class T>
std::int64_t packed_elements(std::int64_t k, std::int64_t n);
template <class T>
void pack_matrix(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n,
                 T* packed);
/// The product with a packed B; g.b is not read. The bits do not depend on m here either, but
/// differ from those of gemm where B is narrow.
template <class T>
void gemm_packed(const Gemm<T>& g, const T* packed);

extern template void gemm(Gemm<float>);
extern template void gemm(Gemm<double>);
extern template void gemm_batch(Gemm<float>, std::int64_t, std::int64_t, std::int64_t,
                                std::int64_t);
extern template void gemm_batch(Gemm<double>, std::int64_t, std::int64_t, std::int64_t,
                                std::int64_t);
extern template bool is_narrow<float>(std::int64_t, std::int64_t);
extern template bool is_narrow<double>(std::int64_t, std::int64_t);
extern template std::int64_t packed_elements<float>(std::int64_t, std::int64_t);
extern template std::int64_t packed_elements<double>(std::int64_t, std::int64_t);
extern template void pack_matrix(const float*, std::int64_t, std::int64_t, std::int64_t,
                                 std::int64_t, float*);
extern template void pack_matrix(const double*, std::int64_t, std::int64_t, std::int64_t,
                                 std::int64_t, double*);
extern template void gemm_packed(const Gemm<float>&, const float*);
extern template void gemm_packed(const Gemm<double>&, const double*);

}  // namespace flowgrad::kernels::cpu
