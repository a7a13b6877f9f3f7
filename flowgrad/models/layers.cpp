#include "flowgrad/models/layers.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

Linear::Linear(int64_t in, int64_t out, Generator& generator, DType dtype, bool bias)
    : in_(in), out_(out) {
  if (in < 1 || out < 1) {
    throw ValueError(
        fmt::format("Linear: in = {}, out = {} given; both must be at least 1", in, out));
  }
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  weight_ = add_parameter("weight", rand({out, in}, generator, dtype, -bound, bound));
  if (bias) bias_ = add_parameter("bias", rand({out}, generator, dtype, -bound, bound));
}

Tensor Linear::forward(const Tensor& x) { return linear(x, weight_, bias_); }

void Linear::set_zero() {
  NoGrad off;
  fill_(weight_, 0);
  if (bias_.defined()) fill_(bias_, 0);
}

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, Generator& generator, DType dtype)
    : padding_(kernel / 2) {
  if (in < 1 || out < 1 || kernel < 1 || kernel % 2 == 0) {
    throw ValueError(fmt::format(
        "Conv2d: in = {}, out = {}, kernel = {} given; at least 1, and an odd kernel, are accepted",
        in, out, kernel));
  }
  const double bound = 1 / std::sqrt(static_cast<double>(in * kernel * kernel));
  weight_ =
      add_parameter("weight", rand({out, in, kernel, kernel}, generator, dtype, -bound, bound));
  bias_ = add_parameter("bias", rand({out}, generator, dtype, -bound, bound));
}

Tensor Conv2d::forward(const Tensor& x) { return conv2d(x, weight_, bias_, {.padding = padding_}); }

void Conv2d::set_zero() {
  NoGrad off;
  fill_(weight_, 0);
  fill_(bias_, 0);
}

Tensor Sequential::forward_from(size_t first, const Tensor& x) {
  Tensor y = x;
  for (size_t i = first; i < layers_.size(); ++i) y = layers_[i]->forward(y);
  return y;
}

MLP::MLP(const std::vector<int64_t>& widths, const std::function<Tensor(const Tensor&)>& activation,
         Generator& generator, DType dtype) {
  if (widths.size() < 2)
    throw ValueError(fmt::format("MLP: {} widths given; at least 2 are needed", widths.size()));
  for (size_t i = 0; i + 1 < widths.size(); ++i) {
    if (i > 0) add<Activation>(activation);
    linears_.push_back(&add<Linear>(widths[i], widths[i + 1], generator, dtype));
  }
}

ResidualBlock::ResidualBlock(int64_t width, Generator& generator, DType dtype)
    : block_(add_module("block", std::make_unique<Sequential>())) {
  first_ = &block_.add<Linear>(width, width, generator, dtype);
  block_.add<Activation>(silu);
  second_ = &block_.add<Linear>(width, width, generator, dtype);
}

Tensor ResidualBlock::forward(const Tensor& x) { return x + block_(x); }

void check_embedding_width(const char* op, int64_t width) {
  if (width >= 4 && width % 2 == 0) return;
  throw ValueError(fmt::format(
      "{}: width {} of the time embedding given; even numbers from 4 are accepted", op, width));
}

Tensor sinusoidal_embedding(const Tensor& t, int64_t width, double scale) {
  check_embedding_width("sinusoidal_embedding", width);
  if (t.rank() != 1) {
    throw ShapeError("sinusoidal_embedding: t has shape " + t.shape().to_string() +
                     "; (N) is accepted");
  }
  const int64_t half = width / 2;
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    frequencies[static_cast<size_t>(i)] =
        scale *
        std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half - 1));
  }
  const Tensor angle =
      unsqueeze(t, 1) * Tensor::from(frequencies, {1, half}, t.dtype(), t.device());
  return concat({sin(angle), cos(angle)}, 1);
}

}  // namespace flowgrad
