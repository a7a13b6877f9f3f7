// What turns observations into features: presets, padding, cameras, devices, and what is refused.
#include "flowgrad/models/encoders.h"

#include <map>

#include "device/device.h"
#include "flowgrad/autograd/gradcheck.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::on_device;
using flowgrad::testing::raised;

namespace {

/// A small one with all options, for images of 12 x 10.
VisionLanguageOptions small_encoder() {
  return {.channels = {4, 6},
          .first_kernel = 3,
          .pooling = Pooling::spatial_softmax,
          .height = 12,
          .width = 10,
          .vision_width = 0,
          .cameras = 2,
          .vocabulary = 9,
          .embedding = 4,
          .lstm_hidden = 3,
          .pad_id = 0,
          .film = true,
          .robot_dim = 2,
          .fusion_hidden = 8,
          .features = 5};
}

Tensor words(std::vector<int64_t> tokens, int64_t rows) {
  const auto length = static_cast<int64_t>(tokens.size()) / rows;
  return Tensor::from(tokens, {rows, length});
}

PolicyObservation observed(int64_t rows, DType dtype = DType::float32) {
  Generator draws(11);
  PolicyObservation o;
  o.robot = randn({rows, 2}, draws, dtype);
  o.images = rand({rows, 6, 12, 10}, draws, dtype);
  o.tokens = randint(1, 9, {rows, 5}, draws);
  return o;
}

PolicyObservation row(const PolicyObservation& o, int64_t i) {
  PolicyObservation out;
  out.robot = slice(o.robot, 0, i, i + 1);
  out.images = slice(o.images, 0, i, i + 1);
  out.tokens = slice(o.tokens, 0, i, i + 1);
  return out;
}

}  // namespace

TEST_CASE("presets of encoders", "[encoders_test]") {
  Generator generator(0);
  std::map<std::string, int64_t> count;
  for (const std::string& name : policy_encoder_presets()) {
    PolicyEncoderOptions options = policy_encoder_preset(name);
    if (auto* state = std::get_if<StateEncoderOptions>(&options)) state->state_dim = 16;
    const auto encoder = make_policy_encoder(options, generator);
    count[name] = encoder->parameter_count();
    CHECK(encoder->features() == (name == "state" ? 16 : name == "tiny" ? 128 : 256));
  }
  CHECK(count["state"] == 0);
  CHECK(count["tutorial"] == 14074766 - 1320839 - (263 * 128 + 128 + 128 * 7 + 7));
  CHECK(count["tiny"] == 140160);
  CHECK(count["base"] == 876288);
  CHECK(contains(raised<ValueError>([] { policy_encoder_preset("tini"); }),
                 {"tini", "did you mean \"tiny\"", "state, tutorial, tiny, base"}));
  CHECK(contains(raised<ValueError>([] { vision_language_preset("state"); }),
                 {"sees and reads nothing"}));
}

TEST_CASE("names of an encoder's parameters", "[encoders_test]") {
  Generator generator(0);
  VisionLanguageEncoder encoder(small_encoder(), generator);
  std::string names;
  for (const auto& [name, p] : encoder.parameters()) names += name + " ";
  CHECK(names ==
        "vision_encoder.0.weight vision_encoder.0.bias vision_encoder.2.weight "
        "vision_encoder.2.bias vision_encoder.film.0.weight vision_encoder.film.0.bias "
        "vision_encoder.film.1.weight vision_encoder.film.1.bias language_encoder.0.weight "
        "language_encoder.1.weight_ih_l0 language_encoder.1.weight_hh_l0 "
        "language_encoder.1.bias_ih_l0 language_encoder.1.bias_hh_l0 "
        "language_encoder.1.weight_ih_l0_reverse language_encoder.1.weight_hh_l0_reverse "
        "language_encoder.1.bias_ih_l0_reverse language_encoder.1.bias_hh_l0_reverse "
        "fusion.0.weight fusion.0.bias fusion.2.weight fusion.2.bias ");
}

TEST_CASE("a state encoder hands the state on, or through its network", "[encoders_test]") {
  Generator generator(0);
  const Tensor state = randn({3, 4}, generator);
  PolicyObservation o;
  o.state = state;
  StateEncoder same({.state_dim = 4}, generator);
  CHECK(distance(same.encode(o), state) == 0);
  StateEncoder net({.state_dim = 4, .hidden = 8, .features = 6}, generator);
  CHECK(net.encode(o).shape() == Shape{3, 6});
  CHECK(net.parameter_count() == 4 * 8 + 8 + 8 * 6 + 6);
  o.state = zeros({3, 5});
  CHECK(contains(raised<ShapeError>([&] { same.encode(o); }), {"state", "(3, 5)", "(N, 4)"}));
  CHECK(contains(raised<ShapeError>([&] { same.encode({}); }), {"state absent"}));
  CHECK(contains(raised<ValueError>([&] { StateEncoder({}, generator); }),
                 {"state_dim = 0", "at least 1"}));
}

