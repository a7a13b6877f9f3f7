// A block of 32 x 32 threads brings 32 x 32 squares of a and b into shared memory, where each
// element is used 32 times: global memory is read 32 times less. Now two loads from shared memory
// for each multiplication are the limit.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int kTile = 32;

__global__ void __launch_bounds__(kTile* kTile)
    shared_tile_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [kTile][kTile]);
  GPU_SHARED(float, tile_b, [kTile][kTile]);
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const int row = static_cast<int>(blockIdx.y) * kTile + y;
  const int column = static_cast<int>(blockIdx.x) * kTile + x;
  float sum = 0;
  for (int k0 = 0; k0 < k; k0 += kTile) {
    tile_a[y][x] = load1(a, row, m, k0 + x, k);
    tile_b[y][x] = load1(b, k0 + y, k, column, n);
    __syncthreads();  // the tiles are complete
#pragma unroll
    for (int i = 0; i < kTile; ++i) sum += tile_a[y][i] * tile_b[i][x];
    __syncthreads();  // nobody reads them any more
  }
  if (row < m && column < n) c[static_cast<int64_t>(row) * n + column] = sum;
}

}  // namespace

void shared_tile(const float* a, const float* b, float* c, int m, int n, int k,
                 gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(shared_tile_kernel, grid_of(m, n, kTile, kTile), dim3(kTile, kTile), 0, stream, a, b,
              c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
