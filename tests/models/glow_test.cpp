// Glow, its layers, and the way from pixels to densities.
#include "flowgrad/models/glow.h"
#include "flowgrad/autograd/transforms.h"

#include <numbers>

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/models/checks.h"
#include "flowgrad/models/pixels.h"
#include "flowgrad/models/registry.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;

namespace {

GlowOptions small(int64_t height, int64_t width, int64_t channels, int64_t levels) {
  GlowOptions o;
  o.height = height;
  o.width = width;
  o.channels = channels;
  o.levels = levels;
  o.steps = 2;
  o.hidden = 6;
  return o;
}

}  // namespace

TEST_CASE("squeezing an image moves pixels into channels", "[glow_test]") {
  const ImageShape image{2, 4, 6};
  const Tensor x = reshape(arange(0, 96), {2, 48});
  const Tensor y = squeeze_image(x, image);
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t c = 0; c < 2; ++c) {
      for (int64_t row = 0; row < 4; ++row) {
        for (int64_t column = 0; column < 6; ++column) {
          const int64_t channel = 4 * c + 2 * (row % 2) + column % 2;
          CHECK(y.at({n, (channel * 2 + row / 2) * 3 + column / 2}) ==
                x.at({n, (c * 4 + row) * 6 + column}));
        }
      }
    }
  }
  CHECK(distance(unsqueeze_image(y, image), x) == 0);
}

TEST_CASE("an invertible convolution", "[glow_test]") {
  const ImageShape image{6, 2, 3};
  Generator generator(1);
  InvertibleConv layer(image, generator, DType::float64);
  const Tensor x = randn({4, 36}, generator, DType::float64);
  // Fresh: a rotation of the channels, so lengths stay and the volume too.
  CHECK(distance(sum(square(layer.inverse(x).value), {1}), sum(square(x), {1})) < 1e-13);
  CHECK(distance(layer.inverse(x).log_det, zeros({4}, DType::float64)) < 1e-12);
  CHECK(distance(layer.inverse(x).value, x) > 0.1);
  shake(layer, 3, 0.5);
  CHECK(reconstruction_error(layer, x).max < 1e-12);
  CHECK(log_det_consistency(layer, x).max < 1e-12);
  CHECK(log_det_error(layer, x).max < 1e-9);
  // Every position sees the same matrix, and no other position.
  const Tensor j =
      batch_jacobian([&](const Tensor& at) { return layer.inverse(at).value; }, slice(x, 0, 0, 1));
  for (int64_t a = 0; a < 36; ++a) {
    for (int64_t b = 0; b < 36; ++b) {
      if (a % 6 != b % 6) CHECK(j.at({0, a, b}) == 0);
      CHECK(j.at({0, a, b}) ==
            Catch::Approx(a % 6 == b % 6 ? j.at({0, a - a % 6, b - b % 6}) : 0).margin(1e-15));
    }
  }
  // The permutation and the signs are drawn: they travel with the weights, and must.
  Generator other(2);
  InvertibleConv copy(image, other, DType::float64);
  copy.load_state_dict(layer.state_dict());
  CHECK(distance(copy.inverse(x).value, layer.inverse(x).value) == 0);
  NamedTensors bare;
  for (const auto& item : layer.state_dict())
    if (item.first != "sign") bare.push_back(item);
  CHECK(contains(raised<IoError>([&] { copy.load_state_dict(bare); }),
                 {"buffer \"sign\"", "missing"}));
}

TEST_CASE("an image coupling passes its first half", "[glow_test]") {
  const ImageShape image{4, 2, 2};
  const int64_t hidden = GENERATE(5, 0);
  Generator generator(1);
  ImageCoupling layer(image, hidden, 0, generator, DType::float64);
  const Tensor x = randn({3, 16}, generator, DType::float64);
  CHECK(distance(layer.forward(x).value, x) == 0);
  shake(layer, 3, 0.5);
  for (const bool inverse : {false, true}) {
    const Tensor j = batch_jacobian(
        [&](const Tensor& at) {
          return inverse ? layer.inverse(at).value : layer.forward(at).value;
        },
        x);
    for (int64_t n = 0; n < 3; ++n) {
      for (int64_t row = 0; row < 16; ++row) {
        for (int64_t column = 0; column < 16; ++column) {
          const double v = j.at({n, row, column});
          if (row < 8) CHECK(v == (row == column ? 1 : 0));
          if (row >= 8 && column >= 8 && row != column) CHECK(v == 0);
          if (row >= 8 && column < 8) CHECK(v != 0);
        }
      }
    }
  }
}

