#include "flowgrad/kernels/axes.h"

#include <algorithm>
#include <cstdlib>

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

Axes matmul_batch(const Shape& shape, const Strides& out, const Strides& a, const Strides& b) {
  const auto rank = static_cast<size_t>(shape.rank() - 2);
  const auto leading = [rank](const Strides& s) { return Strides(std::span(s.begin(), rank)); };
  const Strides o = leading(out), of_a = leading(a), of_b = leading(b);
  const Strides* const strides[] = {&o, &of_a, &of_b};
  return merge_axes(Shape(std::span(shape.begin(), rank)), strides, 3);
}

int64_t batch_of_matrices(const Shape& shape) {
  return numel(Shape(std::span(shape.begin(), static_cast<size_t>(shape.rank() - 2))));
}

bool is_one_to_one(const Shape& shape, const Strides& strides) {
  int64_t size[kMaxRank], stride[kMaxRank];
  int rank = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    size[rank] = shape[d];
    stride[rank++] = std::abs(strides[d]);
  }
  int order[kMaxRank];
  for (int i = 0; i < rank; ++i) order[i] = i;
  std::sort(order, order + rank, [&](int a, int b) { return stride[a] < stride[b]; });
  int64_t span = 1;
  for (int i = 0; i < rank; ++i) {
    if (stride[order[i]] < span) return false;
    span += stride[order[i]] * (size[order[i]] - 1);
  }
  return true;
}

}  // namespace flowgrad::kernels
