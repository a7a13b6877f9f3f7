#include "flowgrad/autograd/windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {

void check_images(const char* op, const Tensor& x) {
  if (x.rank() != 4) {
    throw ShapeError(
        fmt::format("{}: x is {}; images (N, C, H, W) are accepted", op, x.shape().to_string()));
  }
  check_floating(op, x);
}

void check_not_empty(const char* op, const Tensor& x) {
  if (x.size(2) > 0 && x.size(3) > 0) return;
  throw ShapeError(fmt::format("{}: x is {}; images of height and width at least 1 are accepted",
                               op, x.shape().to_string()));
}

void check_at_least(const char* op, const char* argument, Size2d given, int64_t low) {
  constexpr int64_t kMost = 1 << 24;
  const auto [least, most] = std::minmax(given.rows, given.columns);
  if (least >= low && most <= kMost) return;
  throw ValueError(fmt::format("{}: {} = {} given; {} {} is accepted", op, argument,
                               given.to_string(), least < low ? "at least" : "at most",
                               least < low ? low : kMost));
}

Size2d fit_window(const char* op, const Tensor& x, Window& w) {
  const auto along = [&](int axis) {
    const int64_t padded = x.size(2 + axis) + 2 * w.padding[axis];
    const int64_t reach = w.dilation[axis] * (w.size[axis] - 1) + 1;
    if (w.size[axis] < 1 || reach > padded) {
      throw ShapeError(fmt::format(
          "{}: x is {}; the kernel covers {} elements of axis {}, which has {} with "
          "its padding; 1 to {} are accepted",
          op, x.shape().to_string(), w.size[axis] < 1 ? 0 : reach, 2 + axis, padded, padded));
    }
    return (padded - reach) / w.stride[axis] + 1;
  };
  const int64_t rows = along(0), columns = along(1);
  w.stride = {rows == 1 ? 1 : w.stride.rows, columns == 1 ? 1 : w.stride.columns};
  return {rows, columns};
}

Tensor windows(const Tensor& x, const Window& w, Size2d places) {
  // Not a view of x where x shows elements more than once: each of them has a gradient of its own.
  const auto around = [&](int64_t n) { return std::pair(n, n); };
  const Tensor padded =
      w.padding == 0
          ? contiguous(x)
          : pad(x, {around(0), around(0), around(w.padding.rows), around(w.padding.columns)});
  const Strides& s = padded.strides();
  return as_strided(
      padded, {x.size(0), x.size(1), w.size.rows, w.size.columns, places.rows, places.columns},
      {s[0], s[1], s[2] * w.dilation.rows, s[3] * w.dilation.columns, s[2] * w.stride.rows,
       s[3] * w.stride.columns},
      padded.layout().offset);
}

}  // namespace flowgrad