TEST_CASE("Glow inverts, and its log-determinant is that of its Jacobian", "[glow_test]") {
  struct Case {
    GlowOptions options;
    int64_t rows;
  };
  GlowOptions conditional = small(4, 4, 2, 2);
  conditional.condition_dim = 3;
  for (const auto& [options, rows] :
       {Case{small(4, 4, 1, 2), 5}, Case{small(4, 4, 1, 1), 1}, Case{small(4, 4, 1, 2), 16},
        Case{small(2, 4, 3, 1), 3}, Case{small(2, 2, 1, 1), 4}, Case{conditional, 3}}) {
    for (const DType dtype : {DType::float64, DType::float32}) {
      const bool wide = dtype == DType::float64;
      INFO(options.height << " x " << options.width << ", " << rows << " rows " << name_of(dtype));
      Generator generator(7);
      Glow flow(options, generator, dtype);
      shake(flow, 11, 0.3);
      const Tensor x = randn({rows, flow.dim()}, generator, dtype);
      const Tensor c = options.condition_dim > 0
                           ? randn({rows, options.condition_dim}, generator, dtype)
                           : Tensor();
      CHECK(reconstruction_error(flow, x, c).max < (wide ? 1e-12 : 1e-5));
      CHECK(log_det_consistency(flow, x, c).max < (wide ? 1e-12 : 1e-5));
      CHECK(log_det_error(flow, x, c).max < (wide ? 1e-9 : 1e-4));
      CHECK(flow.log_prob(x, c).shape() == Shape{rows});
    }
  }
}

TEST_CASE("a fresh Glow keeps volume and is a rotation", "[glow_test]") {
  Generator generator(7);
  Glow flow(small(4, 4, 1, 2), generator, DType::float64);
  const Tensor x = randn({5, 16}, generator, DType::float64);
  CHECK(distance(flow.log_prob(x), standard_normal_log_prob(x)) < 1e-12);
}

TEST_CASE("Glow's splits get what its priors say", "[glow_test]") {
  // With nothing but the prior moved, the half split off is N(t, exp(2 s)) given the other.
  Generator generator(7);
  GlowOptions o = small(4, 4, 1, 2);
  Glow flow(o, generator, DType::float64);
  NamedTensors state = flow.state_dict();
  for (auto& [name, t] : state) {
    if (name == "levels.0.prior.net.0.bias")
      t = Tensor::from(std::vector<double>{0.5, 0.5, 2, 2}, {4});
  }
  flow.load_state_dict(state);
  const double log_scale = 3 * std::tanh(0.5 / 3);
  const Tensor z = zeros({1, 16}, DType::float64);
  CHECK(flow.forward(z).log_det.item() == Catch::Approx(8 * log_scale).epsilon(1e-12));
  // All 8 values split off sit at the mean 2, and rotations keep the length.
  CHECK(sum(square(flow.forward(z).value)).item() == Catch::Approx(8 * 4).epsilon(1e-12));
}

TEST_CASE("Glow rows do not mix, zero rows pass, and NaN stays in its row", "[glow_test]") {
  Generator generator(7);
  Glow flow(small(4, 4, 1, 2), generator);
  shake(flow, 11, 0.3);
  Tensor x = randn({9, 16}, generator);
  const auto all = flow.log_prob(x).to_vector<float>();
  for (const int64_t i : {0, 4, 8})
    CHECK(flow.log_prob(slice(x, 0, i, i + 1)).to_vector<float>()[0] ==
          all[static_cast<size_t>(i)]);
  CHECK(flow.log_prob(zeros({0, 16})).shape() == Shape{0});
  CHECK(flow.sample(0, generator).shape() == Shape{0, 16});
  const Tensor poisoned = concat({x, full({1, 16}, NAN)}, 0);
  const auto values = flow.log_prob(poisoned).to_vector<float>();
  CHECK(std::isnan(values[9]));
  for (size_t i = 0; i < 9; ++i) CHECK(values[i] == all[i]);
}

