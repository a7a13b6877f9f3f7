// Couplings and path noise of flow matching, reflow, distillation and consistency models.
#include "flowgrad/models/consistency.h"
#include "flowgrad/models/metrics.h"
#include "flowgrad/models/rectified.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;

namespace {

FlowMatchingOptions small_flow(NetKind net = NetKind::residual) {
  FlowMatchingOptions o;
  o.time_dim = 8;
  o.time_scale = 10;
  o.hidden = 32;
  o.net = net;
  return o;
}

/// Four modes around the origin.
Tensor modes(int64_t n, Generator& generator) {
  return rademacher({n, 2}, generator) * 1.5 + randn({n, 2}, generator) * 0.2;
}

void train(const NamedTensors& parameters, int steps, const std::function<Tensor(Generator&)>& loss,
           Ema* ema = nullptr) {
  Generator generator(21);
  Adam optimizer({{parameters}}, {.lr = 3e-3});
  for (int step = 0; step < steps; ++step) {
    optimizer.set_learning_rate(3e-3 * (1 - step / static_cast<double>(steps)));
    optimizer.zero_grad();
    backward(loss(generator));
    optimizer.step();
    if (ema) ema->update();
  }
}

GenerateOptions euler(int64_t steps) { return {.solver = {.solver = "euler", .n_steps = steps}}; }

}  // namespace

TEST_CASE("the plain network is an MLP with SELU on x, condition and time", "[one_step_test]") {
  Generator generator(1);
  FlowMatchingOptions o = small_flow(NetKind::mlp);
  o.condition_dim = 3;
  o.depth = 2;
  FlowMatching net(o, generator, DType::float64);
  const NamedTensors p = net.parameters();
  std::vector<std::string> names;
  for (const auto& [name, t] : p) names.push_back(name);
  CHECK(names == std::vector<std::string>{"velocity_net.0.weight", "velocity_net.0.bias",
                                          "velocity_net.2.weight", "velocity_net.2.bias",
                                          "velocity_net.4.weight", "velocity_net.4.bias"});
  const Tensor x = randn({5, 2}, generator, DType::float64);
  const Tensor c = randn({5, 3}, generator, DType::float64);
  const Tensor t = rand({5}, generator, DType::float64);
  // Klambauer et al. 2017: lambda x for x > 0, lambda alpha (e^x - 1) else.
  const auto by_hand = [](const Tensor& h) {
    return where(greater(h, 0), h, (exp(h) - 1.0) * 1.6732632423543772848170429916717) *
           1.0507009873554804934193349852946;
  };
  Tensor h = concat({x, c, unsqueeze(t, 1)}, 1);
  for (size_t i = 0; i < 6; i += 2) {
    h = linear(i == 0 ? h : by_hand(h), p[i].second, p[i + 1].second);
  }
  CHECK(distance(net.velocity(x, t, c), h) < 1e-14);
  // A solve prepares what depends on time and condition alone.
  const OdeOptions solver{.solver = "heun", .n_steps = 7};
  CHECK(distance(net.generate(x, c, {solver}), odeint(velocity_field(net, c), x, 0, 1, solver)) <
        1e-13);
  o.depth = 0;
  CHECK(contains(raised<ValueError>([&] { FlowMatching(o, generator); }), {"depth = 0"}));
}

TEST_CASE("the loss pairs drawn noise by its coupling, and given noise not at all",
          "[one_step_test]") {
  Generator weights(1);
  FlowMatchingOptions o = small_flow();
  FlowMatching independent(o, weights);
  o.coupling = Coupling::optimal;
  Generator again(1);
  FlowMatching paired(o, again);
  Generator data(2);
  const Tensor x1 = modes(64, data);
  Generator a(5), b(5), c(5);
  const Tensor x0 = randn({64, 2}, a);
  const Tensor t = independent.draw_times(64, a);
  CHECK(paired.loss(x1, {}, b).item() ==
        independent.loss(x1, {}, c, couple(x0, x1, Coupling::optimal, a), t).item());
  CHECK(paired.loss(x1, {}, b, x0, t).item() == independent.loss(x1, {}, c, x0, t).item());
}

