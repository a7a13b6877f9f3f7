// Four floats in one access everywhere: global loads and stores of 16 bytes, and the slice of a is
// transposed on its way into shared memory so that a thread's values of a lie beside each other
// there as well. A quarter of the load instructions.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int BM = 128, BN = 128, BK = 8, TM = 8, TN = 8;
constexpr int kThreads = (BM / TM) * (BN / TN);
static_assert(BM * BK == 4 * kThreads && BK * BN == 4 * kThreads, "one vector a thread");

__global__ void __launch_bounds__(kThreads, 2)
    vectorised_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [BK][BM + 4]);  // + 4: the transposed stores meet 32 different banks
  GPU_SHARED(float, tile_b, [BK][BN]);
  const int thread = static_cast<int>(threadIdx.x);
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  const int row = thread / (BN / TN) * TM;
  const int column = thread % (BN / TN) * 4;  // and 64 further on, so that reads stay together
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
        x[h] = gpu::load_vec<4>(&tile_a[i][row + 4 * h]);
        y[h] = gpu::load_vec<4>(&tile_b[i][column + 64 * h]);
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
      store4(c, row0 + row + r, m, column0 + column + 64 * h, n, v);
    }
  }
}

}  // namespace

void vectorised(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(vectorised_kernel, grid_of(m, n, BM, BN), dim3(kThreads), 0, stream, a, b, c, m, n,
              k);
}

}  // namespace flowgrad::kernels::cuda::ladder
