// Products by cuBLAS, in builds with FLOWGRAD_CUBLAS; in others nobody can ask for it.
#include "flowgrad/kernels/cuda/matmul.h"
#include "flowgrad/kernels/cuda/matmul_blas.h"
#include "flowgrad/kernels/precision.h"

#if defined(FLOWGRAD_CUBLAS)
#include <cublas_v2.h>

#include <mutex>
#include <string>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/gpu_graph.h"
#endif

namespace flowgrad::kernels::cuda {

#if defined(FLOWGRAD_CUBLAS)
namespace {

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError("matmul: " + std::string(call) + ": " + cublasGetStatusString(status));
}

/// cuBLAS on the default stream, one caller at a time.
class Library {
 public:
  static Library& instance() {
    static Library* const library = new Library;  // never destroyed: the driver may be gone by then
    return *library;
  }

  void run(const BlasProduct& p) {
    const std::lock_guard lock(mutex_);
    // Memory of our own, which a captured graph may name; a new stream forgets it.
    check(cublasSetStream(handle_,
                          static_cast<cudaStream_t>(gpu::native_stream(gpu::default_stream()))),
          "cublasSetStream");
    check(cublasSetWorkspace(handle_, workspace_, kWorkspace), "cublasSetWorkspace");
    if (p.dtype == DType::float64)
      multiply<double>(p, CUDA_R_64F, CUBLAS_COMPUTE_64F);
    else
      multiply<float>(p, CUDA_R_32F, compute_of(p));
  }

 private:
  static constexpr std::size_t kWorkspace = std::size_t{32} << 20;

  Library() : workspace_(gpu::allocate(kWorkspace)) {
    if (workspace_ == nullptr) {
      throw DeviceError(
          "matmul: cuBLAS needs 32 MiB of device memory to work in, and there are "
          "less");
    }
    check(cublasCreate(&handle_), "cublasCreate");
    check(cublasSetMathMode(handle_, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
    check(cublasSetAtomicsMode(handle_, CUBLAS_ATOMICS_NOT_ALLOWED), "cublasSetAtomicsMode");
  }

  /// Small products stay exact, as with our kernels.
  static cublasComputeType_t compute_of(const BlasProduct& p) {
    if (p.m < kLeastRoundedColumns || p.k < kLeastRoundedDepth) return CUBLAS_COMPUTE_32F;
    switch (matmul_precision()) {
      case MatmulPrecision::float32: break;
      case MatmulPrecision::tf32: return CUBLAS_COMPUTE_32F_FAST_TF32;
      case MatmulPrecision::bf16: return CUBLAS_COMPUTE_32F_FAST_16BF;
    }
    return CUBLAS_COMPUTE_32F;
  }

  template <class T>
  void multiply(const BlasProduct& p, cudaDataType type, cublasComputeType_t compute) {
    const T one = 1, keep = static_cast<T>(p.keep);
    const auto form = [](const BlasProduct::Operand& o) {
      return o.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    };
    check(cublasGemmStridedBatchedEx_64(handle_, form(p.left), form(p.right), p.m, p.n, p.k, &one,
                                        p.left.data, type, p.left.ld, p.left.step, p.right.data,
                                        type, p.right.ld, p.right.step, &keep, p.out, type, p.m,
                                        p.out_step, p.batch, compute, CUBLAS_GEMM_DEFAULT),
          "cublasGemmStridedBatchedEx");
  }

  std::mutex mutex_;
  void* const workspace_;
  cublasHandle_t handle_ = nullptr;
};

}  // namespace

bool multiply_by_cublas(View a, View b, View bias, bool accumulate, View out) {
  if (matmul_library() != MatmulLibrary::cublas) return false;
  multiply_by_blas([](const BlasProduct& p) { Library::instance().run(p); }, a, b, bias, accumulate,
                   out);
  return true;
}
#else
bool multiply_by_cublas(View, View, View, bool, View) { return false; }
#endif

}  // namespace flowgrad::kernels::cuda