TEST_CASE("padding behind the words changes nothing, a word does", "[encoders_test][device]") {
  Generator generator(1);
  VisionLanguageEncoder encoder(small_encoder(), generator, DType::float64);
  encoder.to(testing::test_device());
  PolicyObservation o = observed(1, DType::float64);
  o.robot = on_device(o.robot);
  o.images = on_device(o.images);
  const auto feature = [&](std::vector<int64_t> tokens) {
    o.tokens = on_device(words(std::move(tokens), 1));
    return encoder.encode(o);
  };
  const Tensor plain = feature({3, 7, 2});
  CHECK(distance(feature({3, 7, 2, 0, 0}), plain) < 1e-14);
  CHECK(distance(feature({3, 7, 5}), plain) > 1e-4);
  CHECK(distance(feature({7, 3, 2}), plain) > 1e-4);
  CHECK(distance(feature({3, 0, 7, 2}), plain) > 1e-4);
  CHECK(all(isfinite(feature({0, 0, 0}))).item() == 1);
}

TEST_CASE("a row is encoded alike whatever stands beside it", "[encoders_test][device]") {
  Generator generator(2);
  VisionLanguageEncoder encoder(small_encoder(), generator);
  encoder.to(testing::test_device());
  PolicyObservation o = observed(5);
  for (Tensor* t : {&o.robot, &o.images, &o.tokens}) *t = on_device(*t);
  const Tensor together = encoder.encode(o);
  CHECK(together.shape() == Shape{5, 5});
  for (int64_t i = 0; i < 5; ++i)
    CHECK(distance(encoder.encode(row(o, i)), slice(together, 0, i, i + 1)) < 1e-6);
  PolicyObservation none;
  none.robot = on_device(zeros({0, 2}));
  none.images = on_device(zeros({0, 6, 12, 10}));
  none.tokens = on_device(zeros({0, 3}, DType::int64));
  CHECK(encoder.encode(none).shape() == Shape{0, 5});
}

TEST_CASE("every camera and every number of the robot counts", "[encoders_test]") {
  Generator generator(3);
  VisionLanguageEncoder encoder(small_encoder(), generator, DType::float64);
  const PolicyObservation o = observed(2, DType::float64);
  const Tensor plain = encoder.encode(o);
  for (const int64_t channel : {int64_t{0}, int64_t{5}}) {
    PolicyObservation other = o;
    other.images =
        slice_scatter(o.images, zeros({2, 1, 12, 10}, DType::float64), 1, channel, channel + 1);
    CHECK(distance(encoder.encode(other), plain) > 1e-5);
  }
  PolicyObservation other = o;
  other.robot = o.robot + 1.0;
  CHECK(distance(encoder.encode(other), plain) > 1e-4);
  // One camera's picture for both, swapped, is the same as itself.
  PolicyObservation twice = o;
  const Tensor one = slice(o.images, 1, 0, 3);
  twice.images = concat({one, one}, 1);
  PolicyObservation swapped = twice;
  swapped.images = concat({slice(twice.images, 1, 3, 6), slice(twice.images, 1, 0, 3)}, 1);
  CHECK(distance(encoder.encode(swapped), encoder.encode(twice)) == 0);
}

TEST_CASE("gradients of an encoder agree with differences", "[encoders_test]") {
  Generator generator(4);
  VisionLanguageOptions options = small_encoder();
  options.channels = {2, 2};
  VisionLanguageEncoder encoder(options, generator, DType::float64);
  const PolicyObservation o = observed(1, DType::float64);
  const auto as_images = [&](const Tensor& images) {
    PolicyObservation at = o;
    at.images = images;
    return encoder.encode(at);
  };
  CHECK(gradcheck(as_images, o.images).passed);
  backward(sum(square(as_images(o.images))));
  for (const auto& [name, p] : encoder.parameters()) {
    INFO(name);
    REQUIRE(p.grad().defined());
    CHECK(sum(abs(p.grad())).item() > 0);
  }
}

