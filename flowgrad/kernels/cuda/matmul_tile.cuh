#pragma once

#include "flowgrad/core/shape.h"
#include "flowgrad/kernels/gpu.cuh"

/// A block computes one tile of out: slices of a and b go through two buffers in shared memory
/// while each thread multiplies a small tile in registers.
namespace flowgrad::kernels::cuda {

/// x is the axis that out keeps: rows of a, columns of b. Strides in elements, of any size and
/// sign.
template <class T>
struct MatmulOperand {
  const T* data;
  int64_t x_stride, k_stride;
  bool k_first;  // neighbours along k lie closer together than neighbours along x
};

struct MatmulBatch {
  int rank;
  int64_t size[kMaxRank], a[kMaxRank], b[kMaxRank];
};

template <class T>
struct MatmulArgs {
  MatmulOperand<T> a, b;
  const T* bias;  // or nullptr
  int64_t bias_stride;
  T* out;
  T* partial;  // nullptr, or room for (batch, n_chunks, m, n) sums of chunks
  int64_t first_entry;
  int m, n, k, chunk, n_chunks;
  bool accumulate, vector_out;
  MatmulBatch batch;
};

/// One rounding on a device, whatever the compiler would do by itself. On the emulator two, as fma
/// would be a call there.
GPU_INLINE float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}
GPU_INLINE double multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}

/// Moves a and b to entry index of the batch.
template <class T>
GPU_INLINE void select_batch(const MatmulBatch& batch, int64_t index, const T*& a, const T*& b) {
  for (int axis = batch.rank - 1; axis >= 0; --axis) {
    const int64_t i = index % batch.size[axis];
    index /= batch.size[axis];
    a += i * batch.a[axis];
    b += i * batch.b[axis];
  }
}

/// What goes to out for a finished sum.
template <class T>
GPU_INLINE T finished(const MatmulArgs<T>& p, T sum, int column, const T* old) {
  if (p.bias != nullptr) sum += p.bias[column * p.bias_stride];
  if (p.accumulate) sum += *old;
  return sum;
}

/// along_k, along_x: stride 1 on that axis and 16-byte vectors; any: single elements, neighbours of
/// the smaller stride by neighbouring threads.
enum class Load : uint8_t { along_k, along_x, any };

/// BM x BN outputs a block, BK deep; TM x TN a thread; LM x LN threads a warp.
template <class Element, int BM_, int BN_, int BK_, int TM_, int TN_, int LM_, int LN_, int Blocks>
struct MatmulTile {
  using T = Element;
  static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_, LM = LM_, LN = LN_;
  static constexpr int kThreads = (BM / TM) * (BN / TN);
  static constexpr int kBlocks = Blocks;                            // of a multiprocessor, at least
  static constexpr int V = 16 / static_cast<int>(sizeof(Element));  // elements of a vector
  // Steps of k that the compiler may interleave. Reading fragments a step ahead by hand, in a loop
  // short enough for the instruction cache, was slower on a device (40 against 44 TFLOP/s).
  static constexpr int kUnroll = BK;
  static constexpr int WM = LM * TM, WN = LN * TN;  // outputs of a warp
  static_assert(LM * LN == 32 && TM % V == 0 && TN % V == 0 && BM % WM == 0 && BN % WN == 0);
};

/// A thread's share of the BX x BK slices of an operand, on their way to shared memory [BK][BX +
/// V]. The V elements of padding spread a column over the banks.
template <class Tile, Load how, int BX>
class MatmulSlice {
  using T = typename Tile::T;
  static constexpr int BK = Tile::BK, V = how == Load::any ? 1 : Tile::V;
  static constexpr int kPitch = BX + Tile::V;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kVectors = BX * BK / kThreads / V;
  // From a thread's vector to its next one, along k or along x.
  static constexpr int kStepX = kThreads / (BK / V), kStepK = kThreads / (BX / V);
  static_assert(kVectors * kThreads * V == BX * BK);
  static_assert(how == Load::along_x || kVectors == 1 || kStepX * (BK / V) == kThreads);
  static_assert(how == Load::along_k || kVectors == 1 || kStepK * (BX / V) == kThreads);

