#pragma once

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table.h"

/// How kernels of rows and of columns are given any axis of any view.
namespace flowgrad::kernels::cpu {

/// Shape and strides of a view whose axis `axis` is moved behind the others.
struct AxisLast {
  Shape shape;
  Strides strides;
  View view;

  AxisLast(const View& v, int axis) : view(v) {
    for (int d = 0; d < v.rank(); ++d) {
      if (d == axis) continue;
      shape.push_back((*v.shape)[d]);
      strides.push_back((*v.strides)[d]);
    }
    shape.push_back((*v.shape)[axis]);
    strides.push_back((*v.strides)[axis]);
    view.shape = &shape;
    view.strides = &strides;
  }
  AxisLast(const AxisLast&) = delete;
  /// The same numbers, contiguous.
  Tensor copy() const {
    const Tensor t = Tensor::empty(shape, view.dtype);
    fast_cpu_backend().copy(view, t);
    return t;
  }
};

/// Whether rows lie ready for the kernels: along the last axis, everything contiguous.
template <class... Views>
bool are_rows(int axis, const View& first, const Views&... others) {
  return axis == first.rank() - 1 && first.is_contiguous() && (others.is_contiguous() && ...);
}

/// A contiguous view as batches of `n` x `columns`, n along one axis.
struct Lanes {
  int64_t batches = 1, n = 1, columns = 1;

  Lanes(const View& v, int axis) : n((*v.shape)[axis]) {
    for (int d = 0; d < v.rank(); ++d) {
      if (d < axis) batches *= (*v.shape)[d];
      if (d > axis) columns *= (*v.shape)[d];
    }
  }
  int64_t numel() const { return batches * n * columns; }
  /// Fewer columns than that are copied into rows first.
  bool are_many() const { return columns >= 16 && n < (int64_t{1} << 31); }
};

/// Whether columns lie ready for the kernels: many of them, everything contiguous.
template <class... Views>
bool are_columns(int axis, const View& first, const Views&... others) {
  return Lanes(first, axis).are_many() && first.is_contiguous() && (others.is_contiguous() && ...);
}

/// f(first row, rows) over groups of rows of n numbers each.
template <class F>
void for_row_groups(int64_t rows, int64_t n, F&& f, int64_t numbers_in_group = kChunk) {
  const int64_t group = std::max<int64_t>(1, numbers_in_group / std::max<int64_t>(n, 1));
  for_tasks(divide_up(rows, group), rows * n, [&](int64_t i) {
    const int64_t begin = i * group;
    f(begin, std::min(group, rows - begin));
  });
}

/// run(x, values, positions) with the axis as rows, for what leaves values and their positions:
/// from copies, and back.
template <class Run>
void through_rows(const View& x, int axis, const View& values, const View& positions, Run&& run) {
  const AxisLast to_values(values, axis), to_positions(positions, axis);
  const Tensor rows = AxisLast(x, axis).copy(), found = Tensor::empty(to_values.shape, x.dtype),
               places = Tensor::empty(to_values.shape, DType::int64);
  run(rows, found, places);
  fast_cpu_backend().copy(found, to_values.view);
  fast_cpu_backend().copy(places, to_positions.view);
}

/// f(batch, first column, columns) over strips of columns. No column's result depends on its strip,
/// so strips may fit the number of threads.
template <class F>
void for_strips(const Lanes& l, F&& f) {
  const int64_t strip =
      std::clamp<int64_t>(l.columns / num_threads() / 32 * 32, 64, kMostColumns / 2);
  const int64_t strips = std::max<int64_t>(1, l.columns / strip);
  for_tasks(l.batches * strips, l.numel(), [&](int64_t i) {
    const int64_t begin = i % strips * strip;
    f(i / strips, begin, i % strips == strips - 1 ? l.columns - begin : strip);
  });
}

}  // namespace flowgrad::kernels::cpu
