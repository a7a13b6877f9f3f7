#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::sort(View, int, bool, View, View) { throw Error("sort: no CUDA kernel"); }

}  // namespace flowgrad::kernels
