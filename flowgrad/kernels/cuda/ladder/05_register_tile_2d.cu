// A thread computes 8 x 8 elements: 16 loads from shared memory serve 64 multiplications, and the
// arithmetic units become the limit instead of shared memory.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int BM = 128, BN = 128, BK = 8, TM = 8, TN = 8;
constexpr int kThreads = (BM / TM) * (BN / TN);

__global__ void __launch_bounds__(kThreads, 2)
    register_tile_2d_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [BM][BK]);
  GPU_SHARED(float, tile_b, [BK][BN]);
  const int thread = static_cast<int>(threadIdx.x);
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  const int row = thread / (BN / TN) * TM;
  const int column = thread % (BN / TN) * TN;
  float sums[TM][TN] = {};
  for (int k0 = 0; k0 < k; k0 += BK) {
#pragma unroll
    for (int i = thread; i < BM * BK; i += kThreads)
      tile_a[i / BK][i % BK] = load1(a, row0 + i / BK, m, k0 + i % BK, k);
#pragma unroll
    for (int i = thread; i < BK * BN; i += kThreads)
      tile_b[i / BN][i % BN] = load1(b, k0 + i / BN, k, column0 + i % BN, n);
    __syncthreads();
#pragma unroll 2
    for (int i = 0; i < BK; ++i) {
      float x[TM], y[TN];
#pragma unroll
      for (int r = 0; r < TM; ++r) x[r] = tile_a[row + r][i];
#pragma unroll
      for (int s = 0; s < TN; ++s) y[s] = tile_b[i][column + s];
#pragma unroll
      for (int r = 0; r < TM; ++r) {
#pragma unroll
        for (int s = 0; s < TN; ++s) sums[r][s] += x[r] * y[s];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < TM; ++r) {
#pragma unroll
    for (int s = 0; s < TN; ++s) {
      if (row0 + row + r < m && column0 + column + s < n)
        c[static_cast<int64_t>(row0 + row + r) * n + column0 + column + s] = sums[r][s];
    }
  }
}

}  // namespace

void register_tile_2d(const float* a, const float* b, float* c, int m, int n, int k,
                      gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(register_tile_2d_kernel, grid_of(m, n, BM, BN), dim3(kThreads), 0, stream, a, b, c, m,
              n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
