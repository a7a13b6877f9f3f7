#pragma once

#include <array>
#include <initializer_list>
#include <vector>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/cuda/divisor.cuh"
#include "flowgrad/kernels/gpu.cuh"

/// Elementwise kernels over strided operands: out[i] = f(in[i]...).
///
/// A thread computes up to 16 bytes of the widest operand at a time. Where every operand's
/// innermost axis is contiguous or broadcast, sizes divide and addresses are aligned, these are N
/// neighbours that move as one vector (one row: no index arithmetic at all); else N elements a
/// block's width apart, each with an offset of its own. Indices have 32 bits: the host cuts what
/// does not fit.
namespace flowgrad::kernels::loops {

using cuda::Divisor;

constexpr int kBlock = 256;

/// How one launch walks its operands, the output being operand 0.
struct Plan {
  uint32_t total = 0;      // elements
  uint32_t tiles = 0;      // portions of a block
  int rank = 0;            // axes, innermost last
  uint32_t is_vector = 0;  // neighbours move together; the last axis then counts vectors
  uint32_t broadcast = 0;  // bit o: operand o does not move along the innermost axis
  Divisor size[kMaxRank];
  int32_t stride[kMaxOperands][kMaxRank] = {};
};

/// A plan and the addresses it starts from.
struct Piece {
  Plan plan;
  std::array<void*, kMaxOperands> data{};
  dim3 grid() const;
};

/// operands[0] is the output. width: elements that a thread computes at a time.
std::vector<Piece> plan(std::initializer_list<const View*> operands, int width);

/// Axes of the operands ordered by the first one's strides, then merged. For work that may be done
/// in any order.
Axes ordered_axes(std::initializer_list<const View*> operands);

/// Largest number of elements and largest offset of one launch. Tests lower it.
int64_t& launch_limit();

/// Most blocks of one launch: kernels loop over the rest. Tests lower it.
unsigned& grid_limit();

/// Blocks for `tiles` portions of work, grid_limit at most.
unsigned capped_grid(uint64_t tiles);

/// Offsets of element `index` of a plan, one for each operand, to column `lane` of offset.
template <int operands, int N>
GPU_INLINE void locate(const Plan& plan, uint32_t index, int lane, int32_t (&offset)[operands][N]) {
#pragma unroll
  for (int o = 0; o < operands; ++o) offset[o][lane] = 0;
  for (int d = plan.rank - 1; d >= 0; --d) {
    uint32_t at = index;
    if (d > 0) {
      index = plan.size[d].divide(index);
      at -= index * plan.size[d].value;
    }
#pragma unroll
    for (int o = 0; o < operands; ++o)
      offset[o][lane] += static_cast<int32_t>(at) * plan.stride[o][d];
  }
}

/// N elements of one operand; those beyond `valid` repeat the first, so that f sees real values.
template <int N, class T>
GPU_INLINE gpu::Vec<T, N> load(const Plan& plan, int operand, const T* in,
                               const int32_t (&offset)[N], int valid) {
  gpu::Vec<T, N> v;
  if (plan.is_vector == 0) {
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = in[k < valid ? offset[k] : offset[0]];
  } else if ((plan.broadcast >> operand & 1u) != 0) {
    const T x = in[offset[0]];
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = x;
  } else if (valid == N) {
    v = gpu::load_vec<N>(in + offset[0]);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = in[offset[0] + (k < valid ? k : 0)];
  }
  return v;
}

template <int N, class T>
GPU_INLINE void store(const Plan& plan, T* out, const int32_t (&offset)[N], int valid,
                      const gpu::Vec<T, N>& v) {
  if (plan.is_vector != 0 && valid == N) return gpu::store_vec(out + offset[0], v);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k < valid) out[plan.is_vector != 0 ? offset[0] + k : offset[k]] = v[k];
  }
}

template <int N, class Out, class F, class... V>
GPU_INLINE gpu::Vec<Out, N> apply(const F& f, const V&... in) {
  gpu::Vec<Out, N> y;
#pragma unroll
  for (int k = 0; k < N; ++k) y[k] = f(in[k]...);
  return y;
}

/// Elements of the widest operand in 16 bytes, 8 at most.
template <class... T>
constexpr int width_of() {
  size_t widest = 2;
  ((widest = sizeof(T) > widest ? sizeof(T) : widest), ...);
  return static_cast<int>(16 / widest);
}

template <int N, class F, class Out, class... In, int... o>
GPU_INLINE void map_tiles(const F& f, const Plan& plan, std::integer_sequence<int, o...>, Out* out,
                          const In*... in) {
  for (uint32_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    int32_t offset[1 + sizeof...(In)][N];
    int valid = 0;
    if (plan.is_vector != 0) {
      const uint32_t vector = tile * kBlock + threadIdx.x;
      const uint32_t first = vector * N;
      if (first < plan.total) {
        valid = plan.total - first < N ? static_cast<int>(plan.total - first) : N;
        locate(plan, vector, 0, offset);
      }
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const uint32_t index = (tile * N + k) * kBlock + threadIdx.x;
        if (index < plan.total) {
          valid = k + 1;
          locate(plan, index, k, offset);
        }
      }
    }
    if (valid > 0) {
      store(plan, out, offset[0], valid,
            apply<N, Out>(f, load<N>(plan, 1 + o, in, offset[1 + o], valid)...));
    }
  }
}

template <class F, class Out, class... In>
__global__ void __launch_bounds__(kBlock)
    map_kernel(F f, const __grid_constant__ Plan plan, Out* out, const In*... in) {
  map_tiles<width_of<Out, In...>()>(f, plan, std::make_integer_sequence<int, sizeof...(In)>(), out,
                                    in...);
}

template <class F, class Out, class... In, size_t... i>
void launch_piece(const F& f, const Piece& piece, std::index_sequence<i...>) {
  gpu::launch(map_kernel<F, Out, In...>, piece.grid(), dim3(kBlock), 0, gpu::default_stream(), f,
              piece.plan, static_cast<Out*>(piece.data[0]),
              static_cast<const In*>(piece.data[1 + i])...);
}

/// out[i] = f(in[i]...) for all i, in any order. out may be one of the inputs. The caller has
/// checked that the views' element types have the sizes of Out and In.
template <class Out, class... In, class F, class... V>
void map(const F& f, const View& out, const V&... in) {
  static_assert(sizeof...(In) == sizeof...(V));
  for (const Piece& piece : plan({&out, &in...}, width_of<Out, In...>()))
    launch_piece<F, Out, In...>(f, piece, std::index_sequence_for<In...>());
}

}  // namespace flowgrad::kernels::loops
