#include "support/cublas.h"

#include <string>

#include "flowgrad/core/error.h"

#if defined(FLOWGRAD_GPU_CUDA)
#include <cublas_v2.h>
#endif

namespace flowgrad::bench {

const char* cublas_name(CublasMode mode) {
  switch (mode) {
    case CublasMode::float32: return "cuBLAS";
    case CublasMode::tf32: return "cuBLAS TF32";
    case CublasMode::bf16: return "cuBLAS bf16";
  }
  return "";
}

#if defined(FLOWGRAD_GPU_CUDA)
namespace {

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw DeviceError(std::string("cuBLAS: ") + cublasGetStatusString(status));
}

cublasHandle_t handle() {
  static const cublasHandle_t instance = [] {
    cublasHandle_t h = nullptr;
    check(cublasCreate(&h));
    return h;
  }();
  return instance;
}

}  // namespace

bool has_cublas() { return true; }

void cublas_gemm(CublasMode mode, const float* a, const float* b, float* c, int m, int n, int k) {
  const float one = 1, zero = 0;
  const cublasComputeType_t compute = mode == CublasMode::float32 ? CUBLAS_COMPUTE_32F
                                      : mode == CublasMode::tf32  ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                  : CUBLAS_COMPUTE_32F_FAST_16BF;
  // Column-major cuBLAS sees the transposed matrices: c^T = b^T a^T.
  check(cublasGemmEx(handle(), CUBLAS_OP_N, CUBLAS_OP_N, n, m, k, &one, b, CUDA_R_32F, n, a,
                     CUDA_R_32F, k, &zero, c, CUDA_R_32F, n, compute, CUBLAS_GEMM_DEFAULT));
}
#else
bool has_cublas() { return false; }
void cublas_gemm(CublasMode, const float*, const float*, float*, int, int, int) {
  throw DeviceError("cuBLAS: this build has no CUDA");
}
#endif

}  // namespace flowgrad::bench
