#include "flowgrad/kernels/axes.h"

namespace flowgrad::kernels {

Axes merge_axes(const Shape& shape, const Strides* const* strides, int operands) {
  Axes axes;
  axes.operands = operands;
  for (int d = 0; d < shape.rank(); ++d) {
    const int64_t size = shape[d];
    axes.total *= size;
    if (size == 1) continue;
    bool merges = axes.rank > 0;
    for (int i = 0; i < operands && merges; ++i)
      merges = axes.stride[i][axes.rank - 1] == (*strides[i])[d] * size;
    if (!merges) ++axes.rank;
    const int last = axes.rank - 1;
    axes.size[last] = merges ? axes.size[last] * size : size;
    for (int i = 0; i < operands; ++i) axes.stride[i][last] = (*strides[i])[d];
  }
  return axes;
}

}  // namespace flowgrad::kernels
