// The hierarchical flow: latent, noise along the sequence, what learns from what, what is refused.
#include "flowgrad/models/hierarchical.h"

#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

HierarchicalOptions small_hierarchy() {
  return {.condition_dim = 2,
          .action_dim = 2,
          .sequence_length = 6,
          .latent_dim = 4,
          .decoder_hidden = 12,
          .hidden = 24,
          .time_dim = 8};
}

const GenerateOptions kFew{.solver = {.solver = "euler", .n_steps = 8}};

}  // namespace

TEST_CASE("a latent is standardised whatever the actions", "[hierarchical_test]") {
  Generator generator(1);
  HierarchicalFlow model(small_hierarchy(), generator, DType::float64);
  for (const double size : {1e-3, 1.0, 1e6}) {
    const Tensor z = model.latent(randn({5, 6, 2}, generator, DType::float64) * size);
    CHECK(z.shape() == Shape{5, 4});
    CHECK(max(abs(mean(z, {1}))).item() < 1e-12);
    CHECK(max(abs(var(z, {1}, 0) - 1.0)).item() < 0.05);
  }
  const Tensor rows = randn({3, 12}, generator, DType::float64);
  CHECK(distance(model.latent(rows), model.latent(reshape(rows, {3, 6, 2}))) == 0);
}

TEST_CASE("one loss reaches every parameter", "[hierarchical_test]") {
  Generator generator(2);
  HierarchicalFlow model(small_hierarchy(), generator, DType::float64);
  backward(model.loss(randn({5, 6, 2}, generator, DType::float64),
                      randn({5, 2}, generator, DType::float64), generator));
  for (const auto& [name, p] : model.parameters()) {
    INFO(name);
    REQUIRE(p.grad().defined());
    CHECK(sum(abs(p.grad())).item() > 0);
  }
}

TEST_CASE("the high level does not move its own target", "[hierarchical_test]") {
  Generator generator(6);
  HierarchicalFlow model(small_hierarchy(), generator, DType::float64);
  const Tensor actions = randn({5, 6, 2}, generator, DType::float64);
  const Tensor condition = randn({5, 2}, generator, DType::float64);
  const Tensor noise = randn({5, model.noise_width()}, generator, DType::float64);
  const Tensor time = rand({5, 7}, generator, DType::float64);
  const auto gradient = [&](const std::string& name, const Tensor& n, const Tensor& t) {
    const Tensor loss = model.loss(actions, condition, generator, n, t);
    for (const auto& [key, p] : model.parameters()) {
      if (key == name) return grad(loss, p);
    }
    return Tensor();
  };
  // Other draws of the high level alone: its own weights feel them, the encoder's do not.
  const Tensor other = slice_scatter(noise, zeros({5, 4}, DType::float64), 1, 0, 4);
  const Tensor later = slice_scatter(time, ones({5, 1}, DType::float64), 1, 0, 1);
  const std::string own = "high_level_flow.velocity_net.4.weight";
  CHECK(distance(gradient(own, noise, time), gradient(own, other, later)) > 1e-3);
  for (const std::string name : {"to_latent.weight", "action_encoder.weight_hh_l0"})
    CHECK(distance(gradient(name, noise, time), gradient(name, other, later)) < 1e-14);
}

TEST_CASE("the noise of a sequence is as correlated as asked", "[hierarchical_test]") {
  // With one Euler step of a low level whose last layer is zero, actions are the noise itself.
  for (const double rho : {0.0, 0.7, 1.0}) {
    INFO(rho);
    HierarchicalOptions o = small_hierarchy();
    o.noise_correlation = rho;
    Generator generator(3);
    HierarchicalFlow model(o, generator, DType::float64);
    for (const auto& [name, p] : model.parameters()) {
      if (name.starts_with("low_level_flow.velocity_net.4")) {
        NoGrad off;
        fill_(p, 0);
      }
    }
    constexpr int64_t n = 4000;
    const Tensor x = model.generate(randn({n, model.noise_width()}, generator, DType::float64),
                                    zeros({1, 2}, DType::float64), kFew);
    const auto at = [&](int64_t i) { return select(x, 1, i); };
    const double error = 5 / std::sqrt(2.0 * n);
    for (const int64_t i : {int64_t{0}, int64_t{3}, int64_t{5}})
      CHECK(std::abs(mean(square(at(i))).item() - 1) < 2 * error);
    CHECK(std::abs(mean(at(2) * at(3)).item() - rho) < error);
    CHECK(std::abs(mean(at(1) * at(4)).item() - rho * rho * rho) < error);
  }
}

