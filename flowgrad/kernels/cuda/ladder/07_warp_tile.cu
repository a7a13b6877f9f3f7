// A warp owns a compact 32 x 64 part of the block's tile, its lanes 4 x 8 squares of 4 x 4 in it,
// four times. One step of k then reads 32 + 64 values for 2048 multiplications, each read without a
// bank conflict, where a warp of the rung before covered 16 x 128.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int BM = 128, BN = 128, BK = 8;
constexpr int WM = 32, WN = 64;  // of a warp
constexpr int LM = 4, LN = 8;    // lanes of a warp
constexpr int TM = WM / LM, TN = WN / LN;
constexpr int kThreads = 32 * (BM / WM) * (BN / WN);

__global__ void __launch_bounds__(kThreads, 2)
    warp_tile_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [BK][BM + 4]);
  GPU_SHARED(float, tile_b, [BK][BN]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  // A thread's squares are half a warp tile apart in both directions.
  const int row = warp / (BN / WN) * WM + lane / LN * 4;
  const int column = warp % (BN / WN) * WN + lane % LN * 4;
  const int a_row = thread / (BK / 4), a_k = thread % (BK / 4) * 4;
  const int b_k = thread / (BN / 4), b_column = thread % (BN / 4) * 4;
  float sums[TM][TN] = {};
  for (int k0 = 0; k0 < k; k0 += BK) {
    const Float4 from_a = load4(a, row0 + a_row, m, k0 + a_k, k);
#pragma unroll
    for (int i = 0; i < 4; ++i) tile_a[a_k + i][a_row] = from_a[i];
    gpu::store_vec(&tile_b[b_k][b_column], load4(b, k0 + b_k, k, column0 + b_column, n));
    __syncthreads();
#pragma unroll
    for (int i = 0; i < BK; ++i) {
      Float4 x[2], y[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        x[h] = gpu::load_vec<4>(&tile_a[i][row + WM / 2 * h]);
        y[h] = gpu::load_vec<4>(&tile_b[i][column + WN / 2 * h]);
      }
#pragma unroll
      for (int r = 0; r < TM; ++r) {
#pragma unroll
        for (int s = 0; s < TN; ++s) sums[r][s] += x[r / 4][r % 4] * y[s / 4][s % 4];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < TM; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Float4 v = {
          {sums[r][4 * h], sums[r][4 * h + 1], sums[r][4 * h + 2], sums[r][4 * h + 3]}};
      store4(c, row0 + row + WM / 2 * (r / 4) + r % 4, m, column0 + column + WN / 2 * h, n, v);
    }
  }
}

}  // namespace

void warp_tile(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(warp_tile_kernel, grid_of(m, n, BM, BN), dim3(kThreads), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
