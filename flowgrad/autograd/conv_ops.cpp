#include <fmt/format.h>

#include <array>
#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"
#include "flowgrad/autograd/windows.h"

namespace flowgrad {
namespace {

/// The convolution in operations, from {x, weight} or {x, weight, bias}.
std::vector<Tensor> composed(std::span<const Tensor> in, const ConvOptions& o) {
  const Tensor &x = in[0], &weight = in[1];
  const Shape& s = weight.shape();
  const int64_t images = x.shape()[0], outputs = s[0], depth = s[1] * s[2] * s[3];
  Window window{{s[2], s[3]}, o.stride, o.padding, o.dilation};
  const auto [height, width] = fit_window("conv2d", x, window);
  const Tensor view = windows(x, window, {height, width});
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
  Window window{
      {weight.shape()[2], weight.shape()[3]}, options.stride, options.padding, options.dilation};
  const Size2d at = fit_window("conv2d", x, window);
  const Shape places{images, outputs, at.rows, at.columns};
  const std::array<Tensor, 3> in = {x, weight, bias};
  const Epilogue epilogue = options.epilogue;
  if (!fused_kernels()) return with_epilogue(composed(in, options)[0], epilogue, false);
  const bool records = recording(std::span<const Tensor>(in)), fused = is_fused(epilogue, records);
  const auto dense = [](const Tensor& t) { return contiguous(t.detach()); };
  const kernels::Convolution c{window.stride, window.padding, window.dilation, groups};
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

}  // namespace flowgrad
