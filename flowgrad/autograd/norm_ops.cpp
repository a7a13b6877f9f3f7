#include <fmt/format.h>

#include <array>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"
#include "flowgrad/core/device_graph.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using kernels::backend;

namespace {

/// The same in operations, from {x, weight, bias}.
Tensor composed(std::span<const Tensor> in, const Dims& axes, double epsilon) {
  const Tensor centred = in[0] - mean(in[0], axes, true);
  Tensor out = centred * rsqrt(mean(square(centred), axes, true) + epsilon);
  if (in[1].defined()) out = out * in[1];
  return in[2].defined() ? out + in[2] : out;
}

/// What a kernel reads: x as rows, contiguous; undefined stays undefined.
Tensor rows_of(const Tensor& x, const Shape& rows) {
  return x.defined() ? reshape(contiguous(x.detach()), rows) : x;
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

  const std::array<Tensor, 3> in{x, weight, bias};
  if (!fused_kernels()) return composed(in, axes, epsilon);

  const Shape row{numel(normalized_shape)};
  const Shape rows{numel(Shape(std::span(x.shape().begin(), static_cast<size_t>(lead)))), row[0]};
  const Tensor out = Tensor::empty(x.shape(), dtype, x.device());
  const Tensor statistics = Tensor::empty({rows[0], 2}, DType::float64, x.device());
  {
    const Tensor from = rows_of(x, rows), w = rows_of(weight, row), b = rows_of(bias, row);
    backend(x.device()).layer_norm({w, b, epsilon}, from, rows_of(out, rows), statistics);
  }
  if (!recording(x, weight, bias)) return out;
  // An absent weight or bias takes its place with an edge that nobody asks for.
  const std::array<Saved, 4> saved{save(x), save(weight), save(bias), save(statistics)};
  record("layer_norm", std::span(&out, 1), std::span(in), std::span(saved),
         [axes, epsilon, rows, row, has_weight = weight.defined(),
          has_bias = bias.defined()](Backward& r) {
           const std::array<Tensor, 3> at{r.saved(0), has_weight ? r.saved(1) : Tensor(),
                                          has_bias ? r.saved(2) : Tensor()};
           if (mode().recording) {
             return set_by_twin(r, at, [&](std::span<const Tensor> given) {
               return std::vector<Tensor>{composed(given, axes, epsilon)};
             });
           }
           const Tensor from = rows_of(at[0], rows), w = rows_of(at[1], row);
           const Tensor g = rows_of(r.grad(), rows);
           std::array<Tensor, 3> to;
           for (int i = 0; i < 3; ++i) {
             if (!r.needs(i)) continue;
             to[static_cast<size_t>(i)] =
                 Tensor::empty(i == 0 ? rows : row, from.dtype(), from.device());
           }
           backend(from.device())
               .layer_norm_grad({w, {}, epsilon}, from, r.saved(3), g, to[0], to[1], to[2]);
           for (int i = 0; i < 3; ++i) {
             const auto k = static_cast<size_t>(i);
             if (r.needs(i)) r.set(i, reshape(to[k], at[k].shape()));
           }
         });
  return out;
}

Tensor dropout(const Tensor& x, double p, Generator& generator, bool training) {
  if (!(p >= 0 && p <= 1)) {
    throw ValueError(fmt::format("dropout: p = {} given; 0 to 1 is accepted", p));
  }
  check_floating("dropout", x);
  if (!training || p == 0) return x;
  const Generator draw = next_draw("dropout", generator);
  const Tensor mask = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::Backend& device = backend(x.device());
  device.random(kernels::RandomKind::bernoulli, draw.seed(), draw.stream(), {1 - p, 0}, mask);
  if (p < 1) device.scale(mask, 1 / (1 - p));
  // A dropped element is 0 even where x is infinite.
  return mul_zero(mask, x);
}

}  // namespace flowgrad
