#include "flowgrad/models/layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"

namespace flowgrad {

Tensor Layer::forward_with(const Tensor& x, Epilogue epilogue) {
  return with_epilogue(forward(x), epilogue, /*fused=*/false);
}

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

void Linear::set_zero() {
  NoGrad off;
  fill_(weight_, 0);
  if (bias_.defined()) fill_(bias_, 0);
}

Conv2d::Conv2d(int64_t in, int64_t out, Size2d kernel, Generator& generator, DType dtype,
               const Conv2dOptions& options)
    : options_{.stride = options.stride,
               .padding = options.padding.value_or(Size2d(kernel.rows / 2, kernel.columns / 2))} {
  const auto least = [](Size2d s) { return std::min(s.rows, s.columns); };
  if (in < 1 || out < 1 || least(kernel) < 1 || least(options.stride) < 1 ||
      least(options_.padding) < 0) {
    throw ValueError(fmt::format(
        "Conv2d: in = {}, out = {}, kernel = {}, stride = {}, padding = {} given; at "
        "least 1, and a padding of at least 0, are accepted",
        in, out, kernel.to_string(), options.stride.to_string(), options_.padding.to_string()));
  }
  if (kernel.rows * kernel.columns % 2 == 0 && !options.padding) {
    throw ValueError(
        fmt::format("Conv2d: kernel = {} given without a padding; an odd kernel is accepted so",
                    kernel.to_string()));
  }
  const double bound = 1 / std::sqrt(static_cast<double>(in * kernel.rows * kernel.columns));
  weight_ = add_parameter(
      "weight", rand({out, in, kernel.rows, kernel.columns}, generator, dtype, -bound, bound));
  bias_ = add_parameter("bias", rand({out}, generator, dtype, -bound, bound));
}

Tensor Conv2d::forward_with(const Tensor& x, Epilogue epilogue) {
  ConvOptions options = options_;
  options.epilogue = epilogue;
  return conv2d(x, weight_, bias_, options);
}

void Conv2d::set_zero() {
  NoGrad off;
  fill_(weight_, 0);
  fill_(bias_, 0);
}

SpatialSoftmax::SpatialSoftmax(int64_t height, int64_t width, DType dtype)
    : height_(height), width_(width) {
  if (height < 1 || width < 1) {
    throw ValueError(fmt::format(
        "SpatialSoftmax: height = {}, width = {} given; at least 1 is accepted", height, width));
  }
  const Tensor x = expand(unsqueeze(linspace(-1, 1, width, dtype), 0), {height, width});
  const Tensor y = expand(unsqueeze(linspace(-1, 1, height, dtype), 1), {height, width});
  positions_ = add_constant(reshape(stack({x, y}, 2), {height * width, 2}));
}

Tensor SpatialSoftmax::forward(const Tensor& x) {
  if (x.rank() != 4 || x.size(2) != height_ || x.size(3) != width_) {
    throw ShapeError(fmt::format("SpatialSoftmax: x is {}; (N, C, {}, {}) is accepted",
                                 x.shape().to_string(), height_, width_));
  }
  const Tensor weights = softmax(reshape(x, {x.size(0), x.size(1), height_ * width_}));
  return reshape(matmul(weights, positions_), {x.size(0), 2 * x.size(1)});
}

Embedding::Embedding(int64_t entries, int64_t width, Generator& generator, DType dtype,
                     std::optional<int64_t> padding_index)
    : padding_index_(padding_index) {
  if (entries < 1 || width < 1) {
    throw ValueError(fmt::format(
        "Embedding: entries = {}, width = {} given; at least 1 is accepted", entries, width));
  }
  if (padding_index && (*padding_index < 0 || *padding_index >= entries)) {
    throw ValueError(fmt::format("Embedding: padding_index = {} given; 0 to {} are accepted",
                                 *padding_index, entries - 1));
  }
  const Tensor table = randn({entries, width}, generator, dtype);
  if (padding_index) fill_(select(table, 0, *padding_index), 0);
  weight_ = add_parameter("weight", table);
}

Lstm::Lstm(int64_t in, int64_t hidden, Generator& generator, DType dtype, const LstmOptions& o)
    : bidirectional_(o.bidirectional) {
  if (in < 1 || hidden < 1 || o.layers < 1) {
    throw ValueError(
        fmt::format("Lstm: in = {}, hidden = {}, layers = {} given; at least 1 is accepted", in,
                    hidden, o.layers));
  }
  const double bound = 1 / std::sqrt(static_cast<double>(hidden));
  const int64_t directions = o.bidirectional ? 2 : 1;
  for (int64_t k = 0; k < o.layers; ++k) {
    for (int64_t d = 0; d < directions; ++d) {
      const auto add = [&](const char* name, const Shape& shape) {
        return add_parameter(fmt::format("{}_l{}{}", name, k, d == 1 ? "_reverse" : ""),
                             rand(shape, generator, dtype, -bound, bound));
      };
      LstmWeights w;
      w.weight_ih = add("weight_ih", {4 * hidden, k == 0 ? in : directions * hidden});
      w.weight_hh = add("weight_hh", {4 * hidden, hidden});
      w.bias_ih = add("bias_ih", {4 * hidden});
      w.bias_hh = add("bias_hh", {4 * hidden});
      weights_.push_back(w);
    }
  }
}

LstmResult Lstm::forward(const Tensor& x, const Tensor& lengths, const Tensor& h0,
                         const Tensor& c0) {
  return lstm(x, weights_, bidirectional_, lengths, h0, c0);
}

LayerNorm::LayerNorm(const Shape& normalized_shape, DType dtype, double epsilon)
    : shape_(normalized_shape), epsilon_(epsilon) {
  weight_ = add_parameter("weight", ones(shape_, dtype));
  bias_ = add_parameter("bias", zeros(shape_, dtype));
}

Tensor LayerNorm::forward(const Tensor& x) {
  return layer_norm(x, shape_, weight_, bias_, epsilon_);
}

Dropout::Dropout(double p, Generator& generator) : p_(p), generator_(&generator) {
  if (!(p >= 0 && p <= 1))
    throw ValueError(fmt::format("Dropout: p = {} given; 0 to 1 is accepted", p));
}

Activation::Activation(std::function<Tensor(const Tensor&)> f) : f_(std::move(f)) {
  using Function = Tensor (*)(const Tensor&);
  const Function* const function = f_.target<Function>();
  if (function == nullptr) return;
  const std::pair<Function, Epilogue> operations[] = {{relu, Epilogue::relu},
                                                      {tanh, Epilogue::tanh},
                                                      {sigmoid, Epilogue::sigmoid},
                                                      {silu, Epilogue::silu},
                                                      {gelu, Epilogue::gelu}};
  for (const auto& [operation, epilogue] : operations)
    if (*function == operation) epilogue_ = epilogue;
}

Tensor Sequential::forward_from(size_t first, const Tensor& x) {
  Tensor y = x;
  for (size_t i = first; i < layers_.size(); ++i) {
    const Epilogue next = i + 1 < layers_.size() ? layers_[i + 1]->epilogue() : Epilogue::none;
    y = layers_[i]->forward_with(y, next);
    if (next != Epilogue::none) ++i;
  }
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

}  // namespace flowgrad
