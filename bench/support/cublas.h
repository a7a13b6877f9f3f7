#pragma once

/// cuBLAS as the peer of our products; nothing of the library uses it. Without a CUDA build there
/// is none.
namespace flowgrad::bench {

enum class CublasMode {
  float32,  ///< operands and sums in float32
  tf32,     ///< float32 operands, rounded to TF32 by the matrix units
  bf16      ///< float32 operands, rounded to bfloat16 by a kernel of ours first, as rung 13 does
};

bool has_cublas();
const char* cublas_name(CublasMode mode);
/// Row-major c (m, n) = a (m, k) b (k, n) on the default stream. Raises DeviceError.
void cublas_gemm(CublasMode mode, const float* a, const float* b, float* c, int m, int n, int k);

}  // namespace flowgrad::bench
