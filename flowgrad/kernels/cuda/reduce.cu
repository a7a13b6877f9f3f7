#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::reduce(ReduceOp, View, View) { throw Error("reduce: no CUDA kernel"); }
void CudaBackend::arg_reduce(bool, View, int, View) { throw Error("arg_reduce: no CUDA kernel"); }

}  // namespace flowgrad::kernels
