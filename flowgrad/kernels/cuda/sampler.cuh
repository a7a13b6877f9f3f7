#pragma once

#include <type_traits>

#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/cuda/matmul_tile.cuh"
#include "flowgrad/kernels/ptx_tagged.cuh"
#include "flowgrad/kernels/sampler_move.h"

/// Every step of a sampler in one cooperative launch. The weights of the hidden layers stay in
/// shared memory from the first step to the last: a group of blocks owns their columns. Each
/// evaluation of the network exchanges data between the blocks of a group twice: the activations u,
/// and each block's part of the output v (the names are those of SamplerNet). Everything between v
/// and the next h is small and is done by every block for itself.
namespace flowgrad::kernels::cuda::samplers {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kBlockThreads = kWarps * kWarp;
constexpr int kMatrices = 3;
constexpr int kMostBlocks = 32;  // of a group: a warp adds up their parts of an output

template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

/// Elements from a row of activations or weights in shared memory to the next.
template <class T>
constexpr int pitch_of(int width) {
  return (width + kVector<T> - 1) / kVector<T> * kVector<T>;
}

template <class T>
struct SamplerArgs {
  const T *first, *times, *condition, *hidden, *bias, *last, *last_bias, *noise, *x;
  const SamplerMove<T>* moves;
  T* out;
  gpu::Tagged<T>* u_boxes;  // (groups, R, H)
  gpu::Tagged<T>* v_boxes;  // (groups, R, A, blocks)
  int64_t rows;
  int64_t condition_step;
  uint64_t seed, first_stream;
  T guidance;
  int n_stages, width, outputs, blocks;
  bool relu, guided, vectors;
};

/// Where things lie in a block's shared memory, in elements.
template <class T, int R, int C>
struct SharedPlan {
  int weights, h, u, x, w, v, y, sum, z, total;
  __host__ __device__ SharedPlan(int width, int outputs) {
    const int pitch = pitch_of<T>(width);
    int at = 0;
    const auto take = [&](int n) {
      const int first = at;
      at += n;
      return first;
    };
    weights = take(kMatrices * kWarps * C * pitch);
    h = take(R * pitch);
    u = take(R * pitch);
    x = take((outputs * R + kVector<T> - 1) / kVector<T> * kVector<T>);  // (A, R): R lie together
    w = take(R * kWarps * C);
    v = take(R * outputs);
    y = take(R * outputs);
    sum = take(R * outputs);
    z = take(R * outputs);
    total = at;
  }
};

/// One rounding each of exp and quotient less than the elementwise kernel has: the argument of the
/// power is never positive, the divisor in [1, 2].
GPU_INLINE float silu_of(float x) {
  const float e = expf(-fabsf(x));
  return x * __fdividef(x >= 0 ? 1.0f : e, 1.0f + e);
}
GPU_INLINE double silu_of(double x) {
  const double e = exp(-fabs(x));
  return x * ((x >= 0 ? 1.0 : e) / (1.0 + e));
}

/// Sums n values of each lane over the warp: n is a power of two up to 32, and lane l is left with
/// value l / (32 / n) in values[0]. A value's sum has one order whatever n is.
template <int width, int n, class T>
GPU_INLINE void add_lanes(T (&values)[n], int lane) {
  if constexpr (width > 0) {
    if constexpr (n > 1) {
      const bool upper = (lane & width) != 0;
      T half[n / 2];
#pragma unroll
      for (int i = 0; i < n / 2; ++i) {
        const T keep = upper ? values[i + n / 2] : values[i];
        const T send = upper ? values[i] : values[i + n / 2];
        half[i] = keep + __shfl_xor_sync(~0u, send, width);
      }
      add_lanes<width / 2>(half, lane);
      values[0] = half[0];
    } else {
      values[0] += __shfl_xor_sync(~0u, values[0], width);
      add_lanes<width / 2>(values, lane);
    }
  }
}

/// The product of R rows of activations with C columns of weights: the lane's one of the R x C.
template <int R, int C, class T>
GPU_INLINE T warp_product(const T* weights, const T* rows, int pitch, int lane) {
  constexpr int V = kVector<T>;
  T sums[R * C];
#pragma unroll
  for (int i = 0; i < R * C; ++i) sums[i] = T(0);
#pragma unroll 2
  for (int k = lane * V; k < pitch; k += kWarp * V) {
    gpu::Vec<T, V> w[C];
#pragma unroll
    for (int c = 0; c < C; ++c) w[c] = gpu::load_vec<V>(weights + c * pitch + k);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const gpu::Vec<T, V> a = gpu::load_vec<V>(rows + r * pitch + k);
#pragma unroll
      for (int c = 0; c < C; ++c) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
          sums[r * C + c] = multiply_add(a[i], w[c][i], sums[r * C + c]);
        }
      }
    }
  }
  add_lanes<kWarp / 2>(sums, lane);
  return sums[0];
}