TEST_CASE("a condition moves every coupling and prior of Glow", "[glow_test]") {
  const Config keys{{"height", "4"}, {"width", "4"},  {"levels", "2"},
                    {"steps", "1"},  {"hidden", "6"}, {"condition_dim", "3"}};
  Generator generator(7);
  const auto model = make_model("glow", keys, generator, DType::float64);
  auto& flow = dynamic_cast<Glow&>(model->module());
  CHECK(model->condition_width() == 3);
  // Two channels kept of the first level's four, four of the second's eight; the condition's after.
  std::vector<std::string> seen;
  for (const auto& [name, p] : flow.parameters()) {
    if (name.ends_with(".net.0.weight")) seen.push_back(name + " " + p.shape().to_string());
  }
  CHECK(seen == std::vector<std::string>{"levels.0.couplings.0.net.0.weight (6, 5, 3, 3)",
                                         "levels.0.prior.net.0.weight (4, 5, 3, 3)",
                                         "levels.1.couplings.0.net.0.weight (6, 7, 3, 3)"});
  const Tensor x = randn({5, 16}, generator, DType::float64);
  const Tensor c = randn({5, 3}, generator, DType::float64);
  CHECK(distance(flow.log_prob(x, c), standard_normal_log_prob(x)) < 1e-12);  // fresh
  shake(flow, 11, 0.3);
  const Tensor one = slice(c, 0, 0, 1);
  CHECK(distance(flow.log_prob(x, one), flow.log_prob(x, expand(one, {5, 3}))) == 0);
  CHECK(distance(flow.log_prob(x, one), flow.log_prob(x, c)) > 1e-3);
  CHECK(flow.log_prob(slice(x, 0, 2, 3), slice(c, 0, 2, 3)).item() == flow.log_prob(x, c).at({2}));
  CHECK(flow.log_prob(zeros({0, 16}, DType::float64), zeros({0, 3}, DType::float64)).numel() == 0);
  const auto result = gradcheck(
      [&](std::span<const Tensor> in) {
        return std::vector<Tensor>{flow.log_prob(in[0], in[1]), flow.forward(in[0], in[1]).value};
      },
      std::vector<Tensor>{slice(x, 0, 0, 2), slice(c, 0, 0, 2)});
  INFO(result.message);
  CHECK(result.passed);
  for (const auto& [name, p] : flow.parameters()) p.zero_grad();
  backward(-mean(flow.log_prob(x, c)));
  for (const auto& [name, p] : flow.parameters()) {
    INFO(name);
    CHECK(p.grad().defined());
  }
  Generator other(8), draws(1), again(1);
  const auto copy = make_model("glow", keys, other, DType::float64);
  copy->module().load_state_dict(flow.state_dict());
  const QuantityInputs in{.condition = c};
  CHECK(distance(copy->evaluate("sample", in, {}, draws),
                 model->evaluate("sample", in, {}, again)) == 0);
  model->initialize_from({.input = x, .condition = c});

  CHECK(contains(raised<ShapeError>([&] { flow.log_prob(x); }), {"Glow", "absent", "(5, 3)"}));
  CHECK(contains(raised<ShapeError>([&] { flow.forward(x, slice(c, 1, 0, 2)); }),
                 {"(5, 2)", "(5, 3) or (1, 3)"}));
  GlowOptions negative = small(4, 4, 1, 1);
  negative.condition_dim = -1;
  CHECK(contains(raised<ValueError>([&] { Glow(negative, generator); }), {"condition_dim = -1"}));
}

TEST_CASE("Glow is differentiable twice", "[glow_test]") {
  Generator generator(7);
  GlowOptions o = small(2, 2, 1, 1);
  o.steps = 1;
  Glow flow(o, generator, DType::float64);
  shake(flow, 11, 0.5);
  const auto result = gradcheck([&](const Tensor& at) { return flow.log_prob(at); },
                                randn({2, 4}, generator, DType::float64), {.order = 2});
  INFO(result.message);
  CHECK(result.passed);
}

TEST_CASE("Glow starts from its first batch", "[glow_test]") {
  Generator generator(7);
  const auto model = make_model(
      "glow", {{"height", "4"}, {"width", "4"}, {"levels", "1"}, {"steps", "2"}, {"hidden", "6"}},
      generator, DType::float64);
  const Tensor x = randn({300, 16}, generator, DType::float64) * 5.0 - 3.0;
  model->initialize_from({.input = x});
  const Tensor z = model->evaluate("inverse", {.input = x}, {}, generator);
  CHECK(std::abs(mean(z).item()) < 1e-9);
  // Every channel has unit variance before the last rotation, which keeps their total.
  CHECK(var(z, {}, 0).item() == Catch::Approx(1).epsilon(1e-4));
}

