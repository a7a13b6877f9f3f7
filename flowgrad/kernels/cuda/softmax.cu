#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::softmax(bool, View, int, View) { throw Error("softmax: no CUDA kernel"); }
void CudaBackend::softmax_grad(bool, View, View, int, View) {
  throw Error("softmax_grad: no CUDA kernel");
}

}  // namespace flowgrad::kernels