TEST_CASE("path noise has the deviation asked for", "[one_step_test]") {
  // A network of zeros but for its first layer's x column would hide nothing: make it the identity.
  Generator weights(1);
  FlowMatchingOptions o = small_flow(NetKind::mlp);
  o.action_dim = 1;
  o.depth = 1;
  o.hidden = 1;
  o.sigma = 0.3;
  FlowMatching net(o, weights, DType::float64);
  {
    NoGrad off;
    for (const auto& [name, p] : net.parameters()) fill_(p, 0);
    // selu(x + 1000) is lambda (x + 1000): the last layer undoes it.
    const auto p = net.parameters();
    copy_(p[0].second, Tensor::from(std::vector<double>{1, 0}, {1, 2}));
    fill_(p[1].second, 1000);
    fill_(p[2].second, 1 / 1.0507009873554805);
    fill_(p[3].second, -1000);
  }
  // With x0 = x1 = 0 the target is 0, and the loss the variance of x_t.
  const int64_t n = 100000;
  Generator generator(3);
  const Tensor zero = zeros({n, 1}, DType::float64);
  CHECK(net.loss(zero, {}, generator, zero).item() ==
        Catch::Approx(0.09).margin(4 * 0.09 * std::sqrt(2.0 / n)));
  o.sigma = -1;
  CHECK(contains(raised<ValueError>([&] { FlowMatching(o, weights); }), {"sigma = -1"}));
}

TEST_CASE("reflow pairs are the teacher's, whatever the parts", "[one_step_test]") {
  Generator generator(1);
  FlowMatchingOptions o = small_flow();
  o.condition_dim = 3;
  FlowMatching teacher(o, generator);
  shake(teacher, 2, 0.5);
  const Tensor noise = randn({10, 2}, generator);
  const Tensor condition = randn({10, 3}, generator);
  const Pairs whole = reflow_pairs(teacher, noise, condition, euler(5));
  const auto off = [&](const Pairs& p) {
    return distance(p.x1, teacher.generate(p.x0, condition, euler(5)));
  };
  CHECK(off(whole) == 0);
  CHECK(off({randn({10, 2}, generator), whole.x1, condition}) > 0);  // planted: noise drawn anew
  CHECK(distance(reflow_pairs(teacher, noise, condition, euler(5), 3).x1, whole.x1) == 0);
  const Tensor one = slice(condition, 0, 0, 1);
  CHECK(distance(reflow_pairs(teacher, noise, one, euler(5), 4).x1,
                 teacher.generate(noise, one, euler(5))) == 0);
  const Pairs batch = draw_pairs(whole, 50, generator);
  CHECK(batch.x0.size(0) == 50);
  CHECK(distance(teacher.generate(batch.x0, batch.condition, euler(5)), batch.x1) < 1e-6);
  CHECK(contains(raised<ValueError>([&] {
                   draw_pairs({zeros({0, 2}), zeros({0, 2})}, 3, generator);
                 }),
                 {"no pairs"}));
  CHECK(contains(raised<ValueError>([&] { reflow_pairs(teacher, noise, one, euler(5), 0); }),
                 {"rows = 0"}));
}

TEST_CASE("distillation trains at the times of a k-step sampler", "[one_step_test]") {
  Generator generator(1);
  CHECK(sum(distillation_times(100, 1, generator)).item() == 0);
  const auto times = distillation_times(1000, 4, generator, DType::float64).to_vector<double>();
  std::array<int, 4> counts{};
  for (const double t : times) {
    const double place = 4 * t;
    REQUIRE((place == 0 || place == 1 || place == 2 || place == 3));
    ++counts[static_cast<size_t>(place)];
  }
  for (const int c : counts) CHECK(std::abs(c - 250) < 70);
  CHECK(contains(raised<ValueError>([&] { distillation_times(3, 0, generator); }), {"k = 0"}));
}

