#include <fmt/format.h>

#include <array>
#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"

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
int64_t places_of(const char* op, const Tensor& x, int axis, int64_t kernel, const Window& w) {
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
  const int64_t height = places_of(op, x, 2, w.height, w);
  const int64_t width = places_of(op, x, 3, w.width, w);
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

/// The convolution in operations, from {x, weight} or {x, weight, bias}.
std::vector<Tensor> composed(std::span<const Tensor> in, const ConvOptions& o) {
  const Tensor &x = in[0], &weight = in[1];
  const Shape& s = weight.shape();
  const int64_t images = x.shape()[0], outputs = s[0], depth = s[1] * s[2] * s[3];
  const Tensor view = windows("conv2d", x, {s[2], s[3], o.stride, o.padding, o.dilation});
  const int64_t height = view.shape()[4], width = view.shape()[5];
  // One product an image and group: filters times what the window shows.
  const Tensor product = o.groups == 1
                             ? matmul(reshape(weight, {outputs, depth}),
                                      reshape(view, {images, depth, height * width}))
                             : matmul(reshape(weight, {o.groups, outputs / o.groups, depth}),
                                      reshape(view, {images, o.groups, depth, height * width}));
  const Tensor out = reshape(product, {images, outputs, height, width});
  if (in.size() < 3 || !in[2].defined()) return {out};
  return {out + reshape(in[2], {outputs, 1, 1})};
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  DType dtype = promote(x.dtype(), weight.dtype());
  if (bias.defined()) dtype = promote(dtype, bias.dtype());
  if (x.dtype() != dtype || weight.dtype() != dtype || (bias.defined() && bias.dtype() != dtype)) {
    return conv2d(cast(x, dtype), cast(weight, dtype), bias.defined() ? cast(bias, dtype) : bias,
                  options);
  }
  if (x.rank() == 3) return squeeze(conv2d(unsqueeze(x, 0), weight, bias, options), 0);
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
  const Window window{weight.shape()[2], weight.shape()[3], options.stride, options.padding,
                      options.dilation};
  const Shape places{images, outputs, places_of("conv2d", x, 2, window.height, window),
                     places_of("conv2d", x, 3, window.width, window)};
  const std::array<Tensor, 3> in = {x, weight, bias};
  const Epilogue epilogue = options.epilogue;
  if (!fused_kernels()) return with_epilogue(composed(in, options)[0], epilogue, false);
  const bool records = recording(std::span<const Tensor>(in)), fused = is_fused(epilogue, records);
  const auto dense = [](const Tensor& t) { return contiguous(t.detach()); };
  const kernels::Convolution c{options.stride, options.padding, options.dilation, options.groups};
  const Tensor out = Tensor::empty(places, dtype, x.device());
  const Tensor from = dense(x), by = dense(weight), plus = bias.defined() ? dense(bias) : bias;
  if (fused)
    kernels::backend(x.device()).conv2d_unary(operation_of(epilogue), c, from, by, plus, out);
  else
    kernels::backend(x.device()).conv2d(c, from, by, plus, out);
  if (records) {
    const std::array<Saved, 2> saved = {save(x), save(weight)};
    record("conv2d", std::span(&out, 1), std::span<const Tensor>(in), std::span<const Saved>(saved),
           [options, c, dense](Backward& r) {
             const Tensor x = r.saved(0), weight = r.saved(1), g = r.grad();
             if (mode().recording) {
               if (r.needs(2)) r.set(2, sum(g, {0, 2, 3}));
               const std::array<Tensor, 2> at = {x, weight};
               return set_by_twin(
                   r, at, [&](std::span<const Tensor> given) { return composed(given, options); });
             }
             std::array<Tensor, 3> to;
             for (int i = 0; i < 3; ++i) {
               const Shape shape = i == 0 ? x.shape() : i == 1 ? weight.shape() : Shape{g.size(1)};
               if (r.needs(i))
                 to[static_cast<size_t>(i)] = Tensor::empty(shape, g.dtype(), g.device());
             }
             kernels::backend(x.device())
                 .conv2d_grad(c, dense(x), dense(weight), dense(g), to[0], to[1], to[2]);
             for (int i = 0; i < 3; ++i) {
               if (r.needs(i)) r.set(i, to[static_cast<size_t>(i)]);
             }
           });
  }
  return with_epilogue(out, epilogue, fused);
}

namespace {

/// Means over the windows, and the gradient of x from the means': each the other's gradient.
Tensor window_means(const kernels::Pooling& p, const Tensor& x, const Dims& places, bool back) {
  const Dims size{x.size(2), x.size(3)};
  const Tensor from = contiguous(x.detach());
  const Tensor out =
      Tensor::empty({x.size(0), x.size(1), places[0], places[1]}, x.dtype(), x.device());
  if (back)
    kernels::backend(x.device()).avg_pool2d_grad(p, from, out);
  else
    kernels::backend(x.device()).avg_pool2d(p, from, out);
  if (recording(x)) {
    record(back ? "avg_pool2d_grad" : "avg_pool2d", out, {x}, {},
           [p, size, back](Backward& r) { r.set(0, window_means(p, r.grad(), size, !back)); });
  }
  return out;
}

}  // namespace

Tensor avg_pool2d(const Tensor& x, int64_t kernel, int64_t stride, int64_t padding) {
  if (x.rank() == 3) return squeeze(avg_pool2d(unsqueeze(x, 0), kernel, stride, padding), 0);
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
  const int64_t height = places_of("avg_pool2d", x, 2, kernel, window);
  const int64_t width = places_of("avg_pool2d", x, 3, kernel, window);
  if (!fused_kernels()) return mean(windows("avg_pool2d", x, window), {2, 3});
  return window_means({{kernel, kernel}, {window.stride, window.stride}, {padding, padding}}, x,
                      {height, width}, false);
}

namespace {

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

}  // namespace

Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width) {
  if (x.rank() == 3) return squeeze(adaptive_avg_pool2d(unsqueeze(x, 0), height, width), 0);
  check_images("adaptive_avg_pool2d", x);
  check_at_least("adaptive_avg_pool2d", "height", height, 1);
  check_at_least("adaptive_avg_pool2d", "width", width, 1);
  if (x.shape()[2] == 0 || x.shape()[3] == 0) {
    throw ShapeError(
        fmt::format("adaptive_avg_pool2d: x is {}; images of height and width at least 1 are "
                    "accepted",
                    x.shape().to_string()));
  }
  if (height * width == 1) return mean(x, {2, 3}, true);
  if (fused_kernels()) {
    // Windows of one size where the axis divides, spans where it does not.
    const auto kernel = [&](int axis, int64_t n) {
      return x.size(axis) % n ? 0 : x.size(axis) / n;
    };
    const int64_t rows = kernel(2, height), columns = kernel(3, width);
    return window_means({{rows, columns}, {rows, columns}, {0, 0}}, x, {height, width}, false);
  }
  return adaptive_mean(adaptive_mean(x, 2, height), 3, width);
}

}  // namespace flowgrad
