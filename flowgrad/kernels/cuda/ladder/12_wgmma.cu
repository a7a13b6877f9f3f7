// Hopper: the copy engine (TMA) writes swizzled tiles into a ring of buffers, and a warp group
// multiplies 64 x 256 outputs straight from shared memory in one instruction. Warps are
// specialised: one thread of the first group feeds the ring, the two other groups only multiply;
// barriers in shared memory say which buffers are full and which empty. wgmma wants both operands
// along k, in the type that it multiplies: a first pass rounds a and transposes b into padded
// copies. sm_90a only.
#include <algorithm>

#include "flowgrad/kernels/cuda/ladder/common.cuh"
#include "flowgrad/kernels/cuda/matmul_tile.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/ptx_sm90.cuh"

// nvcc also compiles this file for architectures without wgmma: whoever launches that is told.
#if defined(FLOWGRAD_GPU_EMULATED) || !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FLOWGRAD_HAS_WGMMA 1
#endif

namespace flowgrad::kernels::cuda::ladder {
namespace {

constexpr int kGroup = 128;    // threads of a warp group
constexpr int kConsumers = 2;  // warp groups that multiply
constexpr int kThreads = kGroup * (1 + kConsumers);
constexpr int BM = 64 * kConsumers, BN = 256;
constexpr int kRowBytes = 128;  // of a tile: 32 float32 or 64 bfloat16 along k
constexpr int kBytesA = BM * kRowBytes, kBytesB = BN * kRowBytes;
constexpr int kStage = kBytesA + kBytesB;
constexpr int kStages = 4;
// Of the first pass: columns of a block, and rows that become neighbours.
constexpr int kColumns = 32, kDepth = 64;

GPU_INLINE void round_to(float x, std::uint32_t* out) { *out = gpu::to_tf32(x); }
GPU_INLINE void round_to(float x, std::uint16_t* out) {
  *out = static_cast<std::uint16_t>(gpu::pack_bf16(x, 0.0f));
}

/// out(row, column) = x(row, column), rows pitch elements apart. V columns a thread; V = 4 needs
/// columns that are a multiple of 4.
template <int V, class T>
__global__ void round_kernel(const float* x, T* out, int rows, int columns, int pitch) {
  const int column = V * static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int row = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (row >= rows || column >= columns) return;
  const auto value = gpu::load_vec<V>(x + static_cast<int64_t>(row) * columns + column);
  gpu::Vec<T, V> rounded;
#pragma unroll
  for (int i = 0; i < V; ++i) round_to(value[i], &rounded[i]);
  gpu::store_vec(out + static_cast<int64_t>(row) * pitch + column, rounded);
}

/// out(column, row) = x(row, column): tiles pass through shared memory, so that both sides are read
/// and written along rows. pitch is even and at least rows; what is written beyond rows is not
/// read.
template <class T>
__global__ void round_transposed_kernel(const float* x, T* out, int rows, int columns, int pitch) {
  GPU_SHARED(float, tile, [kDepth][kColumns + 1]);
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int step = static_cast<int>(blockDim.y);
  const int row0 = static_cast<int>(blockIdx.y) * kDepth;
  const int column0 = static_cast<int>(blockIdx.x) * kColumns;
  for (int i = ty; i < kDepth; i += step)
    tile[i][tx] = load1(x, row0 + i, rows, column0 + tx, columns);
  __syncthreads();
  const int row = row0 + 2 * tx;
  for (int i = ty; i < kColumns; i += step) {
    if (column0 + i >= columns || row >= rows) continue;
    gpu::Vec<T, 2> pair;
    round_to(tile[2 * tx][i], &pair[0]);
    round_to(tile[2 * tx + 1][i], &pair[1]);
    gpu::store_vec(out + static_cast<int64_t>(column0 + i) * pitch + row, pair);
  }
}

/// a (m, k) and b (n, k), described by their maps; slices of 128 bytes along k. A block goes from
/// tile to tile, and the ring is filled for the next one while this one is written.
template <bool TF32>
__global__ void __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ gpu::TensorMap map_a,
                 const __grid_constant__ gpu::TensorMap map_b, float* c, int m, int n, int slices) {
#if defined(FLOWGRAD_HAS_WGMMA)
  constexpr int kSlice = kRowBytes / (TF32 ? 4 : 2);  // elements along k
  GPU_DYN_SHARED(char, raw);
  GPU_SHARED(std::uint64_t, full, [kStages]);
  GPU_SHARED(std::uint64_t, empty, [kStages]);
  char* const ring = raw + (1024 - gpu::shared_address(raw) % 1024) % 1024;
  const int thread = static_cast<int>(threadIdx.x);
  const int tiles_m = (m + BM - 1) / BM, tiles_n = (n + BN - 1) / BN;
  const int first = static_cast<int>(blockIdx.x), hop = static_cast<int>(gridDim.x);
  int row0 = 0, column0 = 0;
  const auto go_to = [&](int tile) {
    tile_position(tile, tiles_m, tiles_n, row0, column0);
    row0 *= BM;
    column0 *= BN;
  };
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      gpu::mbarrier_init(&full[i], 1);
      gpu::mbarrier_init(&empty[i], kConsumers * kGroup / 32);  // one arrival a warp
    }
    gpu::mbarrier_fence();
  }
  __syncthreads();

  if (thread < kGroup) {
    if (thread == 0) {
      int count = 0;  // of slices, over all tiles
      for (int tile = first; tile < tiles_m * tiles_n; tile += hop) {
        go_to(tile);
        for (int slice = 0; slice < slices; ++slice, ++count) {
          const int stage = count % kStages;
          const int round = count / kStages;
          if (round > 0) gpu::mbarrier_wait(&empty[stage], static_cast<unsigned>(round - 1) % 2);
          char* const to = ring + stage * kStage;
          gpu::mbarrier_arrive_expect(&full[stage], kStage);
          gpu::tma_load(to, map_a, slice * kSlice, row0, &full[stage]);
          gpu::tma_load(to + kBytesA, map_b, slice * kSlice, column0, &full[stage]);
        }
      }
    }
  } else {
    const int group = thread / kGroup - 1;
    const int r = thread % kGroup;
    const auto release = [&](int count) {
      __syncwarp();
      if (r % 32 == 0) gpu::mbarrier_arrive(&empty[count % kStages]);
    };
    int count = 0;
    for (int tile = first; tile < tiles_m * tiles_n; tile += hop) {
      go_to(tile);
      float d[BN / 2];
#pragma unroll
      for (int i = 0; i < BN / 2; ++i) d[i] = 0.0f;
      for (int slice = 0; slice < slices; ++slice, ++count) {
        const int stage = count % kStages;
        gpu::mbarrier_wait(&full[stage], static_cast<unsigned>(count / kStages) % 2);
        const char* const tile_a = ring + stage * kStage + group * 64 * kRowBytes;
        const char* const tile_b = ring + stage * kStage + kBytesA;
        gpu::wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // 32 bytes along k in one instruction
          const std::uint64_t da = gpu::wgmma_descriptor(tile_a + 32 * i);
          const std::uint64_t db = gpu::wgmma_descriptor(tile_b + 32 * i);
          if constexpr (TF32) {
            gpu::wgmma_tf32<BN>(d, da, db, true);
          } else {
            gpu::wgmma_bf16<BN>(d, da, db, true);
          }
        }
        gpu::wgmma_commit();
        gpu::wgmma_wait<1>();  // the products of the slice before are done, and its buffer is free
        if (slice > 0) release(count - 1);
      }
      gpu::wgmma_wait<0>();
      release(count - 1);
      const int row = row0 + 64 * group + 16 * (r / 32) + r % 32 / 4;
#pragma unroll
      for (int j = 0; j < BN / 8; ++j) {
        const int column = column0 + 8 * j + 2 * (r % 4);
        store2(c, row, m, column, n, d[4 * j], d[4 * j + 1]);
        store2(c, row + 8, m, column, n, d[4 * j + 2], d[4 * j + 3]);
      }
    }
  }