TEST_CASE("average pooling takes images of any size from 8 x 8", "[encoders_test]") {
  Generator generator(5);
  VisionLanguageOptions options = small_encoder();
  options.pooling = Pooling::average;
  options.cameras = 1;
  options.robot_dim = 0;
  VisionLanguageEncoder encoder(options, generator);
  PolicyObservation o;
  o.tokens = words({1, 2}, 1);
  for (const auto& [h, w] : {std::pair{8, 8}, {9, 31}, {48, 8}}) {
    o.images = ones({1, 3, h, w});
    CHECK(encoder.encode(o).shape() == Shape{1, 5});
  }
  o.images = ones({1, 3, 8, 7});
  CHECK(contains(raised<ShapeError>([&] { encoder.encode(o); }),
                 {"images", "(1, 3, 8, 7)", "(N, 3, H, W)", "at least 8"}));
}

TEST_CASE("observations that do not fit are refused by name", "[encoders_test]") {
  Generator generator(6);
  VisionLanguageEncoder encoder(small_encoder(), generator);
  const auto with = [&](const std::function<void(PolicyObservation&)>& damage) {
    PolicyObservation o = observed(2);
    damage(o);
    return o;
  };
  const auto shape = [&](const std::function<void(PolicyObservation&)>& damage) {
    const PolicyObservation o = with(damage);
    return raised<ShapeError>([&] { encoder.encode(o); });
  };
  const auto dtype = [&](const std::function<void(PolicyObservation&)>& damage) {
    const PolicyObservation o = with(damage);
    return raised<DTypeError>([&] { encoder.encode(o); });
  };
  using O = PolicyObservation;
  CHECK(contains(shape([](O& o) { o.images = {}; }), {"images absent", "(N, 6, 12, 10)"}));
  CHECK(contains(shape([](O& o) { o.images = ones({2, 3, 12, 10}); }), {"(2, 3, 12, 10)"}));
  CHECK(contains(shape([](O& o) { o.images = ones({6, 12, 10}); }), {"images", "(6, 12, 10)"}));
  CHECK(contains(shape([](O& o) {
                   o.images = ones({2, 6, 10, 12});
                 }),
                 {"(2, 6, 10, 12)", "spatial softmax"}));
  CHECK(contains(shape([](O& o) { o.tokens = {}; }), {"tokens absent"}));
  CHECK(contains(shape([](O& o) { o.tokens = zeros({2, 0}, DType::int64); }), {"at least 1"}));
  CHECK(contains(shape([](O& o) {
                   o.tokens = ones({3, 4}, DType::int64);
                 }),
                 {"tokens", "(3, 4)", "(2, 6, 12, 10)"}));
  CHECK(contains(shape([](O& o) { o.robot = {}; }), {"robot absent", "(N, 2)"}));
  CHECK(contains(shape([](O& o) { o.robot = ones({3, 2}); }), {"robot", "(3, 2)"}));
  CHECK(contains(dtype([](O& o) { o.tokens = ones({2, 4}); }), {"tokens", "int64"}));
  CHECK(contains(dtype([](O& o) {
                   o.images = ones({2, 6, 12, 10}, DType::int64);
                 }),
                 {"images", "floating"}));
  const PolicyObservation bad = with([](O& o) { o.tokens = words({1, 2, 3, 4, 9, 6}, 2); });
  CHECK(contains(raised<ValueError>([&] { encoder.encode(bad); }),
                 {"token 9", "row 1", "position 1", "0 to 8"}));
}

TEST_CASE("options of encoders that do not fit are refused", "[encoders_test]") {
  Generator generator(7);
  const auto refused = [&](const std::function<void(VisionLanguageOptions&)>& damage) {
    VisionLanguageOptions o = small_encoder();
    damage(o);
    return raised<ValueError>([&] { VisionLanguageEncoder(o, generator); });
  };
  using O = VisionLanguageOptions;
  CHECK(contains(refused([](O& o) { o.channels.clear(); }), {"channels is empty"}));
  CHECK(contains(refused([](O& o) { o.height = 7; }), {"height = 7", "at least 8"}));
  CHECK(contains(refused([](O& o) {
                   o.channels = {4, 4, 4};
                   o.height = 8;
                 }),
                 {"height = 8", "at least 9", "3 convolutions"}));
  CHECK(contains(refused([](O& o) { o.cameras = 0; }), {"cameras = 0"}));
  CHECK(contains(refused([](O& o) { o.robot_dim = -1; }), {"robot_dim = -1"}));
  CHECK(contains(refused([](O& o) { o.pad_id = 9; }), {"pad_id = 9", "0 to 8"}));
  CHECK(contains(refused([](O& o) { o.features = 0; }), {"out = 0"}));
}
