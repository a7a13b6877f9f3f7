#pragma once

#include "flowgrad/kernels/cuda/ladder/ladder.h"
#include "flowgrad/kernels/gpu.cuh"

/// What several rungs share, so that each file shows its own idea.
namespace flowgrad::kernels::cuda::ladder {

using Float4 = gpu::Vec<float, 4>;

/// One block for each tile of c, x along its columns.
inline dim3 grid_of(int m, int n, int tile_m, int tile_n) {
  return dim3(gpu::blocks_for(static_cast<std::size_t>(n), static_cast<unsigned>(tile_n)),
              gpu::blocks_for(static_cast<std::size_t>(m), static_cast<unsigned>(tile_m)));
}

/// x(row, column), 0 outside of the matrix.
GPU_INLINE float load1(const float* x, int row, int rows, int column, int columns) {
  return row < rows && column < columns ? x[static_cast<int64_t>(row) * columns + column] : 0.0f;
}

/// x(row, column .. column + 3) in one access where the rows are aligned; 0 outside of the matrix.
/// column is a multiple of four.
GPU_INLINE Float4 load4(const float* x, int row, int rows, int column, int columns) {
  Float4 v = {};
  if (columns % 4 == 0) {
    if (row < rows && column < columns)
      v = gpu::load_vec<4>(x + static_cast<int64_t>(row) * columns + column);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = load1(x, row, rows, column + i, columns);
  }
  return v;
}

/// The same the other way; what lies outside of the matrix is dropped.
GPU_INLINE void store4(float* x, int row, int rows, int column, int columns, const Float4& v) {
  if (row >= rows) return;
  float* const at = x + static_cast<int64_t>(row) * columns + column;
  if (columns % 4 == 0) {
    if (column < columns) gpu::store_vec(at, v);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < columns) at[i] = v[i];
    }
  }
}

/// Two neighbours, as mma leaves them in a thread; column is even.
GPU_INLINE void store2(float* x, int row, int rows, int column, int columns, float v0, float v1) {
  if (row >= rows) return;
  float* const at = x + static_cast<int64_t>(row) * columns + column;
  if (columns % 2 == 0) {
    if (column < columns) gpu::store_vec(at, gpu::Vec<float, 2>{{v0, v1}});
  } else {
    if (column < columns) at[0] = v0;
    if (column + 1 < columns) at[1] = v1;
  }
}

}  // namespace flowgrad::kernels::cuda::ladder
