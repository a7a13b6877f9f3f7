#pragma once

#include <cstdint>

#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels::cuda {

/// A value and where it was found; -1 where nothing has been seen yet.
template <class T>
struct Extreme {
  T value = T(0);
  int64_t at = -1;
};

/// True where x takes the place of the extreme `best`; NaN is the extreme of all.
template <class T>
GPU_INLINE bool beats(bool maximum, T x, T best) {
  return (best == best) & ((x != x) | (maximum ? x > best : x < best));
}

}  // namespace flowgrad::kernels::cuda
