// bfloat16 in the matrix units: 16 x 8 x 16 in one instruction, twice TF32's rate, and ldmatrix
// brings four fragments from shared memory in one go. Operands are rounded to 8 bits on the way
// there, so they pass through registers again; the next slice is loaded while this one is
// multiplied.
#include "flowgrad/kernels/cuda/ladder/common.cuh"
#include "flowgrad/kernels/ptx_mma.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int BM = 128, BN = 128, BK = 16;
constexpr int WM = 64, WN = 32;  // of a warp
constexpr int kThreads = 32 * (BM / WM) * (BN / WN);
constexpr int kRows = WM / 16, kColumns = WN / 8;  // fragments of a warp
// Rows start at different 16-byte pieces of the 128 bytes that one access may touch.
constexpr int kPitchA = BK + 8, kPitchB = BN + 8;
constexpr int kVectors = BM * BK / 4 / kThreads;  // float4 a thread, of a and of b
static_assert(BM == BN);

template <int N>
struct alignas(16) Row {
  std::uint16_t v[N];
};

GPU_INLINE void store_rounded(std::uint16_t* to, const Float4& v) {
  const gpu::Vec<std::uint32_t, 2> packed = {
      {gpu::pack_bf16(v[0], v[1]), gpu::pack_bf16(v[2], v[3])}};
  gpu::store_vec(reinterpret_cast<std::uint32_t*>(to), packed);
}

__global__ void __launch_bounds__(kThreads, 2)
    bf16_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(Row<kPitchA>, tile_a, [2][BM]);
  GPU_SHARED(Row<kPitchB>, tile_b, [2][BK]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  const int row0 = static_cast<int>(blockIdx.y) * BM;
  const int column0 = static_cast<int>(blockIdx.x) * BN;
  const int row = warp / (BN / WN) * WM;
  const int column = warp % (BN / WN) * WN;

  Float4 next_a[kVectors], next_b[kVectors];
  const auto load = [&](int k0) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = thread + i * kThreads;
      next_a[i] = load4(a, row0 + at / (BK / 4), m, k0 + at % (BK / 4) * 4, k);
      next_b[i] = load4(b, k0 + at / (BN / 4), k, column0 + at % (BN / 4) * 4, n);
    }
  };
  const auto store = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = thread + i * kThreads;
      store_rounded(&tile_a[buffer][at / (BK / 4)].v[at % (BK / 4) * 4], next_a[i]);
      store_rounded(&tile_b[buffer][at / (BN / 4)].v[at % (BN / 4) * 4], next_b[i]);
    }
  };

  float sums[kRows][kColumns][4] = {};
  load(0);
  store(0);
  __syncthreads();
  for (int k0 = 0, buffer = 0; k0 < k; k0 += BK, buffer ^= 1) {
    if (k0 + BK < k) load(k0 + BK);
    std::uint32_t y[kColumns / 2][4];
#pragma unroll
    for (int s = 0; s < kColumns / 2; ++s)
      gpu::ldmatrix<4, true>(y[s], &tile_b[buffer][lane % 16].v[column + 16 * s + lane / 16 * 8]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      std::uint32_t x[4];
      gpu::ldmatrix<4>(x, &tile_a[buffer][row + 16 * r + lane % 16].v[lane / 16 * 8]);
#pragma unroll
      for (int s = 0; s < kColumns; ++s) {
        const std::uint32_t pair[2] = {y[s / 2][s % 2 * 2], y[s / 2][s % 2 * 2 + 1]};
        gpu::mma_m16n8k16_bf16(sums[r][s], x, pair);
      }
    }
    if (k0 + BK < k) {
      store(buffer ^ 1);
      __syncthreads();
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int s = 0; s < kColumns; ++s) {
      const int i = row0 + row + 16 * r + lane / 4;
      const int j = column0 + column + 8 * s + lane % 4 * 2;
      store2(c, i, m, j, n, sums[r][s][0], sums[r][s][1]);
      store2(c, i + 8, m, j, n, sums[r][s][2], sums[r][s][3]);
    }
  }
}

}  // namespace

void bf16(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(bf16_kernel, grid_of(m, n, BM, BN), dim3(kThreads), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
