// Functions that linear and conv2d apply as they write: the bits and the derivatives of the
// operation of that name afterwards.
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "catch.hpp"
#include "device/device.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/core/allocator.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/models/layers.h"
#include "kernels/conv_support.h"
#include "models/close.h"

using namespace flowgrad;
using namespace flowgrad::testing;

namespace {

struct Named {
  Epilogue epilogue;
  Tensor (*operation)(const Tensor&);
  const char* name;
};
constexpr std::array<Named, 5> kAll = {{{Epilogue::relu, relu, "relu"},
                                        {Epilogue::tanh, flowgrad::tanh, "tanh"},
                                        {Epilogue::sigmoid, sigmoid, "sigmoid"},
                                        {Epilogue::silu, silu, "silu"},
                                        {Epilogue::gelu, gelu, "gelu"}}};

Tensor uniform(const Shape& shape, uint64_t seed, DType dtype) {
  return values(shape, dtype, seed, -1, 1, test_device());
}

void check_same_bits(const Tensor& got, const Tensor& want) {
  REQUIRE(got.shape() == want.shape());
  REQUIRE(got.dtype() == want.dtype());
  const std::vector<double> a = got.to_vector<double>(), b = want.to_vector<double>();
  bool same = true;
  for (size_t i = 0; i < a.size(); ++i)
    same &= std::isnan(a[i]) ? std::isnan(b[i]) : std::memcmp(&a[i], &b[i], sizeof(double)) == 0;
  CHECK(same);
}

/// Tensors that f makes.
int64_t tensors_made(const std::function<Tensor()>& f) {
  const int64_t before = memory_stats().allocations;
  const Tensor result = f();
  return memory_stats().allocations - before;
}

/// Values without a tape, then values, gradients and gradients of these with one.
void check_same(const MultiFunction& got, const MultiFunction& want, std::vector<Tensor> in) {
  check_same_bits(got(in)[0], want(in)[0]);
  for (Tensor& t : in) t = t.detach().requires_grad_();
  const auto derivatives = [&](const MultiFunction& f) {
    const Tensor y = f(in)[0];
    const Tensor loss = sum(y * uniform(y.shape(), 90, y.dtype()));
    std::vector<Tensor> all = {y};
    const std::vector<Tensor> g = grad(std::span(&loss, 1), in, {}, {.create_graph = true});
    all.insert(all.end(), g.begin(), g.end());
    Tensor second = zeros({}, y.dtype(), y.device());
    for (size_t i = 0; i < g.size(); ++i)
      second = second + sum(g[i] * uniform(g[i].shape(), 91 + i, y.dtype()));
    const std::vector<Tensor> h = grad(std::span(&second, 1), in, {}, {.allow_unused = true});
    for (const Tensor& t : h) all.push_back(t.defined() ? t : zeros({}, y.dtype(), y.device()));
    return all;
  };
  const std::vector<Tensor> a = derivatives(got), b = derivatives(want);
  for (size_t i = 0; i < a.size(); ++i) {
    INFO("tensor " << i);
    check_same_bits(a[i], b[i]);
  }
}

struct Product {
  Shape x;
  int64_t outputs;
  bool transposed_x = false;
};

}  // namespace

TEST_CASE("linear with an epilogue has the bits of the operation after it",
          "[epilogue_test][device]") {
  const std::vector<Product> products = {
      {{5, 7}, 9},     {{64, 33}, 70},      {{1, 40}, 50},    {{3, 600}, 33},
      {{40, 300}, 3},  {{700, 20}, 65},     {{350, 600}, 40}, {{9000, 3}, 17},
      {{2, 3, 11}, 6}, {{13}, 4},           {{0, 5}, 3},      {{4, 0}, 3},
      {{4, 5}, 0},     {{7, 31}, 20, true}, {{24, 700}, 800}, {{130, 9}, 2, true},
  };
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const Product& p : products) {
      for (const Named& f : kAll) {
        INFO(name_of(dtype) << " x " << p.x.to_string() << ", outputs " << p.outputs << ", "
                            << f.name);
        Tensor x = uniform(p.x, 1, dtype);
        if (p.transposed_x) x = transpose(contiguous(transpose(x)));
        const std::vector<Tensor> in = {x, uniform({p.outputs, p.x.back()}, 2, dtype),
                                        uniform({p.outputs}, 3, dtype)};
        check_same(
            [&](std::span<const Tensor> t) {
              return std::vector<Tensor>{linear(t[0], t[1], t[2], f.epilogue)};
            },
            [&](std::span<const Tensor> t) {
              return std::vector<Tensor>{f.operation(linear(t[0], t[1], t[2]))};
            },
            in);
        check_same_bits(linear(in[0], in[1], {}, f.epilogue), f.operation(linear(in[0], in[1])));
        // A thread alone takes other paths.
        const int threads = kernels::num_threads();
        kernels::set_num_threads(1);
        check_same_bits(linear(in[0], in[1], in[2], f.epilogue),
                        f.operation(linear(in[0], in[1], in[2])));
        kernels::set_num_threads(threads);
      }
    }
  }
}

