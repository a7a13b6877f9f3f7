#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::matmul(View, View, View, bool, View) { throw Error("matmul: no CUDA kernel"); }

}  // namespace flowgrad::kernels
