#pragma once

#include <optional>

#include "flowgrad/core/shape.h"

namespace flowgrad {

/// Elements follow each other in row-major order without gaps.
inline bool is_contiguous(const Shape& shape, const Strides& strides) {
  int64_t expected = 1;
  bool packed = true;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) packed = false;
    expected *= shape[i];
  }
  return packed;
}

/// How elements lie in a storage: sizes, strides and offset, all counted in elements.
struct Layout {
  Shape shape;
  Strides strides;
  int64_t offset = 0;

  int rank() const { return shape.rank(); }
  bool is_contiguous() const { return flowgrad::is_contiguous(shape, strides); }
};

/// Row-major layout without gaps.
inline Layout contiguous_layout(const Shape& shape) {
  Layout out{shape, Dims::filled(shape.rank(), 1), 0};
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    out.strides[i] = stride;
    if (shape[i] > 0) stride *= shape[i];
  }
  return out;
}

/// First and one-past-last element that the layout touches, relative to the storage's start
/// ({0, 0} when empty). Raises ShapeError when the arithmetic overflows.
struct Extent {
  int64_t begin = 0;
  int64_t end = 0;
};
Extent extent_of(const Layout& layout);
/// The first axis whose places all show the same elements, of stride 0; -1 where there is none.
int repeated_axis(const Layout& layout);

// View algebra. Each checks its arguments and raises ShapeError naming op.
Layout permuted(const char* op, const Layout& in, const Dims& axes);
Layout transposed(const char* op, const Layout& in, int64_t axis0, int64_t axis1);
Layout expanded(const char* op, const Layout& in, const Shape& shape);
/// Elements start, start + step, ... below stop along axis (Python's slice rules, step >= 1).
Layout sliced(const char* op, const Layout& in, int64_t axis, int64_t start, int64_t stop,
              int64_t step);
Layout unsqueezed(const char* op, const Layout& in, int64_t axis);
Layout squeezed(const char* op, const Layout& in, int64_t axis);
/// Strides that show the same elements under another shape, or nothing where a copy is needed.
std::optional<Layout> viewed(const Layout& in, const Shape& shape);
/// Fills in one size of -1 and checks the element count.
Shape resolve_reshape(const char* op, const Shape& from, const Shape& to);

}  // namespace flowgrad
