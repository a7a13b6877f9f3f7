#include <fmt/format.h>

#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/windows.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

using kernels::backend;
using kernels::Pooling;

/// The window of a pooling whose stride is given or its kernel; ShapeError or ValueError where it
/// may see nothing but padding.
Window window_of(const char* op, const Tensor& x, Size2d kernel, Size2d stride, Size2d padding) {
  check_images(op, x);
  check_not_empty(op, x);
  check_at_least(op, "kernel", kernel, 1);
  check_at_least(op, "stride", stride, 0);
  check_at_least(op, "padding", padding, 0);
  if (padding.rows > kernel.rows / 2 || padding.columns > kernel.columns / 2) {
    throw ValueError(
        fmt::format("{}: padding = {} given with kernel = {}; at most half the kernel is accepted",
                    op, padding.to_string(), kernel.to_string()));
  }
  const auto step = [&](int axis) { return stride[axis] == 0 ? kernel[axis] : stride[axis]; };
  return {kernel, {step(0), step(1)}, padding};
}

Shape pooled_shape(const Tensor& x, Size2d places) {
  return {x.size(0), x.size(1), places.rows, places.columns};
}

/// Means over the windows, and the gradient of x from the means': each the other's gradient.
Tensor window_means(const Pooling& p, const Tensor& x, Size2d places, bool back) {
  const Size2d size{x.size(2), x.size(3)};
  const Tensor from = contiguous(x.detach());
  const Tensor out = Tensor::empty(pooled_shape(x, places), x.dtype(), x.device());
  if (back)
    backend(x.device()).avg_pool2d_grad(p, from, out);
  else
    backend(x.device()).avg_pool2d(p, from, out);
  if (recording(x)) {
    record(back ? "avg_pool2d_grad" : "avg_pool2d", out, {x}, {},
           [p, size, back](Backward& r) { r.set(0, window_means(p, r.grad(), size, !back)); });
  }
  return out;
}

/// The cotangents g of maxima at the places these have in x, zeros elsewhere.
Tensor at_maxima(const Pooling& p, const Tensor& g, const Tensor& index, const Shape& x) {
  if (!fused_kernels()) {
    const Shape planes{x[0], x[1], x[2] * x[3]};
    return reshape(scatter_zeros(flatten(g, 2), 2, flatten(index, 2), planes), x);
  }
  const Tensor g_x = Tensor::empty(x, g.dtype(), g.device());
  backend(g.device()).max_pool2d_grad(p, contiguous(g.detach()), index, g_x);
  if (recording(g)) {
    record("max_pool2d_grad", g_x, {g}, {save(index)}, [](Backward& r) {
      const Tensor& places = r.saved(0);
      const Tensor flat = gather(flatten(r.grad(), 2), 2, flatten(places, 2));
      r.set(0, reshape(flat, places.shape()));
    });
  }
  return g_x;
}

/// The largest of each window and its place within the plane, to which the gradient goes.
std::pair<Tensor, Tensor> window_maxima(const char* op, const Pooling& p, const Tensor& x,
                                        Size2d places) {
  const Tensor out = Tensor::empty(pooled_shape(x, places), x.dtype(), x.device());
  const Tensor index = Tensor::empty(out.shape(), DType::int64, x.device());
  backend(x.device()).max_pool2d(p, contiguous(x.detach()), out, index);
  if (recording(x)) {
    record(op, out, {x}, {save(index)}, [p, shape = x.shape()](Backward& r) {
      r.set(0, at_maxima(p, r.grad(), r.saved(0), shape));
    });
  }
  return {out, index};
}

std::pair<Tensor, Tensor> max_pooled(const char* op, const Tensor& x, Size2d kernel, Size2d stride,
                                     Size2d padding) {
  if (x.rank() == 3) {
    const auto [values, index] = max_pooled(op, unsqueeze(x, 0), kernel, stride, padding);
    return {squeeze(values, 0), squeeze(index, 0)};
  }
  Window w = window_of(op, x, kernel, stride, padding);
  const Size2d places = fit_window(op, x, w);
  return window_maxima(op, {w.size, w.stride, w.padding}, x, places);
}

/// Means over `n` windows of an axis, window i from floor(i size / n) to ceil((i + 1) size / n).
Tensor adaptive_mean(const Tensor& x, int axis, int64_t n) {
  const int64_t size = x.shape()[axis];
  if (size == n) return x;
  std::vector<Tensor> means;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = i * size / n;
    const int64_t end = ((i + 1) * size - 1) / n + 1;
    means.push_back(mean(slice(x, axis, begin, end), {axis}, true));
  }
  return concat(means, axis);
}

void check_adaptive(const char* op, const Tensor& x, int64_t height, int64_t width) {
  check_images(op, x);
  check_at_least(op, "height", height, 1);
  check_at_least(op, "width", width, 1);
  check_not_empty(op, x);
}

/// Windows of one size where the axis divides, spans where it does not.
Pooling adaptive_pooling(const Tensor& x, int64_t height, int64_t width) {
  const auto kernel = [&](int axis, int64_t n) { return x.size(axis) % n ? 0 : x.size(axis) / n; };
  const Size2d size{kernel(2, height), kernel(3, width)};
  return {size, size, 0};
}

}  // namespace

Tensor avg_pool2d(const Tensor& x, Size2d kernel, Size2d stride, Size2d padding,
                  bool count_include_pad) {
  if (x.rank() == 3) {
    return squeeze(avg_pool2d(unsqueeze(x, 0), kernel, stride, padding, count_include_pad), 0);
  }
  Window w = window_of("avg_pool2d", x, kernel, stride, padding);
  const Size2d places = fit_window("avg_pool2d", x, w);
  if (fused_kernels())
    return window_means({w.size, w.stride, w.padding, count_include_pad}, x, places, false);
  const auto sums = [&](const Tensor& of) { return sum(windows(of, w, places), {2, 3}); };
  if (count_include_pad) return sums(x) / static_cast<double>(kernel.rows * kernel.columns);
  return sums(x) / sums(filled({1, 1, x.size(2), x.size(3)}, 1, x.dtype(), x.device()));
}

std::pair<Tensor, Tensor> max_pool2d_with_index(const Tensor& x, Size2d kernel, Size2d stride,
                                                Size2d padding) {
  return max_pooled("max_pool2d_with_index", x, kernel, stride, padding);
}

Tensor max_pool2d(const Tensor& x, Size2d kernel, Size2d stride, Size2d padding) {
  return max_pooled("max_pool2d", x, kernel, stride, padding).first;
}

Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width) {
  if (x.rank() == 3) return squeeze(adaptive_avg_pool2d(unsqueeze(x, 0), height, width), 0);
  check_adaptive("adaptive_avg_pool2d", x, height, width);
  if (height * width == 1) return mean(x, {2, 3}, true);
  if (!fused_kernels()) return adaptive_mean(adaptive_mean(x, 2, height), 3, width);
  return window_means(adaptive_pooling(x, height, width), x, {height, width}, false);
}

Tensor adaptive_max_pool2d(const Tensor& x, int64_t height, int64_t width) {
  if (x.rank() == 3) return squeeze(adaptive_max_pool2d(unsqueeze(x, 0), height, width), 0);
  check_adaptive("adaptive_max_pool2d", x, height, width);
  return window_maxima("adaptive_max_pool2d", adaptive_pooling(x, height, width), x,
                       {height, width})
      .first;
}

}  // namespace flowgrad
