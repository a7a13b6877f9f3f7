#pragma once

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/reference/loops.h"

/// The host's view of operations along axes: which axes are kept, and how rows lie in memory.
namespace flowgrad::kernels::cuda {

/// The axes of operands of equal rank where chosen(d), merged in the order in which operand `by`
/// lies in memory: the farthest step first, broadcast axes before all. Sizes are those of shape.
template <class Chosen>
Axes ordered_axes(const Shape& shape, const Strides* const* strides, int operands, int by,
                  Chosen&& chosen) {
  int order[kMaxRank];
  int count = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    if (chosen(d)) order[count++] = d;
  }
  const auto reach = [&](int d) {
    const int64_t step = (*strides[by])[d];
    return step == 0 ? std::numeric_limits<int64_t>::max() : std::abs(step);
  };
  std::stable_sort(order, order + count, [&](int a, int b) { return reach(a) > reach(b); });
  Shape sizes = Dims::filled(count, 0);
  Strides steps[kMaxOperands];
  const Strides* pointers[kMaxOperands];
  for (int k = 0; k < operands; ++k) {
    steps[k] = Dims::filled(count, 0);
    pointers[k] = &steps[k];
  }
  for (int i = 0; i < count; ++i) {
    sizes[i] = shape[order[i]];
    for (int k = 0; k < operands; ++k) steps[k][i] = (*strides[k])[order[i]];
  }
  return merge_axes(sizes, pointers, operands);
}

/// True where a step along a row is shorter than one to the next row. `kept` are the axes that
/// count the rows.
inline bool lies_along_memory(const Axes& kept, int operand, int64_t step) {
  if (kept.rank == 0) return true;
  const int64_t next_row = std::abs(kept.inner_stride(operand));
  return next_row == 0 || std::abs(step) <= next_row;
}

using reference::size_along;
using reference::stride_along;

}  // namespace flowgrad::kernels::cuda
