#include "support/cublas.h"

#include <string>

#include "flowgrad/core/error.h"

#if defined(FLOWGRAD_GPU_CUDA)
#include <cublas_v2.h>

#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/tensor.h"
#include "support/kernels.h"
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
  const auto multiply = [&](const void* x, const void* y, cudaDataType type,
                            cublasComputeType_t compute) {
    // Column-major cuBLAS sees the transposed matrices: c^T = b^T a^T.
    check(cublasGemmEx(handle(), CUBLAS_OP_N, CUBLAS_OP_N, n, m, k, &one, y, type, n, x, type, k,
                       &zero, c, CUDA_R_32F, n, compute, CUBLAS_GEMM_DEFAULT));
  };
  if (mode == CublasMode::float32) return multiply(a, b, CUDA_R_32F, CUBLAS_COMPUTE_32F);
  if (mode == CublasMode::tf32) return multiply(a, b, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32);
  const int64_t size_a = int64_t{m} * k, size_b = int64_t{k} * n;
  const Tensor rounded = Tensor::empty({size_a + size_b}, DType::bfloat16, Device::cuda());
  auto* const x = static_cast<uint16_t*>(rounded.raw());
  launch_round_bf16(a, x, size_a);
  launch_round_bf16(b, x + size_a, size_b);
  multiply(x, x + size_a, CUDA_R_16BF, CUBLAS_COMPUTE_32F);
}
#else
bool has_cublas() { return false; }
void cublas_gemm(CublasMode, const float*, const float*, float*, int, int, int) {
  throw DeviceError("cuBLAS: this build has no CUDA");
}
#endif

}  // namespace flowgrad::bench
