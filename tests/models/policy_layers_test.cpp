// Layers that see and read, against PyTorch's values; and what they refuse.
#include <array>

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/layers.h"
#include "golden.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::both;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::Golden;
using flowgrad::testing::raised;

namespace {

std::unique_ptr<Layer> make_policy_layer(const Golden& g) {
  Generator generator(0);
  const Json& c = g.config;
  if (g.model() == "conv2d") {
    return std::make_unique<Conv2d>(
        c["channels"], c["out"], c["kernel"], generator, g.dtype,
        Conv2dOptions{.stride = c["stride"], .padding = c["padding"].get<int64_t>()});
  }
  if (g.model() == "avg_pool")
    return std::make_unique<AvgPool2d>(c["kernel"], c["stride"], c["padding"]);
  if (g.model() == "adaptive_avg_pool")
    return std::make_unique<AdaptiveAvgPool2d>(c["height"], c["width"]);
  if (g.model() == "spatial_softmax")
    return std::make_unique<SpatialSoftmax>(c["height"], c["width"], g.dtype);
  return std::make_unique<LayerNorm>(Shape{c["sizes"][0], c["sizes"][1]}, g.dtype);
}

std::vector<std::string> names_of(const Module& m) {
  std::vector<std::string> out;
  for (const auto& [name, t] : m.state_dict()) out.push_back(name);
  return out;
}

}  // namespace

TEST_CASE("layers of images agree with PyTorch", "[policy_layers_test][device]") {
  for (const auto& name : both({"conv2d_stride", "conv2d_even", "avg_pool", "adaptive_avg_pool",
                                "spatial_softmax", "layer_norm"})) {
    INFO(name);
    const Golden g(name);
    check_layer(g, *make_policy_layer(g));
  }
}

TEST_CASE("an embedding agrees with PyTorch", "[policy_layers_test][device]") {
  for (const auto& name : both({"embedding_padded"})) {
    INFO(name);
    const Golden g(name);
    Generator generator(0);
    Embedding layer(g.config["entries"], g.config["width"], generator, g.dtype,
                    g.config["padding_index"].get<int64_t>());
    layer.load_state_dict(g.weights());
    layer.to(testing::test_device());
    const Tensor y = layer(g["input"]);
    g.check("forward", y);
    g.check_gradients("grad.", sum(y * g["cotangent"]), layer.parameters());
  }
}

TEST_CASE("an LSTM agrees with PyTorch", "[policy_layers_test][device]") {
  for (const auto& name : both({"lstm_one", "lstm_two_padded"})) {
    INFO(name);
    const Golden g(name);
    Generator generator(0);
    Lstm layer(g.config["width"], g.config["hidden"], generator, g.dtype,
               {.layers = g.config["layers"], .bidirectional = g.config["bidirectional"]});
    layer.load_state_dict(g.weights());
    layer.to(testing::test_device());
    const Tensor x = g["input"].requires_grad_();
    const Tensor h0 = g["h0"].requires_grad_();
    const Tensor c0 = g["c0"].requires_grad_();
    const LstmResult r = layer.forward(x, g["lengths"], h0, c0);
    g.check("forward", r.output);
    g.check("h", r.h);
    g.check("c", r.c);
    const Tensor objective = sum(r.output * g["cotangent.forward"]) + sum(r.h * g["cotangent.h"]) +
                             sum(r.c * g["cotangent.c"]);
    g.check_gradients("grad.", objective, layer.parameters());
    const std::vector<Tensor> inputs{x, h0, c0};
    const auto gradients = grad(std::span(&objective, 1), inputs);
    for (size_t i = 0; i < 3; ++i)
      g.check_gradient(std::array{"grad_input", "grad_h0", "grad_c0"}[i], gradients[i]);
  }
}

TEST_CASE("names and starts of layers are PyTorch's", "[policy_layers_test]") {
  using N = std::vector<std::string>;
  Generator generator(3);
  const Lstm lstm(3, 16, generator, DType::float64, {.layers = 2, .bidirectional = true});
  CHECK(names_of(lstm) == N{"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0",
                            "weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse",
                            "bias_hh_l0_reverse", "weight_ih_l1", "weight_hh_l1", "bias_ih_l1",
                            "bias_hh_l1", "weight_ih_l1_reverse", "weight_hh_l1_reverse",
                            "bias_ih_l1_reverse", "bias_hh_l1_reverse"});
  CHECK(lstm.parameters()[8].second.shape() == Shape{64, 32});
  for (const auto& [name, p] : lstm.parameters()) {
    CHECK(max(abs(p)).item() <= 0.25);
    CHECK(max(abs(p)).item() > 0.22);
  }
  const Embedding table(500, 8, generator, DType::float64, 3);
  const Tensor w = table.parameters()[0].second.detach();
  CHECK(max(abs(select(w, 0, 3))).item() == 0);
  CHECK(std::abs(mean(square(w)).item() - 1) < 4 * std::sqrt(2.0 / 4000));
  const Conv2d conv(3, 8, 5, generator, DType::float64, {.stride = 2});
  CHECK(names_of(conv) == N{"weight", "bias"});
  CHECK(max(abs(conv.parameters()[0].second)).item() <= 1 / std::sqrt(75.0));
}