template <class T, int R, int C>
struct SamplerBlock {
  const SamplerArgs<T>& p;
  T* const memory;
  const SharedPlan<T, R, C> at;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int pitch = pitch_of<T>(p.width);
  const int group = static_cast<int>(blockIdx.x) / p.blocks;
  const int member = static_cast<int>(blockIdx.x) % p.blocks;
  const int first_column = member * kWarps * C;
  const int samples = p.guided ? R / 2 : R;  // the other half of a tile's rows lacks the condition
  // What this lane computes of a product.
  static constexpr int kLanesEach = kWarp / (R * C);
  const int own_row = lane / kLanesEach / C;
  const int own_local = warp * C + lane / kLanesEach % C;
  const int own_column = first_column + own_local;
  const bool owns = lane % kLanesEach == 0 && own_column < p.width;
  gpu::Tagged<T>* const u_boxes = p.u_boxes + int64_t{group} * R * p.width;
  gpu::Tagged<T>* const v_boxes = p.v_boxes + int64_t{group} * R * p.outputs * p.blocks;
  int64_t first_row = 0;

  GPU_INLINE SamplerBlock(const SamplerArgs<T>& args, T* shared)
      : p(args), memory(shared), at(args.width, args.outputs) {}

  GPU_INLINE void load_weights() const {
    constexpr int V = kVector<T>;
    T* const to = memory + at.weights;
    const int vectors = pitch / V;
    const int total = kMatrices * kWarps * C * vectors;
#pragma unroll 4
    for (int i = thread; i < total; i += kBlockThreads) {
      const int row = i / vectors;
      const int k = i % vectors * V;
      const int column = first_column + row % (kWarps * C);
      const T* const from =
          p.hidden + (int64_t{row / (kWarps * C)} * p.width + column) * p.width + k;
      gpu::Vec<T, V> value{};
      if (column < p.width && p.vectors) {
        value = gpu::load_vec<V>(from);
      } else if (column < p.width) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          if (k + j < p.width) value[j] = from[j];
        }
      }
      gpu::store_vec(to + row * pitch + k, value);
    }
    // What lies between a row's end and the next one's start takes part in the products.
    for (int r = 0; r < R; ++r) {
      for (int j = p.width + thread; j < pitch; j += kBlockThreads) {
        memory[at.h + r * pitch + j] = memory[at.u + r * pitch + j] = T(0);
      }
    }
  }

  GPU_INLINE void start_tile(int64_t tile) {
    first_row = tile * samples;
    for (int i = thread; i < samples * p.outputs; i += kBlockThreads) {
      const int64_t e = first_row * p.outputs + i;
      const T value = e < p.rows * p.outputs ? p.x[e] : T(0);
      set_x(i / p.outputs, i % p.outputs, value);
      memory[at.y + i] = value;
      memory[at.sum + i] = T(0);
    }
  }

  /// x of a sample, for both of its rows where there are two.
  GPU_INLINE void set_x(int sample, int a, T value) const {
    memory[at.x + a * R + sample] = value;
    if (p.guided) memory[at.x + a * R + sample + samples] = value;
  }

  /// What of h's sum does not wait for x. Threads keep to their columns until h is done.
  GPU_INLINE void begin_h(int stage) const {
    for (int j = thread; j < p.width; j += kBlockThreads) {
      const T time = p.times[int64_t{stage} * p.width + j];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int64_t row = first_row + r;
        T value = time;
        if (p.condition != nullptr && r < samples && row < p.rows) {
          value += p.condition[row * p.condition_step + j];
        }
        memory[at.h + r * pitch + j] = value;
      }
    }
  }

  GPU_INLINE void finish_h() const {
    constexpr int V = R < kVector<T> ? R : kVector<T>;
    for (int j = thread; j < p.width; j += kBlockThreads) {
      T sums[R];
#pragma unroll
      for (int r = 0; r < R; ++r) sums[r] = memory[at.h + r * pitch + j];
#pragma unroll 4
      for (int a = 0; a < p.outputs; ++a) {
        const T weight = p.first[a * p.width + j];
#pragma unroll
        for (int r = 0; r < R; r += V) {
          const gpu::Vec<T, V> x = gpu::load_vec<V>(memory + at.x + a * R + r);
#pragma unroll
          for (int i = 0; i < V; ++i) sums[r + i] = multiply_add(x[i], weight, sums[r + i]);
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        memory[at.h + r * pitch + j] =
            p.relu ? (sums[r] <= T(0) ? T(0) : sums[r]) : silu_of(sums[r]);
      }
    }
  }

  GPU_INLINE const T* weights_of(int matrix) const {
    return memory + at.weights + (matrix * kWarps * C + warp * C) * pitch;
  }

  /// Sends this block's columns of u, and returns the lane's part of hidden[1] h, which fills the
  /// time that u takes to arrive.
  GPU_INLINE T send_u(unsigned tag) const {
    const T mine = warp_product<R, C>(weights_of(0), memory + at.h, pitch, lane);
    if (owns) {
      gpu::tagged_store(&u_boxes[own_row * p.width + own_column],
                        silu_of(mine + p.bias[own_column]), tag);
    }
    return warp_product<R, C>(weights_of(1), memory + at.h, pitch, lane);
  }

  GPU_INLINE void receive_u(unsigned tag) const {
    // Columns of a thread that are on their way together; two of doubles would fill the registers.
    constexpr int kEach = std::is_same_v<T, float> ? 2 : 1;
    for (int j0 = thread; j0 < p.width; j0 += kEach * kBlockThreads) {
      T values[kEach * R] = {};
      gpu::tagged_wait(values, tag, [&](int k) -> const gpu::Tagged<T>* {
        const int j = j0 + k / R * kBlockThreads;
        return j < p.width ? &u_boxes[k % R * p.width + j] : nullptr;
      });
#pragma unroll
      for (int k = 0; k < kEach * R; ++k) {
        const int j = j0 + k / R * kBlockThreads;
        if (j < p.width) memory[at.u + k % R * pitch + j] = values[k];
      }
    }
  }

  GPU_INLINE void finish_w(T from_h) const {
    const T from_u = warp_product<R, C>(weights_of(2), memory + at.u, pitch, lane);
    if (owns) {
      memory[at.w + own_row * kWarps * C + own_local] =
          silu_of((from_h + from_u) + p.bias[p.width + own_column]);
    }
  }

  /// Sends what this block's columns give to v. Four lanes share an output.
  GPU_INLINE void send_v(unsigned tag) const {
    constexpr int kShare = 4;
    const int columns = min(kWarps * C, p.width - first_column);
    const int n = R * p.outputs;
    const int64_t matrix = int64_t{p.outputs} * p.width;
    for (int o0 = warp * (kWarp / kShare); o0 < n; o0 += kBlockThreads / kShare) {
      const int o = o0 + lane / kShare;
      const int row = o / p.outputs;
      const int a = o % p.outputs;
      T sum = T(0);
      if (o < n) {
        const T* const last = p.last + int64_t{a} * p.width + first_column;
        const T* const h = memory + at.h + row * pitch + first_column;
        const T* const u = memory + at.u + row * pitch + first_column;
        const T* const w = memory + at.w + row * kWarps * C;
#pragma unroll 2
        for (int j = lane % kShare; j < columns; j += kShare) {
          sum = multiply_add(last[j], h[j], sum);
          sum = multiply_add(last[matrix + j], u[j], sum);
          sum = multiply_add(last[2 * matrix + j], w[j], sum);
        }
      }
      sum += __shfl_xor_sync(~0u, sum, 2);
      sum += __shfl_xor_sync(~0u, sum, 1);
      if (o < n && lane % kShare == 0) {
        gpu::tagged_store(&v_boxes[int64_t{o} * p.blocks + member], sum, tag);
      }
    }
  }

  /// The unit noise of a stage, while v is on its way.
  GPU_INLINE void draw_noise(const SamplerMove<T>& move) const {
    if (move.x_noise == T(0)) return;
    const int64_t row = move.noise;
    for (int i = thread; i < samples * p.outputs; i += kBlockThreads) {
      const int64_t e = first_row * p.outputs + i;
      if (e >= p.rows * p.outputs) {
        memory[at.z + i] = T(0);
      } else if (p.noise != nullptr) {
        memory[at.z + i] = p.noise[row * p.rows * p.outputs + e];
      } else {
        memory[at.z + i] = normal::element<T>(p.seed, p.first_stream + static_cast<uint64_t>(row),
                                              static_cast<uint64_t>(e));
      }
    }
  }

  /// Adds up the parts of v. A power of two of lanes takes the blocks' parts of an output.
  GPU_INLINE void receive_v(unsigned tag, int lanes) const {
    constexpr int kEach = 4;
    const int n = R * p.outputs * lanes;
    for (int i0 = thread; i0 - lane < n; i0 += kEach * kBlockThreads) {
      T values[kEach] = {};
      gpu::tagged_wait(values, tag, [&](int k) -> const gpu::Tagged<T>* {
        const int i = i0 + k * kBlockThreads;
        const int part = i & (lanes - 1);
        return i < n && part < p.blocks ? &v_boxes[int64_t{i / lanes} * p.blocks + part] : nullptr;
      });
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        const int i = i0 + k * kBlockThreads;
        for (int distance = lanes / 2; distance > 0; distance /= 2) {
          values[k] += __shfl_xor_sync(~0u, values[k], distance);
        }
        if (i < n && (i & (lanes - 1)) == 0) {
          const int o = i / lanes;
          memory[at.v + o] = values[k] + p.last_bias[o % p.outputs];
        }
      }
    }
  }

  GPU_INLINE void move_x(const SamplerMove<T>& move) const {
    for (int i = thread; i < samples * p.outputs; i += kBlockThreads) {
      const int sample = i / p.outputs;
      const int a = i % p.outputs;
      T v = memory[at.v + i];
      if (p.guided) {
        const T without = memory[at.v + i + samples * p.outputs];
        v = without + (v - without) * p.guidance;
      }
      T x = memory[at.x + a * R + sample];
      move.apply(v, memory[at.z + i], x, memory[at.y + i], memory[at.sum + i]);
      set_x(sample, a, x);
    }
  }

  GPU_INLINE void write_out() const {
    if (member != 0) return;
    for (int i = thread; i < samples * p.outputs; i += kBlockThreads) {
      const int64_t e = first_row * p.outputs + i;
      if (e < p.rows * p.outputs) p.out[e] = memory[at.x + i % p.outputs * R + i / p.outputs];
    }
  }
};

