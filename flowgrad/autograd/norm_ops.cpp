#include <fmt/format.h>

#include <array>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/core/device_graph.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using kernels::backend;

namespace {

/// x without mean and scale over the trailing axes, and the scale that was applied.
struct Standardised {
  Tensor value, scale;
};
Standardised standardise(const Tensor& x, const Dims& axes, double epsilon) {
  const Tensor centred = x - mean(x, axes, true);
  const Tensor scale = rsqrt(mean(square(centred), axes, true) + epsilon);
  return {centred * scale, scale};
}

void check_affine(const char* argument, const Tensor& given, const Shape& normalized_shape) {
  if (!given.defined() || given.shape() == normalized_shape) return;
  throw ShapeError(
      fmt::format("layer_norm: {} is {} and normalized_shape is {}; they must be equal", argument,
                  given.shape().to_string(), normalized_shape.to_string()));
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight,
                  const Tensor& bias, double epsilon) {
  const int n = normalized_shape.rank();
  const int lead = x.rank() - n;
  bool fits = n > 0 && lead >= 0;
  Dims axes;
  for (int i = 0; fits && i < n; ++i) {
    fits = x.shape()[lead + i] == normalized_shape[i];
    axes.push_back(lead + i);
  }
  if (!fits) {
    throw ShapeError(
        fmt::format("layer_norm: x is {} and normalized_shape is {}; one axis or more that "
                    "x ends with is accepted",
                    x.shape().to_string(), normalized_shape.to_string()));
  }
  check_affine("weight", weight, normalized_shape);
  check_affine("bias", bias, normalized_shape);
  DType dtype = x.dtype();
  if (weight.defined()) dtype = promote(dtype, weight.dtype());
  if (bias.defined()) dtype = promote(dtype, bias.dtype());
  if (x.dtype() != dtype)
    return layer_norm(cast(x, dtype), normalized_shape, weight, bias, epsilon);
  check_floating("layer_norm", x);
  check_same_device("layer_norm", x, weight, "x", "weight");
  check_same_device("layer_norm", x, bias, "x", "bias");

  Standardised s;
  Tensor out;
  {
    NoGrad off;
    s = standardise(x, axes, epsilon);
    out = weight.defined() ? s.value * weight : s.value;
    if (bias.defined()) out = out + bias;
    if (!weight.defined() && !bias.defined()) out = s.value.detach();
  }
  if (!recording(x, weight, bias)) return out;
  // An absent weight or bias takes its place with an edge that nobody asks for.
  const std::array<Tensor, 3> inputs{x, weight, bias};
  const std::array<Saved, 4> saved{save(x), save(weight), save(s.value), save(s.scale)};
  record("layer_norm", std::span(&out, 1), std::span(inputs), std::span(saved),
         [axes, epsilon, has_weight = weight.defined()](Backward& r) {
           const Tensor& g = r.grad();
           // The kept values have no history: where the gradient is differentiated, they are made
           // again.
           const Standardised s = mode().recording ? standardise(r.saved(0), axes, epsilon)
                                                   : Standardised{r.saved(2), r.saved(3)};
           if (r.needs(1)) r.set(1, g * s.value);
           if (r.needs(2)) r.set(2, g);
           if (!r.needs(0)) return;
           const Tensor h = has_weight ? g * r.saved(1) : g;
           const Tensor along = mean(h * s.value, axes, true);
           r.set(0, (h - mean(h, axes, true) - s.value * along) * s.scale);
         });
  return out;
}

Tensor dropout(const Tensor& x, double p, Generator& generator, bool training) {
  if (!(p >= 0 && p <= 1)) {
    throw ValueError(fmt::format("dropout: p = {} given; 0 to 1 is accepted", p));
  }
  check_floating("dropout", x);
  if (!training || p == 0) return x;
  check_captured_draw("dropout", generator);
  const Tensor mask = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::Backend& device = backend(x.device());
  device.random(kernels::RandomKind::bernoulli, generator.seed(), generator.next_stream(),
                {1 - p, 0}, mask);
  if (p < 1) device.scale(mask, 1 / (1 - p));
  // A dropped element is 0 even where x is infinite.
  return mul_zero(mask, x);
}

}  // namespace flowgrad
