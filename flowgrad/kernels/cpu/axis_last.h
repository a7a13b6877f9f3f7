#pragma once

#include "flowgrad/kernels/cpu/backend.h"

/// How kernels of rows are given an axis that is not the last, or not contiguous.
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

}  // namespace flowgrad::kernels::cpu
