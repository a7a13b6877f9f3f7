// A thread computes eight elements of a column: one value of b, held in a register, meets eight of
// a. Nine loads from shared memory for eight multiplications instead of sixteen, and eight
// independent sums that hide the latency of the adder.
#include "flowgrad/kernels/cuda/ladder/common.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int BM = 64, BN = 64, BK = 8, TM = 8;
constexpr int kThreads = BM * BN / TM;
static_assert(BM * BK == kThreads && BK * BN == kThreads, "each thread loads one element of both");

__global__ void __launch_bounds__(kThreads)
    register_tile_1d_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [BM][BK]);
  GPU_SHARED(float, tile_b, [BK][BN]);
  const int thread = static_cast<int>(threadIdx.x);
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  const int row = thread / BN * TM;
  const int column = thread % BN;
  float sums[TM] = {};
  for (int k0 = 0; k0 < k; k0 += BK) {
    tile_a[thread / BK][thread % BK] = load1(a, row0 + thread / BK, m, k0 + thread % BK, k);
    tile_b[thread / BN][thread % BN] = load1(b, k0 + thread / BN, k, column0 + thread % BN, n);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < BK; ++i) {
      const float y = tile_b[i][column];
#pragma unroll
      for (int r = 0; r < TM; ++r) sums[r] += tile_a[row + r][i] * y;
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < TM; ++r) {
    if (row0 + row + r < m && column0 + column < n)
      c[static_cast<int64_t>(row0 + row + r) * n + column0 + column] = sums[r];
  }
}

}  // namespace

void register_tile_1d(const float* a, const float* b, float* c, int m, int n, int k,
                      gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(register_tile_1d_kernel, grid_of(m, n, BM, BN), dim3(kThreads), 0, stream, a, b, c, m,
              n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
