// Convolutions of the encoders' layers, linear layers, pooling and recurrent networks: values and
// gradients. Their measure is the peak of multiply-adds, and of pooling a plain copy.
#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

using kernels::Backend;
using kernels::UnaryOp;
using kernels::View;
using Tensors = std::vector<Tensor>;

constexpr double kTolerance = 5e-6;  // sums of products in float32

/// Images of height by height, a square kernel, half a kernel of padding.
struct Layer {
  int64_t images, height, channels, outputs, kernel, stride;
};
/// The image encoders of FlowVLA and of the policies, and one layer of stride 1.
constexpr Layer kLayers[] = {
    {8, 224, 3, 64, 7, 2},  {8, 112, 64, 128, 3, 2}, {8, 56, 128, 256, 3, 2},
    {128, 48, 3, 16, 5, 2}, {128, 24, 16, 32, 3, 2}, {128, 12, 32, 64, 3, 2},
    {8, 32, 64, 64, 3, 1},
};

class Cases {
 public:
  explicit Cases(Device device) : device_(device) {}
  Tensor normal(const Shape& s) { return randn(s, generator_, DType::float32, device_); }
  Tensor space(const Shape& s) { return zeros(s, DType::float32, device_); }

  void add(const char* kernel, const std::string& size, double products, Tensors tensors,
           std::vector<size_t> results, const Work& work, double tolerance = kTolerance) {
    Case c;
    c.kernel = kernel;
    c.size = size;
    c.impl = "flowgrad";
    c.flops = 2 * products;
    for (const Tensor& t : tensors)
      c.bytes += static_cast<double>(size_of(t.dtype())) * static_cast<double>(t.numel());
    c.tensors = std::move(tensors);
    c.results = c.poisoned = std::move(results);
    c.tolerance = tolerance;
    set_work(c, device_, work);
    all.push_back(std::move(c));
  }
  std::vector<Case> all;

 private:
  Device device_;
  Generator generator_{1};
};

void add_convolution(Cases& to, const Layer& l) {
  const kernels::Convolution c{l.stride, l.kernel / 2, 1, 1};
  const int64_t places = (l.height + 2 * (l.kernel / 2) - l.kernel) / l.stride + 1;
  const Shape images{l.images, l.channels, l.height, l.height};
  const Shape filters{l.outputs, l.channels, l.kernel, l.kernel};
  const Shape outputs{l.images, l.outputs, places, places};
  const double products =
      static_cast<double>(numel(outputs)) * static_cast<double>(l.channels * l.kernel * l.kernel);
  const std::string size = fmt::format("{}x{}x{}x{}x{}x{}", l.images, l.height, l.channels,
                                       l.outputs, l.kernel, l.stride);
  const Tensor x = to.normal(images), w = to.normal(filters), b = to.normal({l.outputs}),
               g = to.normal(outputs);
  to.add("conv2d", size, products, {to.space(outputs), x, w, b}, {0},
         [c](Backend& k, const Tensors& t) { k.conv2d(c, t[1], t[2], t[3], t[0]); });
  to.add("conv2d + relu", size, products, {to.space(outputs), x, w, b}, {0},
         [c](Backend& k, const Tensors& t) {
           k.conv2d_unary(UnaryOp::relu, c, t[1], t[2], t[3], t[0]);
         });
  to.add("conv2d grad of x", size, products, {to.space(images), x, w, g}, {0},
         [c](Backend& k, const Tensors& t) {
           k.conv2d_grad(c, t[1], t[2], t[3], t[0], View(), View());
         });
  to.add("conv2d grad of w", size, products, {to.space(filters), to.space({l.outputs}), x, w, g},
         {0, 1}, [c](Backend& k, const Tensors& t) {
           k.conv2d_grad(c, t[2], t[3], t[4], View(), t[0], t[1]);
         });
}

void multiply(Backend& k, const Tensors& t) { k.matmul(t[1], t[2], View(), false, t[0]); }

