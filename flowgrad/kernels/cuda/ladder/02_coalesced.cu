// The threads of a warp lie beside each other: its loads from b and stores to c are one transaction
// of 128 bytes, its load from a one broadcast. Same arithmetic, about six times as fast.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

__global__ void coalesced_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  const int row = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (row >= m || column >= n) return;
  float sum = 0;
  for (int i = 0; i < k; ++i)
    sum += a[static_cast<int64_t>(row) * k + i] * b[static_cast<int64_t>(i) * n + column];
  c[static_cast<int64_t>(row) * n + column] = sum;
}

}  // namespace

void coalesced(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(coalesced_kernel, grid_of(m, n, 8, 32), dim3(32, 8), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