 public:
  // What all threads share stays in the kernel's arguments, of, and takes no registers.
  GPU_INLINE MatmulSlice(const MatmulOperand<T>& of, const T* data, int x0, int x_end, int k0) {
    const int thread = static_cast<int>(threadIdx.x);
    const int length = (k_first(of) ? BK : BX) / V;
    const int minor = thread % length * V;
    const int major = thread / length;
    x_ = k_first(of) ? major : minor;
    k_ = k_first(of) ? minor : major;
    x_left_ = x_end - x0 - x_;
    at_ = data + (x0 + x_) * of.x_stride + (k0 + k_) * of.k_stride;
  }

  /// Takes the next slice, of which k_count rows exist, from memory; zeros where nothing exists.
  GPU_INLINE void load(const MatmulOperand<T>& of, int k_count) {
    const int64_t step = k_first(of) ? kStepX * of.x_stride : kStepK * of.k_stride;
    const T* at = at_;
    at_ += BK * (how == Load::along_k ? 1 : of.k_stride);
    // Most slices of a large product are whole, and questions take the place of multiplications.
    if (x_left_ >= (k_first(of) ? (kVectors - 1) * kStepX + 1 : V) && k_count >= BK) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i, at += step) value_[i] = gpu::load_vec<V>(at);
      return;
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i, at += step) {
      const int x_left = x_left_ - (k_first(of) ? i * kStepX : 0);
      const int k_left = k_count - k_ - (k_first(of) ? 0 : i * kStepK);
      if (how == Load::any) {
        value_[i][0] = x_left > 0 && k_left > 0 ? *at : T(0);
        continue;
      }
      // How many of the vector's elements exist.
      const int left = how == Load::along_k ? (x_left > 0 ? k_left : 0) : (k_left > 0 ? x_left : 0);
      value_[i] = {};
      if (left >= V) {
        value_[i] = gpu::load_vec<V>(at);
      } else {
#pragma unroll
        for (int j = 0; j < V - 1; ++j) {
          if (j < left) value_[i][j] = at[j];
        }
      }
    }
  }

  GPU_INLINE void store(const MatmulOperand<T>& of, T (*tile)[kPitch]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int x = x_ + (k_first(of) ? i * kStepX : 0);
      const int k = k_ + (k_first(of) ? 0 : i * kStepK);
      if (how == Load::along_x) {
        gpu::store_vec(&tile[k][x], value_[i]);
      } else {
#pragma unroll
        for (int j = 0; j < V; ++j) tile[k + j][x] = value_[i][j];
      }
    }
  }

 private:
  static GPU_INLINE bool k_first(const MatmulOperand<T>& of) {
    return how == Load::along_k || (how == Load::any && of.k_first);
  }

  gpu::Vec<T, V> value_[kVectors];
  const T* at_;
  int x_, k_, x_left_;
};

/// Tile number index of tiles_m * tiles_n: eight rows of tiles go together, column by column, so
/// that the blocks that run at one time share slices of a and b in the L2 cache.
GPU_INLINE void tile_position(int index, int tiles_m, int tiles_n, int& row, int& column) {
  constexpr int kRows = 8;
  const int first = index / (kRows * tiles_n) * kRows;
  const int height = tiles_m - first < kRows ? tiles_m - first : kRows;
  const int inside = index - first * tiles_n;
  row = first + inside % height;
  column = inside / height;
}

/// Adds a thread's sums to its totals, vectors kThreads apart, and clears the sums. The totals of
/// two rows are on their way while those before are added; more would need too many registers.
template <class Tile, class T>
GPU_INLINE void add_to_totals(T (&sums)[Tile::TM][Tile::TN], T* totals) {
  constexpr int V = Tile::V, kRow = Tile::TN / V, kGroup = 2 * kRow;
  gpu::Vec<T, V> next[kGroup];
  const auto load = [&](int first) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j)
      next[j] = gpu::load_vec<V>(totals + (first + j) * Tile::kThreads * V);
  };
  load(0);
