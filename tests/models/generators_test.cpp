// Flow matching and the diffusion policy beyond PyTorch's numbers.
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;

namespace {

FlowMatchingOptions conditional() {
  FlowMatchingOptions o;
  o.condition_dim = 3;
  o.action_dim = 2;
  o.time_dim = 8;
  o.hidden = 16;
  return o;
}

DiffusionOptions small_diffusion() {
  DiffusionOptions o;
  o.state_dim = 3;
  o.n_timesteps = 12;
  o.hidden = 16;
  return o;
}

}  // namespace

TEST_CASE("generation with guidance follows its formula", "[generators_test]") {
  Generator generator(1);
  FlowMatching net(conditional(), generator, DType::float64);
  shake(net, 2, 0.5);
  const Tensor noise = randn({4, 2}, generator, DType::float64);
  const Tensor condition = randn({4, 3}, generator, DType::float64);
  const Tensor none = zeros({4, 3}, DType::float64);
  for (const double w : {1.0, 0.0, 2.5}) {
    const OdeOptions solver{.solver = "midpoint", .n_steps = 6};
    const auto field = [&](double t, const Tensor& x) {
      const Tensor time = full({4}, t, DType::float64);
      const Tensor without = net.velocity(x, time, none);
      return without + (net.velocity(x, time, condition) - without) * w;
    };
    CHECK(distance(net.generate(noise, condition, {solver, w}),
                   odeint(field, noise, 0, 1, solver)) < 1e-12);
  }
}

TEST_CASE("one condition serves all rows, and guidance needs one", "[generators_test]") {
  Generator generator(1);
  FlowMatching net(conditional(), generator);
  const Tensor noise = randn({4, 2}, generator);
  const Tensor one = randn({1, 3}, generator);
  CHECK(distance(net.generate(noise, one), net.generate(noise, expand(one, {4, 3}))) == 0);
  const Tensor t = rand({4}, generator);
  CHECK(distance(net.velocity(noise, t, one), net.velocity(noise, t, expand(one, {4, 3}))) == 0);
  CHECK(distance(net.loss(noise, one, generator, noise * 2.0, t),
                 net.loss(noise, expand(one, {4, 3}), generator, noise * 2.0, t)) == 0);
  CHECK(contains(raised<ShapeError>([&] {
                   net.generate(noise, randn({3, 3}, generator));
                 }),
                 {"(3, 3)", "(4, 3)"}));
  CHECK(contains(raised<ShapeError>([&] { net.generate(noise); }), {"absent"}));
  FlowMatchingOptions o = conditional();
  o.condition_dim = 0;
  FlowMatching plain(o, generator);
  CHECK(contains(raised<ValueError>([&] { plain.generate(noise, {}, {.guidance = 2}); }),
                 {"guidance = 2"}));
  o.time_dim = 7;
  CHECK(contains(raised<ValueError>([&] { FlowMatching(o, generator); }),
                 {"width 7", "even numbers from 4"}));
}

TEST_CASE("the losses take draws or make their own", "[generators_test]") {
  Generator generator(1);
  FlowMatching net(conditional(), generator);
  const Tensor x = randn({64, 2}, generator);
  const Tensor c = randn({64, 3}, generator);
  Generator a(5), b(5), other(6);
  const double drawn = net.loss(x, c, a).item();
  CHECK(net.loss(x, c, b).item() == drawn);
  CHECK(net.loss(x, c, other).item() != drawn);
  Generator again(5);
  const Tensor x0 = randn(x.shape(), again);
  const Tensor t = net.draw_times(64, again);
  CHECK(net.loss(x, c, other, x0, t).item() == drawn);
  CHECK(contains(raised<ShapeError>([&] { net.loss(x, c, a, slice(x0, 0, 0, 1)); }),
                 {"noise", "(1, 2)", "(64, 2)"}));
  CHECK(contains(raised<ShapeError>([&] { net.loss(x, c, a, x0, unsqueeze(t, 1)); }),
                 {"time", "(64, 1)", "(64,)"}));
}

TEST_CASE("laws of the training time", "[generators_test]") {
  Generator generator(1);
  FlowMatchingOptions o = conditional();
  const int64_t n = 100000;
  const Tensor uniform = FlowMatching(o, generator).draw_times(n, generator, DType::float64);
  o.time_law = TimeLaw::beta;
  const Tensor beta = FlowMatching(o, generator).draw_times(n, generator, DType::float64);
  CHECK(mean(uniform).item() == Catch::Approx(0.5).margin(0.004));
  // Beta(1.5, 1) has mean 0.6 and variance 0.06 / 0.875.
  CHECK(mean(beta).item() == Catch::Approx(0.999 * 0.4).margin(0.004));
  CHECK(var(beta).item() == Catch::Approx(0.999 * 0.999 * 0.0685714).margin(0.002));
  CHECK(min(beta).item() >= 0);
  CHECK(max(beta).item() <= 0.999);
}

TEST_CASE("whole rows of a condition are dropped", "[generators_test]") {
  Generator generator(1);
  const Tensor c = ones({20000, 3});
  const Tensor kept = sum(drop_condition(c, 0.2, generator), {1});
  int64_t zero = 0;
  for (const double v : kept.to_vector<double>()) {
    CHECK((v == 0 || v == 3));
    zero += v == 0;
  }
  CHECK(std::abs(static_cast<double>(zero) / 20000 - 0.2) < 0.015);
  CHECK(distance(drop_condition(c, 0, generator), c) == 0);
}