/// A linear layer and the products of its gradients: every transposition of the operands.
void add_linear(Cases& to, int64_t rows, int64_t inputs, int64_t outputs) {
  const double products = static_cast<double>(rows) * static_cast<double>(inputs * outputs);
  const std::string size = fmt::format("{}x{}x{}", rows, inputs, outputs);
  const Tensor x = to.normal({rows, inputs}), weight = to.normal({outputs, inputs}),
               w = transpose(weight), b = to.normal({outputs}), g = to.normal({rows, outputs});
  const auto product = [&](const char* name, const Shape& shape, const Tensor& left,
                           const Tensor& right, double tolerance = kTolerance) {
    const Tensor out = zeros(shape, left.dtype(), left.device());
    to.add(name, size, products, {out, left, right}, {0}, multiply, tolerance);
    to.all.back().reference = [](const Tensors& t) {
      copy_(t[0], cli::product_in_loops(t[1], t[2]));
    };
  };
  product("linear grad of x", {rows, inputs}, g, weight);
  product("linear grad of w", {outputs, inputs}, transpose(g), x);
  product("product of transposes", {inputs, rows}, w, transpose(g));
  product("product, float64", {rows, inputs}, cast(g, DType::float64), cast(weight, DType::float64),
          1e-14);
  to.add("linear", size, products, {to.space({rows, outputs}), x, w, b}, {0},
         [](Backend& k, const Tensors& t) { k.matmul(t[1], t[2], t[3], false, t[0]); });
  to.add(
      "linear + silu", size, products, {to.space({rows, outputs}), x, w, b}, {0},
      [](Backend& k, const Tensors& t) { k.matmul_unary(UnaryOp::silu, t[1], t[2], t[3], t[0]); });
}

/// Many small products.
void add_batch(Cases& to, int64_t items, int64_t side) {
  const double products = static_cast<double>(items) * static_cast<double>(side * side * side);
  const Shape shape{items, side, side};
  const Tensor a = to.normal(shape), b = to.normal(shape);
  to.add("batched product", fmt::format("{}x{}x{}x{}", items, side, side, side), products,
         {to.space(shape), a, b}, {0}, multiply);
}

/// Names of the values and of their gradient.
using Names = const char* [2];
constexpr Names kPool = {"avg_pool2d", "avg_pool2d grad"},
                kAdaptivePool = {"adaptive_avg_pool2d", "adaptive_avg_pool2d grad"};

/// Largest elements and their places; their cotangents at these.
void add_maxima(Cases& to, const std::string& size, const kernels::Pooling& p, const Shape& images,
                const Shape& pooled) {
  const Tensor x = to.normal(images), g = to.normal(pooled);
  const Tensor index = max_pool2d_with_index(x, p.kernel, p.stride, p.padding).second;
  to.add("max_pool2d", size, 0, {to.space(pooled), clone(index), x}, {0, 1},
         [p](Backend& k, const Tensors& t) { k.max_pool2d(p, t[2], t[0], t[1]); });
  to.add("max_pool2d grad", size, 0, {to.space(images), index, g}, {0},
         [p](Backend& k, const Tensors& t) { k.max_pool2d_grad(p, t[2], t[1], t[0]); });
}

void add_windows(Cases& to, const Names& names, const std::string& size, const kernels::Pooling& p,
                 const Shape& images, const Shape& pooled) {
  const Tensor x = to.normal(images), g = to.normal(pooled);
  to.add(names[0], size, 0, {to.space(pooled), x}, {0},
         [p](Backend& k, const Tensors& t) { k.avg_pool2d(p, t[1], t[0]); });
  to.add(names[1], size, 0, {to.space(images), g}, {0},
         [p](Backend& k, const Tensors& t) { k.avg_pool2d_grad(p, t[1], t[0]); });
}

/// Means and maxima over squares of `kernel` by `kernel`, half a kernel of padding, of (images,
/// channels, height, height).
void add_pooling(Cases& to, int64_t images, int64_t height, int64_t channels, int64_t kernel,
                 int64_t stride) {
  const int64_t padding = kernel / 2, places = (height + 2 * padding - kernel) / stride + 1;
  const std::string size = fmt::format("{}x{}x{}x{}x{}", images, height, channels, kernel, stride);
  const Shape whole{images, channels, height, height}, pooled{images, channels, places, places};
  add_windows(to, kPool, size, {kernel, stride, padding}, whole, pooled);
  add_maxima(to, size, {kernel, stride, padding}, whole, pooled);
}

/// Means over `places` by `places` windows that cover such images, of a size that they do not
/// divide.
void add_adaptive_pooling(Cases& to, int64_t images, int64_t height, int64_t channels,
                          int64_t places) {
  add_windows(to, kAdaptivePool, fmt::format("{}x{}x{}x{}", images, height, channels, places),
              {0, 0, 0}, {images, channels, height, height}, {images, channels, places, places});
}

