// Kernels that memory bounds: every family beside the products. A case's bytes are each input read
// once and each output written once; its measure is a plain copy.
#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/ops.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

using kernels::Backend;
using Tensors = std::vector<Tensor>;

/// Cases over one size of array.
class Builder {
 public:
  Builder(Device device, int64_t rows, int64_t columns)
      : device_(device), shape_({rows, columns}) {}

  Tensor normal() { return randn(shape_, generator_, DType::float32, device_); }
  Tensor normal(const Shape& shape) { return randn(shape, generator_, DType::float32, device_); }
  Tensor space() { return space(shape_); }
  Tensor space(const Shape& shape) { return zeros(shape, DType::float32, device_); }
  Tensor indices(const Shape& shape, int64_t below) {
    return randint(0, below, shape, generator_, device_);
  }
  const Shape& shape() const { return shape_; }

  /// The last tensor is the output.
  void add(const char* kernel, Tensors tensors, const Work& work, double tolerance = 2e-6) {
    const size_t last = tensors.size() - 1;
    add(kernel, std::move(tensors), {last}, {last}, work, tolerance);
  }
  void add(const char* kernel, Tensors tensors, std::vector<size_t> results,
           std::vector<size_t> poisoned, const Work& work, double tolerance = 2e-6) {
    Case c;
    c.kernel = kernel;
    c.size = fmt::format("{}x{}", shape_[0], shape_[1]);
    c.impl = "flowgrad";
    for (const Tensor& t : tensors)
      c.bytes += static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype()));
    c.tensors = std::move(tensors);
    c.results = std::move(results);
    c.poisoned = std::move(poisoned);
    c.tolerance = tolerance;
    set_work(c, device_, work);
    cases.push_back(std::move(c));
  }
  /// Bytes of the case added last, where its tensors do not tell them.
  void bytes(double bytes) { cases.back().bytes = bytes; }

  std::vector<Case> cases;

 private:
  Device device_;
  Shape shape_;
  Generator generator_{1};
};

void add_elementwise(Builder& b) {
  const Tensor x = b.normal(), y = b.normal(), out = b.space();
  b.add("copy", {x, out}, [](Backend& k, const Tensors& t) { k.copy(t[0], t[1]); });
  b.add("copy transposed", {b.normal({b.shape()[1], b.shape()[0]}), out},
        [](Backend& k, const Tensors& t) { k.copy(transpose(t[0]), t[1]); });
  const auto unary = [&](const char* name, kernels::UnaryOp op) {
    b.add(name, {x, out}, [op](Backend& k, const Tensors& t) { k.unary(op, {}, t[0], t[1]); });
  };
  unary("exp", kernels::UnaryOp::exp);
  unary("tanh", kernels::UnaryOp::tanh);
  unary("silu", kernels::UnaryOp::silu);
  unary("gelu", kernels::UnaryOp::gelu);
  b.add("silu gradient", {y, x, out}, [](Backend& k, const Tensors& t) {
    k.unary_grad(kernels::UnaryOp::silu, {}, t[0], t[1], {}, t[2]);
  });
  b.add("add", {x, y, out},
        [](Backend& k, const Tensors& t) { k.binary(kernels::BinaryOp::add, t[0], t[1], t[2]); });
  b.add("add a row", {x, b.normal({1, b.shape()[1]}), out}, [](Backend& k, const Tensors& t) {
    k.binary(kernels::BinaryOp::add, t[0], expand(t[1], t[0].shape()), t[2]);
  });
}

void add_reductions(Builder& b) {
  using kernels::ReduceOp;
  const int64_t rows = b.shape()[0], columns = b.shape()[1];
  const Tensor x = b.normal(), out = b.space();
  const auto reduce = [&](const char* name, const Shape& to) {
    // A sum of numbers of both signs: its error is measured against the size of the terms.
    b.add(
        name, {x, b.space(to)},
        [](Backend& k, const Tensors& t) { k.reduce(ReduceOp::sum, t[0], t[1]); }, 1e-4);
  };
  reduce("sum of rows", {rows, 1});
  reduce("sum of columns", {1, columns});
  reduce("sum of all", {1, 1});
  b.add("argmax of rows", {x, zeros({rows, 1}, DType::int64, x.device())},
        [](Backend& k, const Tensors& t) { k.arg_reduce(true, t[0], 1, t[1]); });
  b.add("argmax of columns", {x, zeros({1, columns}, DType::int64, x.device())},
        [](Backend& k, const Tensors& t) { k.arg_reduce(true, t[0], 0, t[1]); });
  b.add("softmax", {x, out}, [](Backend& k, const Tensors& t) { k.softmax(false, t[0], 1, t[1]); });
  b.add("softmax of columns", {x, out},
        [](Backend& k, const Tensors& t) { k.softmax(false, t[0], 0, t[1]); });
  b.add(
      "softmax gradient", {b.normal(), softmax(x, 1), out},
      [](Backend& k, const Tensors& t) { k.softmax_grad(false, t[0], t[1], 1, t[2]); }, 1e-5);
  const Tensor weight = b.normal({columns}),
               statistics = zeros({rows, 2}, DType::float64, x.device());
  b.add("layer norm", {x, weight, b.normal({columns}), statistics, out},
        [](Backend& k, const Tensors& t) {
          k.layer_norm({t[1], t[2], 1e-5}, t[0], t[4], t[3]);
        });
  kernels::backend(x.device()).layer_norm({weight, weight, 1e-5}, x, out, statistics);
  b.add(
      "layer norm gradient",
      {x, weight, statistics, b.normal(), b.space({columns}), b.space({columns}), out}, {4, 5, 6},
      {4, 5, 6},
      [](Backend& k, const Tensors& t) {
        k.layer_norm_grad({t[1], {}, 1e-5}, t[0], t[2], t[3], t[6], t[4], t[5]);
      },
      1e-4);
}

