#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::lu(View, View, View, View) { throw Error("lu: no CUDA kernel"); }
void CudaBackend::cholesky(View, View) { throw Error("cholesky: no CUDA kernel"); }
void CudaBackend::triangular_solve(View, View, bool, bool, View) {
  throw Error("triangular_solve: no CUDA kernel");
}

}  // namespace flowgrad::kernels