TEST_CASE("items of a batch that lie apart get their epilogues", "[epilogue_test][device]") {
  for (const int64_t width : {3, 40}) {
    const Tensor x = permute(uniform({6, 5, width}, 1, DType::float32), {1, 0, 2});
    const Tensor w = uniform({7, width}, 2, DType::float32);
    for (const Named& f : kAll)
      check_same_bits(linear(x, w, {}, f.epilogue), f.operation(linear(x, w)));
  }
}

TEST_CASE("an epilogue makes no tensor of its own, unless a gradient asks for one",
          "[epilogue_test]") {
  const Tensor x = values({20, 30}, DType::float32, 1), w = values({40, 30}, DType::float32, 2);
  const Tensor image = values({2, 3, 8, 8}, DType::float32, 3),
               filters = values({4, 3, 3, 3}, DType::float32, 4);
  Tensor leaf = w.detach();
  leaf.requires_grad_();
  for (const Named& f : kAll) {
    INFO(f.name);
    CHECK(tensors_made([&] { return linear(x, w, {}, f.epilogue); }) == 1);
    CHECK(tensors_made([&] { return conv2d(image, filters, {}, {1, 1, 1, 1, f.epilogue}); }) == 1);
    const bool needs_argument = f.epilogue == Epilogue::silu || f.epilogue == Epilogue::gelu;
    CHECK(tensors_made([&] { return linear(x, leaf, {}, f.epilogue); }) == 1 + needs_argument);
    Generator g(3);
    Sequential net;
    net.add<Linear>(30, 40, g);
    net.add<Activation>(f.operation);
    const NoGrad off;
    CHECK(tensors_made([&] { return net(x); }) == 1);
  }
}

TEST_CASE("an anomaly in front of an epilogue is found", "[epilogue_test]") {
  const Tensor x = Tensor::from(std::vector<double>{3e38}, {1, 1}, DType::float32);
  Tensor w = Tensor::from(std::vector<double>{-3e38}, {1, 1}, DType::float32);
  w.requires_grad_();
  const Anomaly on(AnomalyCheck::non_finite);
  for (const Named& f : kAll) CHECK_THROWS(linear(x, w, {}, f.epilogue));
  Tensor filter = reshape(w.detach(), {1, 1, 1, 1});
  filter.requires_grad_();
  CHECK_THROWS(conv2d(reshape(x, {1, 1, 1, 1}), filter, {}, {1, 0, 1, 1, Epilogue::relu}));
}

TEST_CASE("conv2d with an epilogue has the bits of the operation after it",
          "[epilogue_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const ConvCase& c : conv_cases()) {
      if (c.images * c.height * c.width > 10000) continue;
      for (const Named& f : kAll) {
        INFO(name_of(dtype) << " " << c.text() << ", " << f.name);
        const std::vector<Tensor> in = {uniform(c.x(), 1, dtype), uniform(c.weight(), 2, dtype),
                                        uniform({c.outputs}, 3, dtype)};
        ConvOptions o{c.options.stride, c.options.padding, c.options.dilation, c.options.groups};
        const Tensor want = f.operation(conv2d(in[0], in[1], in[2], o));
        const Tensor bare = f.operation(conv2d(in[0], in[1], {}, o));
        o.epilogue = f.epilogue;
        check_same_bits(conv2d(in[0], in[1], in[2], o), want);
        check_same_bits(conv2d(in[0], in[1], {}, o), bare);
      }
    }
  }
}

