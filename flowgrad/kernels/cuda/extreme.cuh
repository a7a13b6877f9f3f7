#pragma once

#include <cstdint>

#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels::cuda {

/// A value and where it was found; -1 where nothing has been seen yet.
template <class T>
struct Extreme {
  T value = T(0);
  int64_t at = -1;
};

using scalar::beats;

}  // namespace flowgrad::kernels::cuda
