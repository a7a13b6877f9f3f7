#pragma once

#include <cstdint>

#include "flowgrad/kernels/gpu.cuh"

/// Rows of few elements, several to a warp: a row belongs to a power of two of neighbouring lanes.
/// Their number depends on the row's length alone, and so does the order of its sum.
namespace flowgrad::kernels::cuda {

/// Lanes for a row of d elements, each with at least `per_lane` of them where there are so many.
inline int lanes_of_row(int64_t d, int per_lane) {
  int lanes = 1;
  while (lanes < 32 && int64_t{lanes} * per_lane < d) lanes *= 2;
  return lanes;
}

struct RowLane {
  int64_t row;
  int lane;  // within the row
  GPU_INLINE explicit RowLane(int lanes) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    row = thread / lanes;
    lane = static_cast<int>(thread & (lanes - 1));
  }
};

/// The row's sum, in all of its lanes. Every lane of the warp takes part.
template <class T>
GPU_INLINE T sum_of_row(T value, int lanes) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}
/// The sum over the warp's rows, lane by lane of a row.
template <class T>
GPU_INLINE T sum_over_rows(T value, int lanes) {
  for (int mask = 16; mask >= lanes; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

}  // namespace flowgrad::kernels::cuda
