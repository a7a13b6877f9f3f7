#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::gather(View, int, View, View) { throw Error("gather: no CUDA kernel"); }
void CudaBackend::scatter_add(View, int, View, View) { throw Error("scatter_add: no CUDA kernel"); }
void CudaBackend::scatter_max(View, int, View, View) { throw Error("scatter_max: no CUDA kernel"); }
void CudaBackend::index_select(View, int, View, View) {
  throw Error("index_select: no CUDA kernel");
}
void CudaBackend::index_add(View, int, View, View) { throw Error("index_add: no CUDA kernel"); }

}  // namespace flowgrad::kernels
