// The vision-language-action policy: what its parts learn, and what it refuses.
#include "flowgrad/models/flow_vla.h"

#include "flowgrad/models/registry.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

FlowVLAOptions small_vla() {
  FlowVLAOptions o = flow_vla_preset("tiny");
  o.encoder.channels = {4, 6};
  o.encoder.height = o.encoder.width = 8;
  o.encoder.features = 6;
  o.hidden = 16;
  o.horizon = 2;
  return o;
}

const Config kSmallVla{{"hidden", "8"}, {"height", "16"}, {"width", "16"}, {"horizon", "2"}};

std::unique_ptr<Model> model_of(Config config) {
  config.insert(kSmallVla.begin(), kSmallVla.end());
  Generator generator(1);
  return make_model("flow_vla", config, generator);
}

double size_of(const Module& m, const std::string& prefix, const Tensor& objective) {
  double total = 0;
  for (const auto& [name, p] : m.parameters()) {
    if (!name.starts_with(prefix)) continue;
    const auto g = grad(std::span(&objective, 1), std::span(&p, 1), {},
                        {.retain_graph = true, .allow_unused = true});
    if (g[0].defined()) total += sum(abs(g[0])).item();
  }
  return total;
}

}  // namespace

TEST_CASE("the refiner learns from its own loss, and nothing else does", "[flow_vla_test]") {
  Generator generator(1);
  FlowVLA vla(small_vla(), generator, DType::float64);
  const Tensor chunk = randn({6, 4}, generator, DType::float64);
  const Tensor feature = randn({6, 6}, generator, DType::float64);
  const FlowVLA::Losses l = vla.losses(chunk, feature, generator);
  CHECK(size_of(vla, "refiner.", l.refiner) > 0);
  CHECK(size_of(vla, "refiner.", l.loss) == 0);
  CHECK(size_of(vla, "action_flow.", l.refiner) == 0);
  CHECK(size_of(vla, "action_flow.", l.loss) > 0);
  CHECK(size_of(vla, "auxiliary.", l.loss) > 0);
  // Trained alone it comes below the error of what it corrects: its chunk is then better.
  Adam optimizer({{vla.parameters()}}, {.lr = 1e-2});
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    Generator same(2);
    const Tensor loss = vla.losses(chunk, feature, same).refiner;
    optimizer.zero_grad();
    backward(loss);
    optimizer.step();
    (step == 0 ? first : last) = loss.item();
  }
  CHECK(last < 0.2 * first);
}

TEST_CASE("only refine=true applies the refiner", "[flow_vla_test]") {
  FlowVLAOptions o = small_vla();
  Generator a(1), b(1);
  FlowVLA plain(o, a);
  o.refine = true;
  FlowVLA refined(o, b);
  Generator draws(3);
  const Tensor noise = randn({5, 4}, draws), feature = randn({5, 6}, draws);
  const GenerateOptions few{.solver = {.solver = "euler", .n_steps = 4}};
  const Tensor chunk = plain.generate(noise, feature, few);
  CHECK(distance(plain.refine(chunk, feature), refined.generate(noise, feature, few)) == 0);
  CHECK(distance(refined.generate(noise, feature, few), chunk) > 1e-3);
}

TEST_CASE("the auxiliary regression is there where it has a weight", "[flow_vla_test]") {
  const auto has = [](Model& m) {
    for (const auto& [name, p] : m.module().parameters()) {
      if (name == "auxiliary.weight") return true;
    }
    return false;
  };
  CHECK(has(*model_of({})));
  CHECK_FALSE(has(*model_of({{"auxiliary", "0"}})));
  CHECK_FALSE(has(*model_of({{"preset", "tutorial"}})));
}