TEST_CASE("reflow straightens, and distillation makes one step do", "[one_step_test]") {
  Generator generator(1);
  FlowMatching teacher(small_flow(), generator), student(small_flow(), generator);
  train(teacher.parameters(), 1000,
        [&](Generator& g) { return teacher.loss(modes(256, g), {}, g); });
  const Tensor x0 = randn({500, 2}, generator);
  const Tensor x1 = modes(500, generator);
  const double bent = straightness(velocity_field(teacher), x0);
  const double best = wasserstein2(teacher.generate(x0), x1);
  const Pairs pairs = reflow_pairs(teacher, randn({8192, 2}, generator), {}, euler(50));
  student.load_state_dict(teacher.state_dict());
  train(student.parameters(), 800, [&](Generator& g) {
    const Pairs p = draw_pairs(pairs, 256, g);
    return student.loss(p.x1, {}, g, p.x0);
  });
  const double straight = straightness(velocity_field(student), x0);
  INFO("straightness " << bent << " -> " << straight);
  CHECK(straight < 0.3 * bent);
  // Planted: the pairs separated again, noise from one and data from another.
  FlowMatching separated(small_flow(), generator);
  separated.load_state_dict(teacher.state_dict());
  train(separated.parameters(), 100, [&](Generator& g) {
    const Pairs p = draw_pairs(pairs, 256, g);
    return separated.loss(p.x1, {}, g, draw_pairs(pairs, 256, g).x0);
  });
  CHECK_FALSE(straightness(velocity_field(separated), x0) < 0.3 * bent);
  CHECK(wasserstein2(student.generate(x0, {}, euler(1)), x1) <
        0.7 * wasserstein2(teacher.generate(x0, {}, euler(1)), x1));
  train(student.parameters(), 800, [&](Generator& g) {
    const Pairs p = draw_pairs(pairs, 256, g);
    return student.loss(p.x1, {}, g, p.x0, distillation_times(256, 1, g));
  });
  const double one = wasserstein2(student.generate(x0, {}, euler(1)), x1);
  INFO("W2 of the teacher " << best << ", of one step " << one);
  CHECK(one < 1.5 * best);
}

TEST_CASE("a consistency model is the identity at the data's end", "[one_step_test]") {
  Generator generator(1);
  for (const DType dtype : {DType::float32, DType::float64}) {
    ConsistencyOptions o{.network = small_flow().network()};
    o.network.condition_dim = 3;
    Consistency net(o, generator, dtype);
    shake(net, 3, 2);
    const Tensor x = randn({9, 2}, generator, dtype) * 10.0;
    const Tensor c = randn({9, 3}, generator, dtype);
    const auto off = [&](double end) {
      return distance(net.end_point(x, full({9}, end, dtype), c), x);
    };
    CHECK(off(1) == 0);
    CHECK(off(1 - 1e-6) > 0);  // planted: a boundary that c_out misses
    CHECK(off(0.5) > 1e-3);
  }
  CHECK(
      contains(raised<ValueError>([&] { Consistency({.scales = 0}, generator); }), {"scales = 0"}));
}