/// Steps, rows and hidden units of a direction, with as many inputs for "lstm layer"; for the
/// others the product with x is an ordinary one.
void add_lstm(Cases& to, int64_t rows, int64_t steps, int64_t hidden) {
  const Shape gate{steps, rows, 4 * hidden}, state{steps, rows, hidden}, last{rows, hidden};
  const double products = static_cast<double>(numel(gate)) * static_cast<double>(hidden);
  const std::string size = fmt::format("{}x{}x{}", rows, steps, hidden);
  const Tensor weight = to.normal({4 * hidden, hidden}) * 0.05, from_x = to.normal(gate);
  const Tensor h0 = to.normal(last), c0 = to.normal(last);
  const auto forward = [](Backend& k, const Tensors& t) {
    k.lstm({t[6], {}, false}, t[7], t[8], t[9], t[0], t[1], t[2], t[3], t[4], t[5]);
  };
  Tensors tensors = {to.space(state),
                     to.space(last),
                     to.space(last),
                     to.space(gate),
                     to.space(state),
                     to.space(state),
                     weight,
                     from_x,
                     h0,
                     c0};
  forward(kernels::backend(weight.device()), tensors);
  const Tensor gates = clone(tensors[3]), c_before = clone(tensors[5]), c = clone(tensors[2]);
  Tensors layer = tensors;
  layer.insert(layer.end(), {to.normal(state), transpose(weight), to.normal({4 * hidden})});
  to.add("lstm layer", size, 2 * products, std::move(layer), {0, 1, 2, 3, 4, 5, 7},
         [forward](Backend& k, const Tensors& t) {
           const auto rows = [](const Tensor& x) { return reshape(x, {-1, x.shape().back()}); };
           k.matmul(rows(t[10]), t[11], t[12], false, rows(t[7]));
           forward(k, t);
         });
  to.add("lstm", size, products, std::move(tensors), {0, 1, 2, 3, 4, 5}, forward);
  to.add("lstm grad", size, products,
         {to.space(gate), to.space(last), to.space(last), weight, gates, c_before, c,
          to.normal(state), h0, c0},
         {0, 1, 2}, [](Backend& k, const Tensors& t) {
           k.lstm_grad({t[3], {}, false}, t[4], t[5], t[6], t[7], t[8], t[9], t[0], t[1], t[2]);
         });
}

std::vector<Case> cases(const Options& o) {
  Cases all(o.device);
  if (o.sizes.empty()) {
    for (const Layer& l : kLayers) add_convolution(all, l);
    add_linear(all, 256, 391, 512);
    add_linear(all, 4096, 512, 512);
    for (const int64_t side : {2, 3, 8, 16}) add_batch(all, 4096, side);
    add_pooling(all, 32, 56, 64, 2, 2);
    add_pooling(all, 32, 56, 64, 3, 2);
    add_adaptive_pooling(all, 32, 50, 64, 7);
    add_adaptive_pooling(all, 32, 28, 256, 1);
    add_lstm(all, 32, 20, 384);
    add_lstm(all, 64, 10, 256);
    add_lstm(all, 64, 12, 64);
    return std::move(all.all);
  }
  for (const auto& s : parse_sizes(o.sizes, 2, 6)) {
    const auto or_else = [&](size_t i, int64_t value) { return i < s.size() ? s[i] : value; };
    add_convolution(all, {s[0], s[1], or_else(2, 3), or_else(3, 16), or_else(4, 5), or_else(5, 2)});
    add_pooling(all, s[0], s[1], or_else(2, 3), 3, or_else(5, 2));
    add_adaptive_pooling(all, s[0], s[1], or_else(2, 3), 4);
    if (s.size() > 2) continue;
    add_linear(all, s[0], s[1], s[1]);
    add_lstm(all, s[0], 3, s[1]);
  }
  return std::move(all.all);
}

}  // namespace
}  // namespace flowgrad::bench

int main(int argc, char** argv) {
  return flowgrad::bench::run_cases(
      argc, argv,
      {"Convolutions, pooling and recurrent networks",
       "IMAGESxHEIGHT[xCHANNELSxOUTPUTSxKERNELxSTRIDE], a list; two numbers stand for ROWSxHIDDEN "
       "of a linear layer and an LSTM too",
       flowgrad::bench::cases});
}