#pragma unroll
  for (int first = 0; first < Tile::TM * kRow; first += kGroup) {
    gpu::Vec<T, V> total[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) total[j] = next[j];
    if (first + kGroup < Tile::TM * kRow) load(first + kGroup);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
#pragma unroll
      for (int l = 0; l < V; ++l) {
        T& sum = sums[(first + j) / kRow][(first + j) % kRow * V + l];
        total[j][l] += sum;
        sum = T(0);
      }
      gpu::store_vec(totals + (first + j) * Tile::kThreads * V, total[j]);
    }
    __syncwarp();
  }
}

/// Grid: x = tile, y = chunk when p.partial is given, else 1, z = batch entry from p.first_entry
/// on. Dynamic shared memory: BM * BN elements when a block sums several chunks.
template <class Tile, Load load_a, Load load_b>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    matmul_tile(const __grid_constant__ MatmulArgs<typename Tile::T> p) {
  using T = typename Tile::T;
  constexpr int BM = Tile::BM, BN = Tile::BN, BK = Tile::BK, TM = Tile::TM, TN = Tile::TN;
  constexpr int V = Tile::V, kThreads = Tile::kThreads;
  using Vector = gpu::Vec<T, V>;
  GPU_SHARED(T, tile_a, [2][BK][BM + V]);
  GPU_SHARED(T, tile_b, [2][BK][BN + V]);
  GPU_DYN_SHARED(T, totals);

  const int tiles_m = (p.m + BM - 1) / BM;
  const int tiles_n = (p.n + BN - 1) / BN;
  int row0, column0;
  tile_position(static_cast<int>(blockIdx.x), tiles_m, tiles_n, row0, column0);
  row0 *= BM;
  column0 *= BN;
  const T* a = p.a.data;
  const T* b = p.b.data;
  select_batch(p.batch, p.first_entry + blockIdx.z, a, b);
  const int chunk = p.partial != nullptr ? static_cast<int>(blockIdx.y) : 0;
  const int k_begin = chunk * p.chunk;
  const int k_end = p.partial != nullptr && p.k - k_begin > p.chunk ? k_begin + p.chunk : p.k;

  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
  // A thread's outputs are TM / V x TN / V squares of V x V, so that the lanes of a warp read
  // neighbouring vectors.
  const int first_row = warp / (BN / Tile::WN) * Tile::WM + lane / Tile::LN * V;
  const int first_column = warp % (BN / Tile::WN) * Tile::WN + lane % Tile::LN * V;

  T sums[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN; ++j) sums[i][j] = T(0);
  }

  MatmulSlice<Tile, load_a, BM> slice_a(p.a, a, row0, p.m, k_begin);
  MatmulSlice<Tile, load_b, BN> slice_b(p.b, b, column0, p.n, k_begin);
  slice_a.load(p.a, k_end - k_begin);
  slice_b.load(p.b, k_end - k_begin);
  slice_a.store(p.a, tile_a[0]);
  slice_b.store(p.b, tile_b[0]);
  __syncthreads();

  int buffer = 0;
  int until_flush = p.chunk;
  const bool has_total = k_end - k_begin > p.chunk;
  if (has_total) {
#pragma unroll
    for (int i = 0; i < TM * TN / V; ++i)
      gpu::store_vec(totals + (i * kThreads + thread) * V, Vector{});
  }
  for (int left = k_end - k_begin; left > 0; left -= BK, buffer ^= 1) {
    const bool has_next = left > BK;
    if (has_next) {  // on its way while this slice is multiplied
      slice_a.load(p.a, left - BK);
      slice_b.load(p.b, left - BK);
    }
#pragma unroll Tile::kUnroll
    for (int k = 0; k < BK; ++k) {
      Vector x[TM / V], y[TN / V];
#pragma unroll
      for (int i = 0; i < TM / V; ++i)
        x[i] = gpu::load_vec<V>(&tile_a[buffer][k][first_row + i * Tile::LM * V]);
#pragma unroll
      for (int j = 0; j < TN / V; ++j)
        y[j] = gpu::load_vec<V>(&tile_b[buffer][k][first_column + j * Tile::LN * V]);
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j)
          sums[i][j] = multiply_add(x[i / V][i % V], y[j / V][j % V], sums[i][j]);
      }
    }
    until_flush -= BK;
    if (has_next) {
      slice_a.store(p.a, tile_a[buffer ^ 1]);
      slice_b.store(p.b, tile_b[buffer ^ 1]);
      __syncthreads();
      if (until_flush == 0) {  // the end of a chunk: each thread keeps its totals in its own slots
        until_flush = p.chunk;
        add_to_totals<Tile>(sums, totals + thread * V);
      }
    }
  }

  const bool to_partial = p.partial != nullptr;
  const int64_t entry = p.first_entry + blockIdx.z;
  T* const matrix = to_partial ? p.partial + (entry * p.n_chunks + blockIdx.y) * p.m * p.n
                               : p.out + entry * p.m * p.n;
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int row = row0 + first_row + i / V * Tile::LM * V + i % V;
#pragma unroll
    for (int j = 0; j < TN / V; ++j) {
      const int column = column0 + first_column + j * Tile::LN * V;
      if (row >= p.m || column >= p.n) continue;
      T* const at = matrix + static_cast<int64_t>(row) * p.n + column;
      Vector sum;
#pragma unroll
      for (int l = 0; l < V; ++l) sum[l] = sums[i][j * V + l];
      if (has_total) {
        const Vector total =
            gpu::load_vec<V>(totals + ((i * (TN / V) + j) * kThreads + thread) * V);
#pragma unroll
        for (int l = 0; l < V; ++l) sum[l] = total[l] + sum[l];
      }
      if (!to_partial) {
#pragma unroll
        for (int l = 0; l < V; ++l) {
          if (column + l < p.n) sum[l] = finished(p, sum[l], column + l, at + l);
        }
      }
      if (p.vector_out) {
        gpu::store_vec(at, sum);
      } else {
#pragma unroll
        for (int l = 0; l < V; ++l) {
          if (column + l < p.n) at[l] = sum[l];
        }
      }
    }
  }
}

