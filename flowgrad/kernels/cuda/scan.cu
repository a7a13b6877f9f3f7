#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::scan(ScanOp, View, int, bool, View) { throw Error("scan: no CUDA kernel"); }
void CudaBackend::scan_extreme(bool, View, int, View, View) {
  throw Error("scan_extreme: no CUDA kernel");
}
void CudaBackend::linear_scan(View, View, int, bool, View) {
  throw Error("linear_scan: no CUDA kernel");
}

}  // namespace flowgrad::kernels