#else
  __trap();
#endif
}

template <bool TF32>
void run(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  using T = std::conditional_t<TF32, std::uint32_t, std::uint16_t>;
  if (m == 0 || n == 0) return;
  if (k == 0) {
    gpu::fill_bytes(c, 0, sizeof(float) * static_cast<std::size_t>(m) * static_cast<std::size_t>(n),
                    stream);
    return;
  }
  constexpr int kSlice = kRowBytes / static_cast<int>(sizeof(T));
  const int slices = (k + kSlice - 1) / kSlice;
  const auto pitch = static_cast<std::size_t>(slices) * kSlice;
  const auto rows_a = static_cast<std::size_t>(m), rows_b = static_cast<std::size_t>(n);
  const Scratch copies((rows_a + rows_b) * pitch * sizeof(T));
  T* const copy_a = copies.as<T>();
  T* const copy_b = copy_a + rows_a * pitch;
  const auto round_rows = [&](auto kernel, int columns) {
    gpu::launch(kernel, grid_of(m, k, 8, 32 * columns), dim3(32, 8), 0, stream, a, copy_a, m, k,
                static_cast<int>(pitch));
  };
  if (k % 4 == 0) {
    round_rows(round_kernel<4, T>, 4);
  } else {
    round_rows(round_kernel<1, T>, 1);
  }
  gpu::launch(round_transposed_kernel<T>, grid_of(k, n, kDepth, kColumns), dim3(kColumns, 8), 0,
              stream, b, copy_b, k, n, static_cast<int>(pitch));
  const auto element = TF32 ? gpu::TensorElement::float32 : gpu::TensorElement::bfloat16;
  const auto map = [&](const T* data, std::size_t rows, int box_rows) {
    return gpu::make_tensor_map(data, element, rows, static_cast<std::uint64_t>(k),
                                pitch * sizeof(T), static_cast<unsigned>(box_rows), kSlice,
                                gpu::Swizzle::bytes128);
  };
  static const int multiprocessors = gpu::device_info(0).n_multiprocessors;
  const int tiles = ((m + BM - 1) / BM) * ((n + BN - 1) / BN);
  gpu::launch(wgmma_kernel<TF32>, dim3(static_cast<unsigned>(std::min(tiles, multiprocessors))),
              dim3(kThreads), kStages * kStage + 1024, stream, map(copy_a, rows_a, BM),
              map(copy_b, rows_b, BN), c, m, n, slices);
}

}  // namespace

void wgmma_tf32(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  run<true>(a, b, c, m, n, k, stream);
}
void wgmma_bf16(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  run<false>(a, b, c, m, n, k, stream);
}

}  // namespace flowgrad::kernels::cuda::ladder
