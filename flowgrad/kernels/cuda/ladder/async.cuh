#pragma once

#include "flowgrad/kernels/cuda/ladder/common.cuh"
#include "flowgrad/kernels/ptx_async.cuh"

namespace flowgrad::kernels::cuda::ladder {

/// Starts the copy of x(row, column .. column + 3) to shared memory, in one piece where the rows
/// are aligned; zeros come from outside of the matrix. column is a multiple of four.
GPU_INLINE void copy4(float* to, const float* x, int row, int rows, int column, int columns) {
  if (columns % 4 == 0) {
    const bool inside = row < rows && column < columns;
    gpu::cp_async<16>(to, inside ? x + static_cast<int64_t>(row) * columns + column : x, inside);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = row < rows && column + i < columns;
      gpu::cp_async<4>(to + i, inside ? x + static_cast<int64_t>(row) * columns + column + i : x,
                       inside);
    }
  }
}

}  // namespace flowgrad::kernels::cuda::ladder
