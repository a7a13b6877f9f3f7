#pragma once

#include "flowgrad/kernels/cuda/ladder/async.cuh"
#include "flowgrad/kernels/ptx_mma.cuh"

/// The tile that rungs 9 and 11 share: cp.async brings float32 slices of a and b into two buffers,
/// warps of 64 x 32 outputs feed them to the matrix units 16 x 8 x 8 at a time.
namespace flowgrad::kernels::cuda::ladder {

struct Tf32Tile {
  static constexpr int BM = 128, BN = 128, BK = 16;
  static constexpr int WM = 64, WN = 32;
  static constexpr int kThreads = 32 * (BM / WM) * (BN / WN);
  // With these the 32 words of a fragment lie in 32 banks.
  static constexpr int kPitchA = BK + 4, kPitchB = BN + 8;
};

/// Multiply::add(c, a, b) is c += a b on the fragments of mma_m16n8k8_tf32, given in float32.
template <class Multiply>
__global__ void __launch_bounds__(Tf32Tile::kThreads, 2)
    tf32_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  using Tile = Tf32Tile;
  constexpr int BM = Tile::BM, BN = Tile::BN, BK = Tile::BK, kThreads = Tile::kThreads;
  constexpr int kRows = Tile::WM / 16, kColumns = Tile::WN / 8;  // fragments of a warp
  GPU_SHARED(float, tile_a, [2][BM][Tile::kPitchA]);
  GPU_SHARED(float, tile_b, [2][BK][Tile::kPitchB]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  const int g = lane / 4, t = lane % 4;
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  const int row = warp / (BN / Tile::WN) * Tile::WM;
  const int column = warp % (BN / Tile::WN) * Tile::WN;
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

  float sums[kRows][kColumns][4] = {};
  if (slices > 0) start(0);
  for (int slice = 0; slice < slices; ++slice) {
    if (slice + 1 < slices) {
      start(slice + 1);
      gpu::cp_async_wait<1>();
    } else {
      gpu::cp_async_wait<0>();
    }
    __syncthreads();
    const auto& from_a = tile_a[slice % 2];
    const auto& from_b = tile_b[slice % 2];
#pragma unroll
    for (int i = 0; i < BK; i += 8) {
      float y[kColumns][2];
#pragma unroll
      for (int s = 0; s < kColumns; ++s) {
        y[s][0] = from_b[i + t][column + 8 * s + g];
        y[s][1] = from_b[i + t + 4][column + 8 * s + g];
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float* const at = &from_a[row + 16 * r + g][i + t];
        const float x[4] = {at[0], at[8 * Tile::kPitchA], at[4], at[8 * Tile::kPitchA + 4]};
#pragma unroll
        for (int s = 0; s < kColumns; ++s) Multiply::add(sums[r][s], x, y[s]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int s = 0; s < kColumns; ++s) {
      const int i = row0 + row + 16 * r + g;
      const int j = column0 + column + 8 * s + 2 * t;
      store2(c, i, m, j, n, sums[r][s][0], sums[r][s][1]);
      store2(c, i + 8, m, j, n, sums[r][s][2], sums[r][s][3]);
    }
  }
}

}  // namespace flowgrad::kernels::cuda::ladder
