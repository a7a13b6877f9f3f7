// The copy engine (TMA) feeding the ordinary float32 units: full precision, and threads that only
// multiply. In 08 every thread computes addresses and starts copies; here one thread starts one
// copy of a whole slice, and a barrier in shared memory says when it has landed. The slice of a
// keeps its rows, as in 08, but a thread reads four steps of k of a row in one access, and the
// engine's swizzle instead of padding keeps neighbouring rows in different banks. Chunks of k are
// summed by themselves, as matmul does. sm_90 and newer.
#include "flowgrad/kernels/cuda/ladder/common.cuh"
#include "flowgrad/kernels/cuda/matmul.h"
#include "flowgrad/kernels/cuda/matmul_tile.cuh"
#include "flowgrad/kernels/ptx_sm90.cuh"

// nvcc also compiles this file for architectures without TMA: whoever launches that is told.
#if defined(FLOWGRAD_GPU_EMULATED) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FLOWGRAD_HAS_TMA 1
#endif

namespace flowgrad::kernels::cuda::ladder {
namespace {

// 128 x 128 outputs a block, 16 deep; 8 x 16 a thread; 4 x 8 threads a warp, warps below each
// other.
using TmaTile = MatmulTile<float, 128, 128, 16, 8, 16, 4, 8, 2>;
constexpr int kFloatsA = TmaTile::BM * TmaTile::BK;
constexpr int kFloats = kFloatsA + TmaTile::BK * TmaTile::BN;  // of a slice of a and one of b
constexpr std::size_t kAlignment = 1024;
// What the places of pieces and of slices rest on.
static_assert(TmaTile::LM == 4 && TmaTile::WM % 8 == 0 && TmaTile::BK == 16);
static_assert(TmaTile::BN == TmaTile::WN && kFloats * sizeof(float) % kAlignment == 0 &&
              kFloatsA * sizeof(float) % 128 == 0);
constexpr std::size_t kShared =
    kAlignment + sizeof(float) * (2 * kFloats + TmaTile::BM * TmaTile::BN);

/// Dynamic shared memory: two slices, and each thread's totals of whole chunks.
__global__ void __launch_bounds__(TmaTile::kThreads, TmaTile::kBlocks)
    tma_kernel(const __grid_constant__ gpu::TensorMap map_a,
               const __grid_constant__ gpu::TensorMap map_b, float* c, int m, int n, int k,
               int chunk) {
#if defined(FLOWGRAD_HAS_TMA)
  constexpr int BM = TmaTile::BM, BN = TmaTile::BN, BK = TmaTile::BK;
  constexpr int TM = TmaTile::TM, TN = TmaTile::TN, LM = TmaTile::LM, LN = TmaTile::LN;
  constexpr int kThreads = TmaTile::kThreads;
  GPU_DYN_SHARED(char, raw);
  GPU_SHARED(std::uint64_t, full, [2]);
  char* const aligned = raw + (kAlignment - gpu::shared_address(raw) % kAlignment) % kAlignment;
  auto* const slices = reinterpret_cast<float*>(aligned);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  float* const totals = slices + 2 * kFloats + thread * 4;
  int row0, column0;
  tile_position(static_cast<int>(blockIdx.x), (m + BM - 1) / BM, (n + BN - 1) / BN, row0, column0);
  row0 *= BM;
  column0 *= BN;
  const int row = warp * TmaTile::WM + lane / LN;  // and every LM-th one from there
  const int column = lane % LN * 4;

  if (thread == 0) {
    for (int i = 0; i < 2; ++i) gpu::mbarrier_init(&full[i], 1);
    gpu::mbarrier_fence();
  }
  __syncthreads();
  const auto start = [&](int slice) {
    const int half = slice % 2;
    float* const to = slices + half * kFloats;
    gpu::mbarrier_arrive_expect(&full[half], kFloats * sizeof(float));
    gpu::tma_load(to, map_a, slice * BK, row0, &full[half]);
    gpu::tma_load(to + kFloatsA, map_b, column0, slice * BK, &full[half]);
  };
  if (thread == 0) start(0);

  float sums[TM][TN] = {};
#pragma unroll
  for (int i = 0; i < TM * TN / 4; ++i) gpu::store_vec(totals + i * kThreads * 4, Float4{});
  const int swizzle = row / 2 % 4;  // of the first row; from each to the next only bit 1 changes
  const int count = (k + BK - 1) / BK;
  int until_flush = chunk;
#pragma unroll 1
  for (int slice = 0; slice < count; ++slice) {
    const int half = slice % 2;
    gpu::mbarrier_wait(&full[half], static_cast<unsigned>(slice / 2 % 2));
    __syncthreads();  // nobody reads the slice before any more
    // The warps take turns.
    if (slice + 1 < count && thread == slice % (kThreads / 32) * 32) start(slice + 1);
    const float* const from_a = slices + half * kFloats + row * BK;
    const float* const from_b = slices + half * kFloats + kFloatsA + column;
#pragma unroll
    for (int piece = 0; piece < BK / 4; ++piece) {
      Float4 x[TM];
#pragma unroll
      for (int i = 0; i < TM; ++i)
        x[i] = gpu::load_vec<4>(from_a + i * LM * BK + (piece ^ i % 2 * 2 ^ swizzle) * 4);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        Float4 y[TN / 4];
#pragma unroll
        for (int j = 0; j < TN / 4; ++j)
          y[j] = gpu::load_vec<4>(from_b + (piece * 4 + step) * BN + j * LN * 4);
#pragma unroll
        for (int i = 0; i < TM; ++i) {
#pragma unroll
          for (int j = 0; j < TN; ++j)
            sums[i][j] = multiply_add(x[i][step], y[j / 4][j % 4], sums[i][j]);
        }
      }
    }
    until_flush -= BK;
    if (until_flush == 0) {
      until_flush = chunk;
      add_to_totals<TmaTile>(sums, totals);
    }
  }

#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN / 4; ++j) {
      Float4 v = gpu::load_vec<4>(totals + (i * (TN / 4) + j) * kThreads * 4);
#pragma unroll
      for (int l = 0; l < 4; ++l) v[l] += sums[i][4 * j + l];
      store4(c, row0 + row + i * LM, m, column0 + column + j * LN * 4, n, v);
    }
  }
#else
  __trap();
#endif
}

}  // namespace

void tma(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  // The engine takes rows of whole pieces of 16 bytes.
  if (m == 0 || n == 0 || k == 0 || n % 4 != 0 || k % 4 != 0)
    return cp_async(a, b, c, m, n, k, stream);
  const auto map = [](const float* data, int rows, int columns, unsigned box_rows,
                      unsigned box_columns, gpu::Swizzle swizzle) {
    return gpu::make_tensor_map(data, gpu::TensorElement::float32, static_cast<unsigned>(rows),
                                static_cast<unsigned>(columns),
                                sizeof(float) * static_cast<unsigned>(columns), box_rows,
                                box_columns, swizzle);
  };
  const unsigned tiles = gpu::blocks_for(static_cast<std::size_t>(m), TmaTile::BM) *
                         gpu::blocks_for(static_cast<std::size_t>(n), TmaTile::BN);
  gpu::launch(tma_kernel, dim3(tiles), dim3(TmaTile::kThreads), kShared, stream,
              map(a, m, k, TmaTile::BM, TmaTile::BK, gpu::Swizzle::bytes64),
              map(b, k, n, TmaTile::BK, TmaTile::BN, gpu::Swizzle::none), c, m, n, k,
              matmul_chunk(k));
}

}  // namespace flowgrad::kernels::cuda::ladder