void add_scans(Builder& b) {
  const Tensor x = b.normal(), out = b.space();
  const Tensor places = zeros(b.shape(), DType::int64, x.device());
  const auto scan = [&](const char* name, kernels::ScanOp op, int axis, const Tensor& from) {
    b.add(
        name, {from, out},
        [op, axis](Backend& k, const Tensors& t) { k.scan(op, t[0], axis, false, t[1]); }, 1e-5);
  };
  scan("cumsum of rows", kernels::ScanOp::sum, 1, x);
  scan("cumsum of columns", kernels::ScanOp::sum, 0, x);
  scan("cumprod of rows", kernels::ScanOp::prod, 1, 1.0 + 0.01 * x);
  const auto two = [&](const char* name, const Work& work) {
    b.add(name, {x, out, places}, {1, 2}, {1}, work);
  };
  two("cummax of rows",
      [](Backend& k, const Tensors& t) { k.scan_extreme(true, t[0], 1, t[1], t[2]); });
  two("cummax of columns",
      [](Backend& k, const Tensors& t) { k.scan_extreme(true, t[0], 0, t[1], t[2]); });
  two("sort of rows", [](Backend& k, const Tensors& t) { k.sort(t[0], 1, false, t[1], t[2]); });
}

void add_indexing(Builder& b) {
  const int64_t rows = b.shape()[0], columns = b.shape()[1];
  const Tensor x = b.normal(), out = b.space(), choice = b.indices({rows}, rows);
  b.add("index_select", {x, choice, out},
        [](Backend& k, const Tensors& t) { k.index_select(t[0], 0, t[1], t[2]); });
  b.add(
      "index_add", {choice, x, zeros({rows, columns}, DType::float32, x.device())}, {2}, {},
      [](Backend& k, const Tensors& t) { k.index_add(t[0], 0, t[1], t[2]); }, 1e-5);
  b.add("gather", {x, b.indices(b.shape(), columns), out},
        [](Backend& k, const Tensors& t) { k.gather(t[0], 1, t[1], t[2]); });
  b.add(
      "scatter_add",
      {b.indices(b.shape(), columns), x, zeros(b.shape(), DType::float32, x.device())}, {2}, {},
      [](Backend& k, const Tensors& t) { k.scatter_add(t[0], 1, t[1], t[2]); }, 1e-5);
}

void add_random(Builder& b) {
  for (const auto& [name, kind] : {std::pair{"uniform", kernels::RandomKind::uniform},
                                   std::pair{"normal", kernels::RandomKind::normal}}) {
    const auto draw = [kind = kind](Backend& k, const Tensor& out) {
      k.random(kind, 1, 2, {0, 1}, out);
    };
    b.add(
        name, {b.space()}, [draw](Backend& k, const Tensors& t) { draw(k, t[0]); }, 0);
    // The draws of float64 are others: what is demanded are the CPU's bits in float32.
    b.cases.back().reference = [draw](const Tensors& t) {
      const Tensor same = zeros(t[0].shape());
      draw(kernels::backend(Device::cpu()), same);
      kernels::backend(Device::cpu()).copy(same, t[0]);
    };
  }
}

/// Adam over parameters in so many arrays, and one of what is left; as it is, or after the norm of
/// all gradients, which they are scaled by.
void add_optimizer(Builder& b, const char* name, int64_t arrays, bool clips) {
  const int64_t n = b.shape()[0] * b.shape()[1];
  Tensors tensors;
  std::vector<size_t> results;
  const int64_t size = std::max<int64_t>(1, n / arrays);
  for (int64_t left = n; left > 0; left -= size) {
    const Shape shape{std::min(size, left)};
    results.push_back(tensors.size());
    for (int i = 0; i < 3; ++i) tensors.push_back(b.normal(shape));
    tensors.push_back(abs(b.normal(shape)));
  }
  b.add(name, tensors, results, {}, [clips](Backend& k, const Tensors& t) {
    std::vector<kernels::OptimizerSlot> slots;
    std::vector<kernels::View> gradients;
    for (size_t i = 0; i + 3 < t.size(); i += 4) {
      slots.push_back({t[i], t[i + 1], t[i + 2], t[i + 3]});
      gradients.emplace_back(t[i + 1]);
    }
    kernels::AdamParams p{1e-3, 0.9, 0.999, 1e-8, clips ? 0.01 : 0, 0.1, 1e-3, clips};
    if (clips) p.gradient_factor = 1 / (std::sqrt(k.sum_of_squares(gradients)) + 1e-6);
    k.adam_step(slots, p);
  });
  // Four arrays read and three written, and the gradients once more for their norm.
  b.bytes((clips ? 32.0 : 28.0) * static_cast<double>(n));
}

std::vector<Case> cases(const Options& o) {
  std::vector<Case> out;
  const std::string sizes =
      o.sizes.empty() ? (o.device.is_cpu() ? "4096x1024" : "32768x1024") : o.sizes;
  for (const auto& size : parse_sizes(sizes, 2, 2)) {
    Builder b(o.device, size[0], size[1]);
    add_elementwise(b);
    add_reductions(b);
    add_scans(b);
    add_indexing(b);
    add_random(b);
    add_optimizer(b, "Adam step", 4, false);
    add_optimizer(b, "clip + AdamW", 96, true);
    for (Case& c : b.cases) out.push_back(std::move(c));
  }
  return out;
}

}  // namespace
}  // namespace flowgrad::bench

int main(int argc, char** argv) {
  return flowgrad::bench::run_cases(
      argc, argv,
      {"Kernels bounded by memory", "Sizes ROWSxCOLUMNS, a list", flowgrad::bench::cases});
}