TEST_CASE("a layer convolves a sequence as one row of an image", "[policy_layers_test]") {
  Generator generator(9);
  Conv2d conv(2, 4, {1, 3}, generator, DType::float64, {.stride = {1, 2}});
  MaxPool2d pool({1, 2}, {1, 1});
  const Tensor x = randn({3, 2, 1, 9}, generator, DType::float64);
  CHECK(conv.parameters()[0].second.shape() == Shape{4, 2, 1, 3});
  CHECK(max(abs(conv.parameters()[0].second)).item() <= 1 / std::sqrt(6.0));
  const Tensor y = conv(x), row = pad(x, {{0, 0}, {0, 0}, {0, 0}, {1, 1}});
  const Tensor w = conv.parameters()[0].second, b = conv.parameters()[1].second;
  REQUIRE(y.shape() == Shape{3, 4, 1, 5});
  for (int64_t i = 0; i < 5; ++i) {
    const Tensor seen = reshape(slice(row, 3, 2 * i, 2 * i + 3), {3, 6});
    const Tensor want = matmul(seen, transpose(reshape(w, {4, 6}))) + b;
    CHECK(max(abs(select(select(y, 3, i), 2, 0) - want)).item() < 1e-14);
  }
  const Tensor most = pool(y);
  REQUIRE(most.shape() == Shape{3, 4, 1, 4});
  const Tensor pairs = stack({slice(y, 3, 0, 4), slice(y, 3, 1, 5)}, 4);
  CHECK(max(abs(most - max(pairs, {4}))).item() == 0);
}

TEST_CASE("gradients of the layers agree with differences", "[policy_layers_test]") {
  Generator generator(5);
  SpatialSoftmax where_to(3, 4, DType::float64);
  CHECK(gradcheck([&](const Tensor& x) { return where_to(x); },
                  randn({2, 2, 3, 4}, generator, DType::float64), {.order = 2})
            .passed);
  Conv2d conv(2, 3, 3, generator, DType::float64, {.stride = 2});
  CHECK(gradcheck([&](const Tensor& x) { return conv(x); },
                  randn({2, 2, 5, 4}, generator, DType::float64), {.order = 2})
            .passed);
  Lstm lstm(2, 3, generator, DType::float64, {.bidirectional = true});
  const Tensor lengths = Tensor::from(std::vector<int64_t>{2, 4}, {2});
  CHECK(gradcheck([&](const Tensor& x) { return lstm.forward(x, lengths).h; },
                  randn({2, 4, 2}, generator, DType::float64), {.order = 2})
            .passed);
}

TEST_CASE("a spatial softmax finds the peak of a map", "[policy_layers_test]") {
  SpatialSoftmax layer(5, 3);
  std::vector<double> values(30, 0.0);
  values[4 * 3 + 0] = 100;       // channel 0: last row, first column
  values[15 + 2 * 3 + 1] = 100;  // channel 1: the middle
  const Tensor y = layer(Tensor::from(values, {1, 2, 5, 3}, DType::float32));
  CHECK(distance(y, reshape(tensor({-1, 1, 0, 0}), {1, 4})) < 1e-6);
  CHECK(layer(zeros({0, 2, 5, 3})).shape() == Shape{0, 4});
  CHECK(contains(raised<ShapeError>([&] {
                   layer(zeros({1, 2, 3, 5}));
                 }),
                 {"SpatialSoftmax", "(1, 2, 3, 5)", "(N, C, 5, 3)"}));
}

TEST_CASE("what is dropped stays dropped under a checkpoint", "[policy_layers_test][device]") {
  Generator draws(7), other(7);
  Dropout layer(0.4, draws), plain(0.4, other);
  const Tensor x = testing::on_device(tensor({1, 2, 3, 4, 5, 6, 7, 8})).requires_grad_();
  const Function f = [&](const Tensor& t) { return layer(t * t); };
  const Tensor y = checkpoint(f, x);
  const Tensor want = plain(x * x);
  CHECK(distance(y, want) == 0);
  CHECK(distance(grad(sum(y), x), grad(sum(want), x)) == 0);
  CHECK(min(y).item() == 0);
  CHECK(draws.stream() == other.stream());
  layer.train(false);
  CHECK(distance(layer(x), x) == 0);
  CHECK(contains(raised<ValueError>([&] { Dropout(1.5, draws); }), {"Dropout", "1.5", "0 to 1"}));
}

TEST_CASE("layers refuse sizes that make no sense", "[policy_layers_test]") {
  Generator g(0);
  const auto refused = [](const std::function<void()>& f) { return raised<ValueError>(f); };
  CHECK(contains(refused([&] { Conv2d(3, 4, 2, g); }), {"kernel = 2", "odd"}));
  CHECK(contains(refused([&] { Conv2d(3, 4, 3, g, DType::float32, {.stride = 0}); }),
                 {"stride = 0", "at least 1"}));
  CHECK(contains(refused([&] { Conv2d(3, 4, 3, g, DType::float32, {.padding = -1}); }),
                 {"padding = -1"}));
  CHECK(contains(refused([&] { Conv2d(3, 4, {3, 2}, g); }), {"kernel = (3, 2)", "odd"}));
  CHECK(contains(refused([&] { Conv2d(3, 4, 3, g, DType::float32, {.padding = Size2d(1, -1)}); }),
                 {"padding = (1, -1)"}));
  CHECK(contains(refused([&] { SpatialSoftmax(0, 3); }), {"height = 0", "at least 1"}));
  CHECK(contains(refused([&] { Embedding(0, 3, g); }), {"entries = 0"}));
  CHECK(contains(refused([&] { Embedding(4, 3, g, DType::float32, 4); }),
                 {"padding_index = 4", "0 to 3"}));
  CHECK(contains(refused([&] { Lstm(3, 4, g, DType::float32, {.layers = 0}); }), {"layers = 0"}));
  Embedding table(4, 3, g);
  CHECK(contains(refused([&] {
                   table(Tensor::from(std::vector<int64_t>{0, 4}, {2}));
                 }),
                 {"4", "element 1", "0 to 3"}));
}