TEST_CASE("jerk is the mean squared third difference", "[hierarchical_test]") {
  std::vector<double> cubic, straight;
  for (int i = 0; i < 6; ++i) {
    cubic.push_back(i * i * i);
    straight.push_back(2.0 * i + 1);
  }
  CHECK(mean_squared_jerk(Tensor::from(cubic, {1, 6, 1}, DType::float64)).item() == 36);
  CHECK(mean_squared_jerk(Tensor::from(straight, {1, 3, 2}, DType::float64)).item() == 0);
  CHECK(mean_squared_jerk(Tensor::from(straight, {1, 6, 1}, DType::float64)).item() == 0);
  CHECK(contains(raised<ShapeError>([] { mean_squared_jerk(zeros({3, 2})); }), {"(N, L, A)"}));
}

TEST_CASE("two levels learn sequences that go one of two ways", "[hierarchical_test]") {
  // A ramp up or down, by a coin that no condition shows: steps agree within a sequence.
  constexpr int64_t n = 64;
  HierarchicalOptions o = small_hierarchy();
  o.condition_dim = 0;
  o.action_dim = 1;
  o.sequence_length = 4;
  Generator generator(4);
  HierarchicalFlow model(o, generator);
  std::vector<double> rows;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t l = 0; l < 4; ++l)
      rows.push_back((i % 2 == 0 ? 1 : -1) * (0.5 + 0.5 * static_cast<double>(l)));
  }
  const Tensor data = Tensor::from(rows, {n, 4, 1}, DType::float32);
  Adam optimizer({{model.parameters()}}, {.lr = 5e-3});
  for (int step = 0; step < 300; ++step) {
    optimizer.zero_grad();
    backward(model.loss(data, {}, generator));
    optimizer.step();
  }
  const Tensor x = model.generate(randn({200, model.noise_width()}, generator), {}, kFew);
  const auto v = x.to_vector<double>();
  int agree = 0, up = 0;
  for (size_t i = 0; i < 200; ++i) {
    agree += (v[4 * i] > 0) == (v[4 * i + 3] > 0);
    up += v[4 * i + 3] > 0;
  }
  CHECK(agree > 180);
  CHECK((up > 40 && up < 160));
}

TEST_CASE("sequences and draws that do not fit are refused", "[hierarchical_test]") {
  Generator generator(5);
  HierarchicalFlow model(small_hierarchy(), generator);
  const Tensor c = zeros({3, 2});
  const auto shape = [](const std::function<void()>& f) { return raised<ShapeError>(f); };
  CHECK(contains(shape([&] {
                   model.loss(zeros({3, 5, 2}), c, generator);
                 }),
                 {"actions (3, 5, 2)", "(N, 6, 2)", "(N, 12)"}));
  CHECK(contains(shape([&] {
                   model.loss(zeros({3, 12}), zeros({2, 2}), generator);
                 }),
                 {"(2, 2)", "(3, 2)"}));
  CHECK(contains(shape([&] {
                   model.loss(zeros({3, 12}), c, generator, zeros({3, 12}));
                 }),
                 {"noise", "(3, 12)", "(3, 16)"}));
  CHECK(contains(shape([&] {
                   model.loss(zeros({3, 12}), c, generator, {}, zeros({3}));
                 }),
                 {"time", "(3, 7)"}));
  CHECK(contains(shape([&] { model.generate(zeros({3, 12}), c); }), {"(3, 12)", "(N, 16)"}));
  CHECK(contains(raised<ValueError>([&] {
                   model.generate(zeros({3, 16}), c, {.guidance = 2});
                 }),
                 {"guidance = 2"}));
  const auto options = [&](const std::function<void(HierarchicalOptions&)>& damage) {
    HierarchicalOptions o = small_hierarchy();
    damage(o);
    return raised<ValueError>([&] { HierarchicalFlow(o, generator); });
  };
  CHECK(contains(options([](auto& o) { o.sequence_length = 0; }), {"sequence_length = 0"}));
  CHECK(contains(options([](auto& o) { o.noise_correlation = 1.5; }), {"1.5", "0 to 1"}));
  CHECK(model.generate(zeros({0, 16}), zeros({1, 2}), kFew).shape() == Shape{0, 6, 2});
}
