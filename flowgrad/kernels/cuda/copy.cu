#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::copy(View, View) { throw Error("copy: no CUDA kernel"); }
void CudaBackend::fill(View, double) { throw Error("fill: no CUDA kernel"); }
void CudaBackend::arange(View, double, double) { throw Error("arange: no CUDA kernel"); }
void CudaBackend::add_into(View, View) { throw Error("add_into: no CUDA kernel"); }

}  // namespace flowgrad::kernels
