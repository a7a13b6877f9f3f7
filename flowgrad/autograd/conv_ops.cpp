#include <fmt/format.h>

#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"

namespace flowgrad {
namespace {

void check_images(const char* op, const Tensor& x) {
  if (x.rank() != 4) {
    throw ShapeError(
        fmt::format("{}: x is {}; images (N, C, H, W) are accepted", op, x.shape().to_string()));
  }
  check_floating(op, x);
}

void check_at_least(const char* op, const char* argument, int64_t given, int64_t low) {
  if (given >= low) return;
  throw ValueError(
      fmt::format("{}: {} = {} given; at least {} is accepted", op, argument, given, low));
}

/// A window that moves over the two image axes.
struct Window {
  int64_t height, width, stride, padding, dilation;
};

/// Number of places of the window along an axis.
int64_t places(const char* op, const Tensor& x, int axis, int64_t kernel, const Window& w) {
  const int64_t padded = x.shape()[axis] + 2 * w.padding;
  const int64_t reach = w.dilation * (kernel - 1) + 1;
  if (kernel < 1 || reach > padded) {
    throw ShapeError(
        fmt::format("{}: x is {}; the kernel covers {} elements of axis {}, which has {} with "
                    "its padding; 1 to {} are accepted",
                    op, x.shape().to_string(), kernel < 1 ? 0 : reach, axis, padded, padded));
  }
  return (padded - reach) / w.stride + 1;
}

/// A view (N, C, kernel height, kernel width, height, width) of the padded images: what the window
/// shows at every place, without a copy.
Tensor windows(const char* op, const Tensor& x, const Window& w) {
  const int64_t height = places(op, x, 2, w.height, w);
  const int64_t width = places(op, x, 3, w.width, w);
  // Not a view of x where x shows elements more than once: each of them has a gradient of its own.
  const Tensor padded =
      w.padding == 0 ? contiguous(x)
                     : pad(x, {{0, 0}, {0, 0}, {w.padding, w.padding}, {w.padding, w.padding}});
  const Strides& s = padded.strides();
  return as_strided(
      padded, {x.shape()[0], x.shape()[1], w.height, w.width, height, width},
      {s[0], s[1], s[2] * w.dilation, s[3] * w.dilation, s[2] * w.stride, s[3] * w.stride},
      padded.layout().offset);
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  DType dtype = promote(x.dtype(), weight.dtype());
  if (bias.defined()) dtype = promote(dtype, bias.dtype());
  if (x.dtype() != dtype || weight.dtype() != dtype) {
    return conv2d(cast(x, dtype), cast(weight, dtype), bias, options);
  }
  check_images("conv2d", x);
  check_same_device("conv2d", x, weight, "x", "weight");
  check_same_device("conv2d", x, bias, "x", "bias");
  check_at_least("conv2d", "stride", options.stride, 1);
  check_at_least("conv2d", "padding", options.padding, 0);
  check_at_least("conv2d", "dilation", options.dilation, 1);
  check_at_least("conv2d", "groups", options.groups, 1);
  const int64_t groups = options.groups;
  const int64_t images = x.shape()[0];
  if (weight.rank() != 4 || weight.shape()[1] * groups != x.shape()[1] ||
      weight.shape()[0] % groups != 0) {
    throw ShapeError(
        fmt::format("conv2d: x is {}, weight is {} with groups = {}; a weight (O, C / groups, "
                    "kh, kw) with O a multiple of groups is accepted, here C is {}",
                    x.shape().to_string(), weight.shape().to_string(), groups, x.shape()[1]));
  }
  const int64_t outputs = weight.shape()[0];
  if (bias.defined() && bias.shape() != Shape{outputs}) {
    throw ShapeError(
        fmt::format("conv2d: bias is {}, weight is {}; a bias of shape ({},) is accepted",
                    bias.shape().to_string(), weight.shape().to_string(), outputs));
  }
  const Tensor view = windows(
      "conv2d", x,
      {weight.shape()[2], weight.shape()[3], options.stride, options.padding, options.dilation});
  const int64_t height = view.shape()[4];
  const int64_t width = view.shape()[5];
  const int64_t depth = weight.shape()[1] * weight.shape()[2] * weight.shape()[3];
  // One product an image and group: filters times what the window shows.
  Tensor out = groups == 1 ? matmul(reshape(weight, {outputs, depth}),
                                    reshape(view, {images, depth, height * width}))
                           : matmul(reshape(weight, {groups, outputs / groups, depth}),
                                    reshape(view, {images, groups, depth, height * width}));
  out = reshape(out, {images, outputs, height, width});
  return bias.defined() ? out + reshape(bias, {outputs, 1, 1}) : out;
}

Tensor avg_pool2d(const Tensor& x, int64_t kernel, int64_t stride, int64_t padding) {
  check_images("avg_pool2d", x);
  check_at_least("avg_pool2d", "kernel", kernel, 1);
  check_at_least("avg_pool2d", "stride", stride, 0);
  check_at_least("avg_pool2d", "padding", padding, 0);
  if (2 * padding > kernel) {
    throw ValueError(
        fmt::format("avg_pool2d: padding = {} given with kernel = {}; at most half the kernel is "
                    "accepted",
                    padding, kernel));
  }
  const Window window{kernel, kernel, stride == 0 ? kernel : stride, padding, 1};
  return mean(windows("avg_pool2d", x, window), {2, 3});
}

namespace {

/// Means over `n` windows of an axis, window i from floor(i size / n) to ceil((i + 1) size / n).
Tensor adaptive_mean(const Tensor& x, int axis, int64_t n) {
  const int64_t size = x.shape()[axis];
  if (size == n) return x;
  if (size % n == 0) {
    Shape shape = x.shape();
    shape[axis] = n;
    shape.insert(axis + 1, size / n);
    return mean(reshape(x, shape), {axis + 1});
  }
  std::vector<Tensor> means;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = i * size / n;
    const int64_t end = ((i + 1) * size - 1) / n + 1;
    means.push_back(mean(slice(x, axis, begin, end), {axis}, true));
  }
  return concat(means, axis);
}

}  // namespace

Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width) {
  check_images("adaptive_avg_pool2d", x);
  check_at_least("adaptive_avg_pool2d", "height", height, 1);
  check_at_least("adaptive_avg_pool2d", "width", width, 1);
  if (x.shape()[2] == 0 || x.shape()[3] == 0) {
    throw ShapeError(
        fmt::format("adaptive_avg_pool2d: x is {}; images of height and width at least 1 are "
                    "accepted",
                    x.shape().to_string()));
  }
  return adaptive_mean(adaptive_mean(x, 2, height), 3, width);
}

}  // namespace flowgrad