/// One thread for each element; the grid's y is the chunk when p.partial is given.
template <class T>
__global__ void matmul_element(const __grid_constant__ MatmulArgs<T> p, int64_t total) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const int column = static_cast<int>(index % p.n);
  const int row = static_cast<int>(index / p.n % p.m);
  const int64_t entry = index / p.n / p.m;
  const T* a = p.a.data;
  const T* b = p.b.data;
  select_batch(p.batch, entry, a, b);
  a += row * p.a.x_stride;
  b += column * p.b.x_stride;
  const int first = p.partial != nullptr ? static_cast<int>(blockIdx.y) : 0;
  const int last = p.partial != nullptr ? first + 1 : p.n_chunks;
  T sum = T(0);
  for (int chunk = first; chunk < last; ++chunk) {
    const int k_begin = chunk * p.chunk;
    const int k_end = p.k - k_begin > p.chunk ? k_begin + p.chunk : p.k;
    T part = T(0);
    for (int k = k_begin; k < k_end; ++k)
      part = multiply_add(a[k * p.a.k_stride], b[k * p.b.k_stride], part);
    sum = last - first == 1 ? part : sum + part;
  }
  if (p.partial != nullptr) {
    p.partial[((entry * p.n_chunks + first) * p.m + row) * p.n + column] = sum;
  } else {
    p.out[index] = finished(p, sum, column, p.out + index);
  }
}

/// Adds the chunks of every element, in order.
template <class T>
__global__ void matmul_add_chunks(const __grid_constant__ MatmulArgs<T> p, int64_t total) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const int64_t size = static_cast<int64_t>(p.m) * p.n;
  const T* from = p.partial + index / size * p.n_chunks * size + index % size;
  T sum = T(0);
  for (int chunk = 0; chunk < p.n_chunks; ++chunk) sum += from[chunk * size];
  p.out[index] = finished(p, sum, static_cast<int>(index % p.n), p.out + index);
}

}  // namespace flowgrad::kernels::cuda
