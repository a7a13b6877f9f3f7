#pragma once

#include <functional>

#include "flowgrad/kernels/backend.h"

/// Backend::matmul in the words of a BLAS library, so that cuBLAS can stand in for our kernels. A
/// BLAS reads matrices by columns: row-major out = a b is column-major out^T = b^T a^T.
namespace flowgrad::kernels::cuda {

/// Column-major out (m, n) = left (m, k) right (k, n) + keep out for `batch` entries: the call
/// xGEMM_STRIDED_BATCHED. An operand is stored as named, or transposed; ld are the elements from
/// one stored column to the next, step those from one entry to the next.
struct BlasProduct {
  struct Operand {
    const void* data = nullptr;
    bool transposed = false;
    int64_t ld = 1;
    int64_t step = 0;
  };
  Operand left, right;
  void* out = nullptr;
  int64_t m = 0, n = 0, k = 0, batch = 1;
  /// Of out; ld is m.
  int64_t out_step = 0;
  /// 1 to add to out, 0 to overwrite it whatever it holds.
  double keep = 0;
  DType dtype = DType::float32;
};

/// As Backend::matmul by the calls of `run`, in order. What a BLAS cannot address (two strides
/// above 1, broadcast rows) is copied to scratch memory; bias is added by a kernel of ours.
void multiply_by_blas(const std::function<void(const BlasProduct&)>& run, View a, View b, View bias,
                      bool accumulate, View out);

/// As Backend::matmul by cuBLAS where the process asked for that (precision.h); false where it did
/// not, and nothing is done. Rounds operands as matmul_precision() says.
bool multiply_by_cublas(View a, View b, View bias, bool accumulate, View out);

}  // namespace flowgrad::kernels::cuda
