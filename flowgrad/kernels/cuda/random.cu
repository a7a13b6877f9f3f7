#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::random(RandomKind, uint64_t, uint64_t, Params, View) {
  throw Error("random: no CUDA kernel");
}

}  // namespace flowgrad::kernels
