// One thread for each element of c. The threads of a warp lie below each other, so each of its
// loads from a and stores to c touches 32 rows: 32 transactions where one would do. The bottom of
// the ladder.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

__global__ void naive_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  const int row = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int column = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= m || column >= n) return;
  float sum = 0;
  for (int i = 0; i < k; ++i)
    sum += a[static_cast<int64_t>(row) * k + i] * b[static_cast<int64_t>(i) * n + column];
  c[static_cast<int64_t>(row) * n + column] = sum;
}

}  // namespace

void naive(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(naive_kernel, grid_of(m, n, 32, 8), dim3(32, 8), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