TEST_CASE("flow matching learns a Gaussian", "[generators_test]") {
  Generator generator(3);
  FlowMatchingOptions o;
  o.action_dim = 1;
  o.time_dim = 16;
  o.hidden = 32;
  o.time_scale = 10;
  FlowMatching net(o, generator);
  Adam optimizer({{net.parameters()}}, {.lr = 3e-3});
  for (int step = 0; step < 600; ++step) {
    optimizer.set_learning_rate(3e-3 * (1 - step / 600.0));
    optimizer.zero_grad();
    backward(net.loss(randn({256, 1}, generator) * 0.5 + 2.0, {}, generator));
    optimizer.step();
  }
  const Tensor x =
      net.generate(randn({4000, 1}, generator), {}, {.solver = {.solver = "rk4", .n_steps = 20}});
  CHECK(mean(x).item() == Catch::Approx(2).margin(0.05));
  CHECK(flowgrad::std(x).item() == Catch::Approx(0.5).margin(0.04));
}

TEST_CASE("noise schedules", "[generators_test]") {
  Generator generator(1);
  DiffusionOptions o;
  o.schedule = NoiseSchedule::linear;
  const DiffusionPolicy linear(o, generator, DType::float64);
  o.schedule = NoiseSchedule::squared_cosine;
  const DiffusionPolicy cosine(o, generator, DType::float64);
  CHECK(linear.alphas_cumprod().at({99}) == Catch::Approx(0.364).margin(5e-4));
  CHECK(mean(linear.alphas_cumprod()).item() == Catch::Approx(0.7418).margin(5e-5));
  CHECK(mean(cosine.alphas_cumprod()).item() == Catch::Approx(0.4911).margin(5e-5));
  CHECK(cosine.alphas_cumprod().at({99}) < 1e-5);
  const Tensor x = randn({3, 2}, generator, DType::float64);
  const Tensor t = Tensor::from(std::vector<int64_t>{0, 50, 99}, {3});
  const Tensor noisy = cosine.q_sample(x, t, zeros_like(x));
  CHECK(noisy.at({1, 0}) ==
        Catch::Approx(x.at({1, 0}) * std::sqrt(cosine.alphas_cumprod().at({50}))));
}

TEST_CASE("samplers of the diffusion policy", "[generators_test]") {
  Generator generator(1);
  DiffusionPolicy net(small_diffusion(), generator);
  const Tensor noise = randn({4, 2}, generator);
  const Tensor state = randn({1, 3}, generator);
  Generator a(5), b(5), c(6);
  const Tensor x = net.generate(noise, state, a);
  CHECK(distance(net.generate(noise, expand(state, {4, 3}), b), x) == 0);
  CHECK(distance(net.generate(noise, state, c), x) > 0);
  CHECK_FALSE(x.requires_grad());
  const Tensor y = net.generate(noise, state, a, {.ddim_steps = 5});
  CHECK(distance(net.generate(noise, state, c, {.ddim_steps = 5}), y) == 0);
  // With step numbers given, five equal strides of twelve steps end at these.
  CHECK(distance(net.generate(noise, state, c, {.ddim_timesteps = {11, 8, 6, 3, 1}}), y) == 0);

  const auto refused = [&](const DiffusionSampling& s) {
    return raised<ValueError>([&] { net.generate(noise, state, a, s); });
  };
  CHECK(contains(refused({.ddim_steps = 13}), {"13 DDIM steps", "1 to 12"}));
  CHECK(contains(refused({.ddim_timesteps = {3, 3}}), {"DDIM step 3", "position 1"}));
  CHECK(contains(refused({.ddim_steps = 5, .eta = 2}), {"eta = 2"}));
  CHECK(contains(refused({.clip = -1}), {"clip = -1"}));
  CHECK(contains(refused({.eta = 0.5}), {"eta = 0.5", "DDPM"}));
  CHECK(contains(refused({.ddim_steps = 5, .variance = StepVariance::beta}), {"variance", "DDIM"}));
  CHECK(contains(refused({.ddim_steps = 2, .ddim_timesteps = {11, 1}}), {"ddim_steps = 2"}));
  CHECK(contains(raised<ValueError>([&] { DiffusionPolicy({.state_dim = -1}, generator); }),
                 {"state_dim = -1"}));
  CHECK(contains(raised<ValueError>([&] { FlowMatching({.condition_dim = -1}, generator); }),
                 {"condition_dim = -1"}));
  CHECK(contains(raised<ShapeError>([&] { net.generate(noise, {}, a); }),
                 {"absent", "(4, 3) or (1, 3)"}));
  CHECK(contains(raised<ShapeError>([&] {
                   net.generate(noise, randn({2, 3}, generator), a);
                 }),
                 {"(2, 3)"}));
  CHECK(contains(raised<ShapeError>([&] { net.noise_prediction(noise, zeros({4}), state); }),
                 {"int64"}));
  CHECK(contains(raised<ValueError>([&] {
                   net.loss(noise, state, a, Tensor::from(std::vector<int64_t>{0, 1, 2, 12}, {4}));
                 }),
                 {"12"}));
  for (const int64_t bad : {-1, 12}) {
    const Tensor t = Tensor::from(std::vector<int64_t>{0, 1, bad, 2}, {4});
    CHECK(contains(raised<ValueError>([&] { net.noise_prediction(noise, t, state); }),
                   {"noise_prediction: step " + std::to_string(bad), "0 to 11"}));
  }
}
