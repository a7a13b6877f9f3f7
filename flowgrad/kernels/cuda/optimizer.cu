#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::adam_step(std::span<const OptimizerSlot>, const AdamParams&) {
  throw Error("adam_step: no CUDA kernel");
}
void CudaBackend::sgd_step(std::span<const OptimizerSlot>, const SgdParams&) {
  throw Error("sgd_step: no CUDA kernel");
}
double CudaBackend::sum_of_squares(std::span<const View>) {
  throw Error("sum_of_squares: no CUDA kernel");
}
void CudaBackend::scale(View, double) { throw Error("scale: no CUDA kernel"); }
void CudaBackend::lerp(View, View, double) { throw Error("lerp: no CUDA kernel"); }

}  // namespace flowgrad::kernels
