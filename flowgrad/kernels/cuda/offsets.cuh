#pragma once

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/gpu.cuh"

/// From an element's number to its place in strided operands.
namespace flowgrad::kernels::cuda {

template <class Index, int N>
GPU_INLINE void add_offsets(const Axes& axes, Index i, int64_t (&offset)[N]) {
  for (int d = axes.rank - 1; d > 0; --d) {
    const Index size = static_cast<Index>(axes.size[d]);
    const Index rest = i / size;
    const auto at = static_cast<int64_t>(i - rest * size);
    for (int k = 0; k < N; ++k) offset[k] += at * axes.stride[k][d];
    i = rest;
  }
  if (axes.rank > 0) {
    for (int k = 0; k < N; ++k) offset[k] += static_cast<int64_t>(i) * axes.stride[k][0];
  }
}

/// Offsets, in elements, of element i in row-major order: one for each of the first N operands.
template <int N>
GPU_INLINE void offsets_at(const Axes& axes, int64_t i, int64_t (&offset)[N]) {
  for (int k = 0; k < N; ++k) offset[k] = 0;
  if (axes.total <= 0xffffffffll) {
    add_offsets(axes, static_cast<uint32_t>(i), offset);  // 64-bit division costs many times more
  } else {
    add_offsets(axes, i, offset);
  }
}

/// Number of the calling thread in a grid along x.
GPU_INLINE int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

constexpr unsigned kBlock = 256;
inline unsigned blocks_of(int64_t threads) {
  return gpu::blocks_for(static_cast<std::size_t>(threads), kBlock);
}

/// Merged axes of operands that are walked together over shape.
template <class... S>
Axes axes_over(const Shape& shape, const S&... strides) {
  const Strides* const all[] = {&strides...};
  return merge_axes(shape, all, static_cast<int>(sizeof...(S)));
}

}  // namespace flowgrad::kernels::cuda
