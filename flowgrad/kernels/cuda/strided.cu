#include "flowgrad/kernels/cuda/strided.cuh"

#include <algorithm>
#include <cstdlib>

#include "flowgrad/kernels/cuda/rows.h"

namespace flowgrad::kernels::loops {

namespace {

/// Distance from the first to the farthest element of an operand, were all strides positive.
int64_t reach(const Axes& axes, int operand) {
  int64_t sum = 0;
  for (int d = 0; d < axes.rank; ++d) sum += (axes.size[d] - 1) * std::abs(axes.stride[operand][d]);
  return sum;
}

/// Every operand's rows can be read and written in vectors of width elements.
bool moves_as_vectors(const Axes& axes, const std::array<void*, kMaxOperands>& data,
                      const int64_t* element_size, int width) {
  if (axes.rank == 0) return false;
  const int last = axes.rank - 1;
  if (axes.rank > 1 && axes.size[last] % width != 0) return false;
  if (axes.stride[0][last] != 1) return false;
  for (int o = 0; o < axes.operands; ++o) {
    if (axes.stride[o][last] == 0) continue;
    if (axes.stride[o][last] != 1) return false;
    const int64_t bytes = std::min<int64_t>(16, width * element_size[o]);
    if (reinterpret_cast<uintptr_t>(data[static_cast<size_t>(o)]) % static_cast<uintptr_t>(bytes) !=
        0)
      return false;
    for (int d = 0; d < last; ++d) {
      if (axes.stride[o][d] % width != 0) return false;
    }
  }
  return true;
}

Piece make_piece(const Axes& axes, const std::array<void*, kMaxOperands>& data,
                 const int64_t* element_size, int width) {
  Piece piece;
  piece.data = data;
  Plan& p = piece.plan;
  p.total = static_cast<uint32_t>(axes.total);
  const uint32_t per_tile = static_cast<uint32_t>(kBlock * width);
  p.tiles = (p.total + per_tile - 1) / per_tile;
  p.rank = axes.rank;
  p.is_vector = moves_as_vectors(axes, data, element_size, width) ? 1 : 0;
  for (int d = 0; d < axes.rank; ++d) {
    const bool counts_vectors = p.is_vector != 0 && d == axes.rank - 1;
    const int64_t n = counts_vectors ? (axes.size[d] + width - 1) / width : axes.size[d];
    p.size[d] = Divisor(static_cast<uint32_t>(n));
    for (int o = 0; o < axes.operands; ++o)
      p.stride[o][d] = static_cast<int32_t>(axes.stride[o][d] * (counts_vectors ? width : 1));
  }
  for (int o = 0; o < axes.operands; ++o)
    if (axes.rank > 0 && axes.stride[o][axes.rank - 1] == 0) p.broadcast |= 1u << o;
  return piece;
}

void cut(const Axes& axes, const std::array<void*, kMaxOperands>& data, const int64_t* element_size,
         int width, std::vector<Piece>& out) {
  int64_t farthest = axes.total;
  int worst = -1;  // the operand that reaches too far, or none
  for (int o = 0; o < axes.operands; ++o) {
    if (reach(axes, o) <= farthest) continue;
    farthest = reach(axes, o);
    worst = o;
  }
  if (farthest <= launch_limit()) {
    out.push_back(make_piece(axes, data, element_size, width));
    return;
  }
  const auto extent = [&](int d) {
    return worst < 0 ? axes.size[d] : (axes.size[d] - 1) * std::abs(axes.stride[worst][d]);
  };
  int axis = 0;
  for (int d = 1; d < axes.rank; ++d) {
    if (extent(d) > extent(axis)) axis = d;
  }
  const int64_t half = axes.size[axis] / 2;
  // A multiple of every vector width keeps the second half aligned.
  const int64_t first = half >= 16 ? half / 16 * 16 : half;
  Axes part = axes;
  std::array<void*, kMaxOperands> start = data;
  for (const int64_t n : {first, axes.size[axis] - first}) {
    part.size[axis] = n;
    part.total = axes.total / axes.size[axis] * n;
    cut(part, start, element_size, width, out);
    for (int o = 0; o < axes.operands; ++o) {
      auto& p = start[static_cast<size_t>(o)];
      p = static_cast<char*>(p) + n * axes.stride[o][axis] * element_size[o];
    }
  }
}

}  // namespace

int64_t& launch_limit() {
  static int64_t limit = int64_t{1} << 30;
  return limit;
}

unsigned& grid_limit() {
  static unsigned limit = 1u << 16;
  return limit;
}

unsigned capped_grid(uint64_t tiles) {
  return static_cast<unsigned>(std::min<uint64_t>(tiles, grid_limit()));
}

dim3 Piece::grid() const { return dim3(capped_grid(plan.tiles)); }

Axes ordered_axes(std::initializer_list<const View*> operands) {
  std::array<const Strides*, kMaxOperands> strides{};
  int n = 0;
  for (const View* v : operands) strides[static_cast<size_t>(n++)] = v->strides;
  const Shape& shape = *operands.begin()[0]->shape;
  return cuda::ordered_axes(shape, strides.data(), n, 0, [](int) { return true; });
}

std::vector<Piece> plan(std::initializer_list<const View*> operands, int width) {
  std::vector<Piece> pieces;
  const Axes axes = ordered_axes(operands);
  if (axes.total == 0) return pieces;
  std::array<void*, kMaxOperands> data{};
  int64_t element_size[kMaxOperands] = {};
  size_t o = 0;
  for (const View* v : operands) {
    data[o] = v->data;
    element_size[o++] = static_cast<int64_t>(size_of(v->dtype));
  }
  cut(axes, data, element_size, width, pieces);
  return pieces;
}

}  // namespace flowgrad::kernels::loops