TEST_CASE("images that cannot be halved are refused", "[glow_test]") {
  Generator generator(0);
  CHECK(contains(raised<ValueError>([&] { Glow(small(6, 8, 1, 2), generator); }),
                 {"6 x 8", "multiples of 4", "2 levels", "halves"}));
  CHECK(contains(raised<ValueError>([&] { Glow(small(8, 7, 1, 1), generator); }),
                 {"8 x 7", "multiples of 2"}));
  CHECK(contains(raised<ValueError>([&] { Glow(small(8, 8, 0, 1), generator); }),
                 {"channels = 0", "at least 1"}));
  CHECK(contains(raised<ValueError>([&] { Glow(small(8, 8, 1, 40), generator); }),
                 {"levels = 40", "at most 30"}));
  Glow flow(small(4, 4, 1, 2), generator);
  CHECK(contains(raised<ShapeError>([&] {
                   flow.log_prob(zeros({2, 15}));
                 }),
                 {"(2, 15)", "(N, 16)"}));
  CHECK(contains(raised<ShapeError>([&] {
                   flow.log_prob(zeros({2, 16}), zeros({2, 3}));
                 }),
                 {"condition", "none is accepted"}));
  CHECK(contains(raised<ValueError>([&] { Conv2d(1, 1, 2, generator); }), {"kernel = 2", "odd"}));
}

TEST_CASE("dequantization fills each pixel's cell", "[glow_test]") {
  Generator generator(5);
  for (const DType dtype : {DType::float64, DType::float32}) {
    const Tensor pixels = cast(randint(0, 256, {4000, 3}, generator), dtype);
    const Tensor x = dequantize(pixels, generator);
    CHECK(distance(floor(x * 256.0), pixels) == 0);
    CHECK(min(x).item() >= 0);
    CHECK(max(x).item() < 1);
    const Tensor u = x * 256.0 - pixels;
    CHECK(std::abs(mean(u).item() - 0.5) < 4 * std::sqrt(1.0 / 12 / 12000));
    CHECK(max(dequantize(full({100000}, 255, dtype), generator)).item() < 1);
  }
  for (const double bad : {-1.0, 256.0, 0.5, double{NAN}, HUGE_VAL})
    CHECK(contains(raised<ValueError>([&] { dequantize(full({2}, bad), generator); }),
                   {"integers 0 to 255"}));
  CHECK(
      contains(raised<ValueError>([&] { dequantize(zeros({2}), generator, 0); }), {"levels = 0"}));
  CHECK(contains(raised<DTypeError>([&] { dequantize(zeros({2}, DType::int64), generator); }),
                 {"int64"}));
}

TEST_CASE("logits of pixels and back", "[glow_test]") {
  Generator generator(5);
  const Tensor x = rand({6, 4}, generator, DType::float64);
  for (const double alpha : {0.05, 1e-6}) {
    const Transformed y = to_logits(x, alpha);
    const Transformed back = from_logits(y.value, alpha);
    CHECK(distance(back.value, x) < 1e-12);
    CHECK(distance(back.log_det, -y.log_det) < 1e-12);
    const Tensor j =
        batch_jacobian([&](const Tensor& at) { return to_logits(at, alpha).value; }, x);
    CHECK(distance(slogdet(j).second, y.log_det) < 1e-12);
  }
  CHECK(all(isfinite(to_logits(Tensor::from(std::vector<double>{0, 1}, {1, 2})).value)).item() ==
        1);
  for (const double bad : {0.0, 0.5, -1.0, double{NAN}})
    CHECK(contains(raised<ValueError>([&] { to_logits(x, bad); }), {"alpha", "0.5"}));
  CHECK(contains(raised<ShapeError>([&] { to_logits(ones({3})); }), {"(3,)", "(N, D)"}));
  CHECK(contains(raised<ShapeError>([&] { from_logits(ones({3})); }), {"(3,)", "(N, D)"}));
}

TEST_CASE("bits per dimension", "[glow_test]") {
  // The uniform density on [0, 1)^D says nothing: all 8 bits remain.
  CHECK(bits_per_dimension(zeros({3}), 7).to_vector<float>() == std::vector<float>(3, 8));
  // Twice the density per dimension is a bit less.
  const Tensor twice = full({1}, 5 * std::numbers::ln2, DType::float64);
  CHECK(bits_per_dimension(twice, 5).item() == Catch::Approx(7).epsilon(1e-14));
  CHECK(bits_per_dimension(twice, 5, 32).item() == Catch::Approx(4).epsilon(1e-14));
  CHECK(contains(raised<ValueError>([&] { bits_per_dimension(twice, 0); }), {"dim = 0"}));
}