template <class T, int R, int C>
__global__ void __launch_bounds__(kBlockThreads, 1)
    sampler_kernel(const __grid_constant__ SamplerArgs<T> p) {
  GPU_DYN_SHARED(T, memory);
  SamplerBlock<T, R, C> block(p, memory);
  block.load_weights();
  int lanes = 1;
  while (lanes < p.blocks) lanes *= 2;
  const int n_groups = static_cast<int>(gridDim.x) / p.blocks;
  const int64_t n_tiles = (p.rows + block.samples - 1) / block.samples;
  unsigned tag = 0;
  for (int64_t tile = block.group; tile < n_tiles; tile += n_groups) {
    block.start_tile(tile);
    block.begin_h(0);
    __syncthreads();
    for (int stage = 0; stage < p.n_stages; ++stage) {
      const SamplerMove<T>& move = p.moves[stage];
      ++tag;
      block.finish_h();
      __syncthreads();
      const T from_h = block.send_u(tag);
      block.receive_u(tag);
      __syncthreads();
      block.finish_w(from_h);
      __syncthreads();
      block.send_v(tag);
      __syncthreads();
      if (stage + 1 < p.n_stages) block.begin_h(stage + 1);
      block.draw_noise(move);
      block.receive_v(tag, lanes);
      __syncthreads();
      block.move_x(move);
      __syncthreads();
    }
    block.write_out();
    __syncthreads();
  }
}

}  // namespace flowgrad::kernels::cuda::samplers
