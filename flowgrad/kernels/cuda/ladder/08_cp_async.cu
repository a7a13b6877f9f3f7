// Copies that run beside the arithmetic: cp.async fills one half of shared memory while the other
// is multiplied, and no register holds data on their way. The slice of a keeps its rows (a copy
// cannot transpose); a thread reads two steps of k at once from it.
#include "flowgrad/kernels/cuda/ladder/async.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int BM = 128, BN = 128, BK = 16;
constexpr int WM = 32, WN = 64;  // of a warp
constexpr int LM = 4, LN = 8;    // lanes of a warp
constexpr int TM = WM / LM, TN = WN / LN;
constexpr int kThreads = 32 * (BM / WM) * (BN / WN);
constexpr int kPitchA = BK + 4;  // neighbouring rows start 20 banks apart

__global__ void __launch_bounds__(kThreads, 2)
    cp_async_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [2][BM][kPitchA]);
  GPU_SHARED(float, tile_b, [2][BK][BN]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  const int row = warp / (BN / WN) * WM + lane / LN;  // and every LM-th row from there
  const int column = warp % (BN / WN) * WN + lane % LN * 4;
  const int slices = (k + BK - 1) / BK;

  const auto start = [&](int slice) {
    const int k0 = slice * BK;
#pragma unroll
    for (int i = thread; i < BM * BK / 4; i += kThreads)
      copy4(&tile_a[slice % 2][i / (BK / 4)][i % (BK / 4) * 4], a, row0 + i / (BK / 4), m,
            k0 + i % (BK / 4) * 4, k);
#pragma unroll
    for (int i = thread; i < BK * BN / 4; i += kThreads)
      copy4(&tile_b[slice % 2][i / (BN / 4)][i % (BN / 4) * 4], b, k0 + i / (BN / 4), k,
            column0 + i % (BN / 4) * 4, n);
    gpu::cp_async_commit();
  };

  float sums[TM][TN] = {};
  if (slices > 0) start(0);
  for (int slice = 0; slice < slices; ++slice) {
    if (slice + 1 < slices) {
      start(slice + 1);
      gpu::cp_async_wait<1>();  // this slice is here, the next one on its way
    } else {
      gpu::cp_async_wait<0>();
    }
    __syncthreads();
    const auto& from_a = tile_a[slice % 2];
    const auto& from_b = tile_b[slice % 2];
#pragma unroll 1
    for (int i = 0; i < BK; i += 2) {
      gpu::Vec<float, 2> x[TM];
#pragma unroll
      for (int r = 0; r < TM; ++r) x[r] = gpu::load_vec<2>(&from_a[row + LM * r][i]);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        Float4 y[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) y[h] = gpu::load_vec<4>(&from_b[i + step][column + WN / 2 * h]);
#pragma unroll
        for (int r = 0; r < TM; ++r) {
#pragma unroll
          for (int s = 0; s < TN; ++s) sums[r][s] += x[r][step] * y[s / 4][s % 4];
        }
      }
    }
    __syncthreads();  // the next round overwrites this slice
  }
#pragma unroll
  for (int r = 0; r < TM; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Float4 v = {
          {sums[r][4 * h], sums[r][4 * h + 1], sums[r][4 * h + 2], sums[r][4 * h + 3]}};
      store4(c, row0 + row + LM * r, m, column0 + column + WN / 2 * h, n, v);
    }
  }
}

}  // namespace

void cp_async(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(cp_async_kernel, grid_of(m, n, BM, BN), dim3(kThreads), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