TEST_CASE("a policy trains from pictures and words", "[flow_vla_test]") {
  // The action is where the bright spot is, or its mirror image where the words say so.
  Generator generator(4);
  const auto model = model_of({{"horizon", "1"}, {"vocabulary", "4"}, {"auxiliary", "1"}});
  constexpr int64_t n = 64;
  std::vector<double> pixels(static_cast<size_t>(n * 3 * 256)), actions;
  std::vector<int64_t> words;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t x = i % 8, y = i / 8, word = 1 + (i * 5 / 3) % 2;
    for (int64_t pixel = 0; pixel < 12; ++pixel) {  // 2 x 2 of them in three channels
      const int64_t c = pixel / 4, dy = pixel / 2 % 2, dx = pixel % 2;
      pixels[static_cast<size_t>(((i * 3 + c) * 16 + 2 * y + dy) * 16 + 2 * x + dx)] = 1;
    }
    const double sign = word == 1 ? 1 : -1;
    actions.push_back(sign * (static_cast<double>(x) / 3.5 - 1));
    actions.push_back(sign * (static_cast<double>(y) / 3.5 - 1));
    words.insert(words.end(), {3, word, 0});
  }
  QuantityInputs in{.input = Tensor::from(actions, {n, 2}, DType::float32)};
  in.images = Tensor::from(pixels, {n, 3, 16, 16}, DType::float32);
  in.tokens = Tensor::from(words, {n, 3});
  Adam optimizer({{model->module().parameters()}}, {.lr = 3e-3});
  const auto error = [&] {
    Generator draws(5);
    const Tensor chunk = model->evaluate("generate", in, {.n_steps = 4}, draws);
    return mean(square(chunk - in.input)).item();
  };
  const double before = error();
  for (int step = 0; step < 150; ++step) {
    optimizer.zero_grad();
    backward(model->loss(in, generator));
    optimizer.step();
  }
  CHECK(error() < 0.35 * before);
}

TEST_CASE("observations of a policy are refused by name", "[flow_vla_test]") {
  const auto model = model_of({{"robot_dim", "2"}});
  Generator generator(6);
  QuantityInputs in = model->observation(3, generator);
  in.input = randn({3, 4}, generator);
  const auto missing = [&](Tensor QuantityInputs::*part) {
    QuantityInputs less = in;
    less.*part = {};
    return raised<ValueError>([&] { model->loss(less, generator); });
  };
  CHECK(contains(missing(&QuantityInputs::images), {"model flow_vla", "images"}));
  CHECK(contains(missing(&QuantityInputs::tokens), {"tokens"}));
  CHECK(contains(missing(&QuantityInputs::robot), {"robot"}));
  CHECK(contains(missing(&QuantityInputs::input), {"input"}));
  in.input = randn({3, 5}, generator);
  CHECK(contains(raised<ShapeError>([&] { model->loss(in, generator); }), {"(3, 5)", "(N, 4)"}));
  in.input = randn({4, 4}, generator);
  CHECK(
      contains(raised<ShapeError>([&] { model->loss(in, generator); }), {"(3, 128)", "(4, 128)"}));
  in.images = ones({3, 3, 17, 16});
  CHECK(contains(raised<ShapeError>([&] { model->evaluate("condition", in, {}, generator); }),
                 {"(3, 3, 17, 16)", "(N, 3, 16, 16)"}));
}

TEST_CASE("keys of a policy are refused with what is accepted", "[flow_vla_test]") {
  const auto refused = [](const Config& c) { return raised<ValueError>([&] { model_of(c); }); };
  CHECK(contains(refused({{"preset", "huge"}}), {"preset", "huge", "tiny, tutorial, base"}));
  CHECK(contains(refused({{"horizon", "0"}}), {"horizon", "integer from 1"}));
  CHECK(contains(refused({{"height", "7"}}), {"height", "integer from 8"}));
  CHECK(contains(refused({{"pad_id", "64"}}), {"pad_id = 64", "0 to 63"}));
  CHECK(contains(refused({{"auxiliary", "-1"}}), {"auxiliary", "at least 0"}));
  CHECK(contains(raised<ValueError>([] {
                   Generator g(0);
                   FlowVLA({.action_dim = 0}, g);
                 }),
                 {"action_dim = 0"}));
  // Without padding a zero is a word like any other.
  const auto plain = model_of({{"pad_id", "none"}});
  const auto padded = model_of({{"pad_id", "0"}});
  padded->module().load_state_dict(plain->module().state_dict());
  Generator generator(7);
  QuantityInputs in = plain->observation(1, generator);
  in.tokens = Tensor::from(std::vector<int64_t>{5, 3, 0}, {1, 3});
  const Tensor with = plain->evaluate("condition", in, {}, generator);
  CHECK(distance(padded->evaluate("condition", in, {}, generator), with) > 1e-5);
}