TEST_CASE("the consistency loss follows its formula", "[one_step_test]") {
  Generator generator(1);
  const FlowMatchingOptions o = small_flow();
  FlowMatching teacher(o, generator, DType::float64);
  Consistency net({.network = o.network(), .scales = 8}, generator, DType::float64);
  const Tensor x1 = randn({6, 2}, generator, DType::float64);
  const Tensor x0 = randn({6, 2}, generator, DType::float64);
  const Tensor s = Tensor::from(std::vector<double>{0, 1, 3, 4, 6, 7}, {6}) / 8.0;
  Ema target(net.parameters(), 0.9);
  shake(net, 5, 0.3);  // the target keeps the old weights
  for (const bool distil : {false, true}) {
    for (const bool averaged : {false, true}) {
      const ConsistencyStep step{.teacher = distil ? &teacher : nullptr,
                                 .target = averaged ? &target : nullptr};
      const Tensor loss = net.loss(x1, {}, generator, step, x0, s);
      NoGrad off;
      const Tensor v = x1 - x0;
      const Tensor x = x0 + unsqueeze(s, 1) * v;
      const Tensor r = s + 0.125;
      Tensor next = x + v * 0.125;
      if (distil) {
        const Tensor k1 = teacher.velocity(x, s);
        next = x + (k1 + teacher.velocity(x + k1 * 0.125, r)) * (0.125 / 2);
      }
      Tensor wanted;
      {
        const EmaScope scope(averaged ? &target : nullptr);
        wanted = net.end_point(next, r);
      }
      CHECK(loss.item() ==
            Catch::Approx(mean(square(net.end_point(x, s) - wanted)).item()).epsilon(1e-13));
    }
  }
  // The gradient is that with the target held fixed; the teacher gets none.
  const auto value = [&] { return net.loss(x1, {}, generator, {&teacher, &target}, x0, s); };
  backward(value());
  for (const auto& [name, p] : teacher.parameters()) CHECK_FALSE(p.grad().defined());
  for (const auto& [name, p] : net.parameters()) {
    NoGrad off;
    const double own = flatten(p.grad()).at({0});
    const Tensor before = clone(p.detach());
    const Tensor unit =
        reshape(cast(equal(arange(0, static_cast<double>(p.numel()), 1, DType::float64), 0),
                     DType::float64),
                p.shape());
    const double h = 1e-5;
    copy_(p, before + unit * h);
    const double up = value().item();
    copy_(p, before - unit * h);
    const double down = value().item();
    copy_(p, before);
    INFO(name);
    CHECK(own == Catch::Approx((up - down) / (2 * h)).epsilon(1e-5).margin(1e-9));
  }
  CHECK(contains(raised<ShapeError>([&] { net.loss(x1, {}, generator, {}, x0, x1); }),
                 {"time", "(6, 2)"}));
  // A curriculum may change the scales; the last time is 1 for any number of them.
  const Tensor last = full({6}, 1 - 1.0 / 3, DType::float64);
  CHECK(std::isfinite(net.loss(x1, {}, generator, {.scales = 3}, x0, last).item()));
}

TEST_CASE("consistency sampling: one step needs no generator, more mix fresh noise in",
          "[one_step_test]") {
  Generator weights(1);
  Consistency net({.network = small_flow().network()}, weights, DType::float64);
  shake(net, 2, 0.3);
  const Tensor noise = randn({5, 2}, weights, DType::float64);
  Generator a(9), b(9);
  const Tensor one = net.generate(noise, {}, a);
  CHECK(a.stream() == 0);
  CHECK_FALSE(one.requires_grad());
  CHECK(distance(one, net.end_point(noise, zeros({5}, DType::float64))) == 0);
  const Tensor fresh = randn({5, 2}, b, DType::float64);
  CHECK(distance(net.generate(noise, {}, a, 2),
                 net.end_point((fresh + one) * 0.5, full({5}, 0.5, DType::float64))) < 1e-14);
  CHECK(contains(raised<ValueError>([&] { net.generate(noise, {}, a, 0); }), {"n_steps = 0"}));
}

TEST_CASE("consistency training and distillation sample in one step", "[one_step_test]") {
  Generator generator(1);
  const FlowMatchingOptions o = small_flow();
  FlowMatching teacher(o, generator);
  train(teacher.parameters(), 1000,
        [&](Generator& g) { return teacher.loss(modes(256, g), {}, g); });
  const Tensor x0 = randn({500, 2}, generator);
  const Tensor x1 = modes(500, generator);
  const double best = wasserstein2(teacher.generate(x0), x1);
  const double plain = wasserstein2(teacher.generate(x0, {}, euler(1)), x1);

  Consistency distilled({.network = o.network(), .scales = 16}, generator);
  distilled.load_state_dict(teacher.state_dict());
  Ema target(distilled.parameters(), 0.95);
  train(
      distilled.parameters(), 1500,
      [&](Generator& g) {
        return distilled.loss(modes(256, g), {}, g, {.teacher = &teacher, .target = &target});
      },
      &target);
  const double one = wasserstein2(distilled.generate(x0, {}, generator), x1);
  INFO("W2 of the teacher " << best << ", of its single step " << plain << ", distilled " << one);
  CHECK(one < 0.6 * plain);

  Consistency trained({.network = o.network(), .scales = 8, .coupling = Coupling::optimal},
                      generator);
  train(trained.parameters(), 1500,
        [&](Generator& g) { return trained.loss(modes(128, g), {}, g); });
  const double alone = wasserstein2(trained.generate(x0, {}, generator), x1);
  INFO("trained alone " << alone);
  CHECK(alone < 0.6 * plain);
}