TEST_CASE("epilogues of conv2d have all derivatives", "[epilogue_test]") {
  const ConvCase c{2, 2, 4, 5, 2, 3, 2, {2, 1, 1, 1}};
  for (const Named& f : kAll) {
    INFO(f.name);
    const ConvOptions plain{2, 1, 1, 1}, with{2, 1, 1, 1, f.epilogue};
    check_same(
        [&](std::span<const Tensor> t) {
          return std::vector<Tensor>{conv2d(t[0], t[1], t[2], with)};
        },
        [&](std::span<const Tensor> t) {
          return std::vector<Tensor>{f.operation(conv2d(t[0], t[1], t[2], plain))};
        },
        {uniform(c.x(), 1, DType::float64), uniform(c.weight(), 2, DType::float64),
         uniform({c.outputs}, 3, DType::float64)});
  }
}

TEST_CASE("what an epilogue hides: infinities, NaN and signs of zero", "[epilogue_test]") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const Tensor x = Tensor::from(std::vector<double>{inf, -inf, nan, -0.0, 0.0, 1e300, -1e300},
                                {7, 1}, DType::float64);
  const Tensor one = ones({1, 1}, DType::float64);
  for (const Named& f : kAll) {
    INFO(f.name);
    check_same(
        [&](std::span<const Tensor> t) {
          return std::vector<Tensor>{linear(t[0], t[1], {}, f.epilogue)};
        },
        [&](std::span<const Tensor> t) {
          return std::vector<Tensor>{f.operation(linear(t[0], t[1]))};
        },
        {x, one});
  }
}

TEST_CASE("an epilogue is a node of its own, and keeps no second result", "[epilogue_test]") {
  const Tensor x = values({8, 16}, DType::float32, 1), w = values({32, 16}, DType::float32, 2);
  Tensor leaf = w.detach();
  leaf.requires_grad_();
  Tensor y = linear(x, leaf, {}, Epilogue::relu);
  const Node& node = static_cast<const Node&>(*y.node());
  CHECK(std::strcmp(node.name(), "relu") == 0);
  const FusedKernels off(false);
  check_same_bits(y, linear(x, leaf, {}, Epilogue::relu));
  // Its memory is what the rule of relu reads.
  fill_(y.detach(), 1);
  CHECK_THROWS_AS(grad(sum(y), leaf), GradError);
}

TEST_CASE("Sequential gives activations to the layer before them", "[epilogue_test]") {
  Generator g(3);
  Sequential net;
  net.add<Linear>(6, 12, g);
  net.add<Activation>(relu);
  net.add<Linear>(12, 12, g);
  net.add<Activation>(silu);
  net.add<Activation>(flowgrad::tanh);
  net.add<Linear>(12, 5, g);
  net.add<Activation>([](const Tensor& x) { return tanh(x); });
  CHECK(Activation(relu).epilogue() == Epilogue::relu);
  CHECK(Activation(gelu).epilogue() == Epilogue::gelu);
  CHECK(Activation(flowgrad::exp).epilogue() == Epilogue::none);
  CHECK(Activation([](const Tensor& x) { return relu(x); }).epilogue() == Epilogue::none);
  const Tensor x = values({9, 6}, DType::float32, 4);
  const NamedTensors p = net.parameters();
  Tensor want = relu(linear(x, p[0].second, p[1].second));
  want = tanh(silu(linear(want, p[2].second, p[3].second)));
  want = tanh(linear(want, p[4].second, p[5].second));
  check_same_bits(net(x), want);
  {
    const NoGrad off;
    check_same_bits(net(x), want);
  }
  // A layer without a kernel for it, and one that nothing follows.
  Sequential others;
  others.add<LayerNorm>(Shape{6});
  others.add<Activation>(sigmoid);
  others.add<Activation>(relu);
  check_same_bits(others(x), relu(sigmoid(layer_norm(x, {6}, ones({6}), zeros({6})))));
  Sequential nothing;
  check_same_bits(nothing(x), x);
}
