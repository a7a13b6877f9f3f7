// Inpainting of a flow, and real-time chunking with it: closed forms, finite differences, how
// closely what is known is met, and what is refused.
#include "flowgrad/models/inpainting.h"

#include <cmath>

#include "small_policy.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

constexpr DType kDouble = DType::float64;

Tensor normals(const Shape& shape, uint64_t seed, DType dtype = kDouble) {
  Generator generator(seed);
  return randn(shape, generator, dtype);
}

/// Rows of a stationary process with correlation 0.9 from one number to the next.
constexpr int64_t kSize = 8;
Tensor covariance() {
  std::vector<double> s;
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j < kSize; ++j) s.push_back(std::pow(0.9, std::abs(i - j)));
  return Tensor::from(s, {kSize, kSize}, kDouble);
}

/// The exact velocity of its flow, (E[x1 | x] - x) / (1 - t), E[x1 | x] = t S (t^2 S + (1 - t)^2
/// I)^-1 x. The inverse is a Neumann series of (I - c M), which converges for c below 2 / |M|.
Tensor velocity(double t, const Tensor& x) {
  const Tensor s = covariance();
  const Tensor one = eye(kSize, kDouble);
  const Tensor m = s * (t * t) + one * ((1 - t) * (1 - t));
  const double c = 1 / (kSize * t * t + (1 - t) * (1 - t));
  Tensor power = one - m * c;
  Tensor inverse = one + power;  // (I + P)(I + P^2)(I + P^4)... = (I - P)^-1
  for (int i = 0; i < 14; ++i) {
    power = matmul(power, power);
    inverse = matmul(inverse, one + power);
  }
  return (matmul(x, matmul(s, inverse) * (c * t)) - x) / (1 - t);
}

RobotPolicyOptions small_painter(HeadKind head = HeadKind::flow) {
  return testing::small_policy(head, 6);
}

PolicyObservation seen_by(int64_t rows, DType dtype = kDouble) {
  PolicyObservation seen;
  seen.state = normals({rows, 4}, 21, dtype);
  seen.robot = normals({rows, 2}, 22, dtype);
  return seen;
}

std::unique_ptr<RobotPolicy> fitted_painter(const RobotPolicyOptions& o, DType dtype = kDouble) {
  Generator generator(3);
  auto policy = std::make_unique<RobotPolicy>(o, generator, dtype);
  const PolicyObservation seen = seen_by(100, dtype);
  policy->fit_statistics(seen,
                         unsqueeze(seen.robot, 1) + normals({100, 6, 2}, 5, dtype) * 0.1 + 0.02);
  flowgrad::testing::shake(*policy, 6, 0.5);
  return policy;
}

PolicyObservation row_of(const PolicyObservation& seen, int64_t i) {
  PolicyObservation one;
  one.state = slice(seen.state, 0, i, i + 1);
  one.robot = slice(seen.robot, 0, i, i + 1);
  return one;
}

}  // namespace

TEST_CASE("the gain follows its formula and is held at both ends", "[inpainting_test]") {
  CHECK(inpainting_gain(0, 5) == 5);
  CHECK(inpainting_gain(1, 5) == 5);
  CHECK(inpainting_gain(0.01, 5) == 5);
  CHECK(inpainting_gain(0.5, 5) == Catch::Approx(2.0));
  const double t = 0.3;
  const double r2 = 0.49 / (0.09 + 0.49);
  CHECK(inpainting_gain(t, 5) == Catch::Approx(0.7 / (t * r2)));
  CHECK(inpainting_gain(t, 0) == 0);
}

TEST_CASE("weights of a chunk are those of the paper", "[inpainting_test]") {
  // Horizon 8, 2 steps late, 3 executed: 5 shared, of which 2 are fixed; c = 3/4, 2/4, 1/4.
  const auto w = realtime_weights(8, 2, 3);
  const double e = std::exp(1.0) - 1;
  const std::vector<double> wanted = {1,
                                      1,
                                      0.75 * (std::exp(0.75) - 1) / e,
                                      0.50 * (std::exp(0.50) - 1) / e,
                                      0.25 * (std::exp(0.25) - 1) / e,
                                      0,
                                      0,
                                      0};
  REQUIRE(w.size() == wanted.size());
  for (size_t i = 0; i < w.size(); ++i) CHECK(w[i] == Catch::Approx(wanted[i]).epsilon(1e-14));
  CHECK(realtime_weights(4, 4, 0) == std::vector<double>(4, 1.0));
  CHECK(realtime_weights(4, 0, 4) == std::vector<double>(4, 0.0));
  for (const auto& [h, d, s] : std::vector<std::array<int64_t, 3>>{
           {8, 4, 5}, {8, -1, 5}, {8, 1, -1}, {0, 0, 0}, {4, 0, 5}}) {
    CHECK(contains(raised<ValueError>([&, h = h, d = d, s = s] { realtime_weights(h, d, s); }),
                   {"horizon", "delay", "execute"}));
  }
}

TEST_CASE("the pull on a linear field is its closed form", "[inpainting_test]") {
  // v = x A + b with an A that is not symmetric, so that J and its transpose differ.
  const Tensor a = normals({3, 3}, 1);
  const Tensor b = normals({3}, 2);
  const Tensor x = normals({4, 3}, 3);
  const Inpainting known{normals({4, 3}, 4), tensor({1.0, 0.25, 0.0}, kDouble), 5};
  const VelocityField field = [&](double t, const Tensor& at) {
    return matmul(at, a) * (1 + t) + b;
  };
  for (const double t : {0.0, 0.3, 0.8}) {
    const Tensor v = matmul(x, a) * (1 + t) + b;
    const Tensor error = (known.target - x - v * (1 - t)) * known.weight;
    // x1 = x (I + (1 - t) (1 + t) A) + ...: of rows, the cotangent goes through the transpose.
    const Tensor j = eye(3, kDouble) + a * ((1 - t) * (1 + t));
    const Tensor wanted = v + matmul(error, transpose(j, 0, 1)) * inpainting_gain(t, 5);
    const Tensor got = inpainted(field, known)(t, x);
    CHECK(distance(got, wanted) < 1e-13);
    CHECK_FALSE(got.requires_grad());
  }
}

TEST_CASE("the pull on a network is the downhill gradient by finite differences",
          "[inpainting_test]") {
  Generator generator(7);
  FlowMatching net(
      {.condition_dim = 2, .action_dim = 3, .time_dim = 8, .time_scale = 10, .hidden = 16},
      generator, kDouble);
  flowgrad::testing::shake(net, 8, 0.5);
  const Tensor condition = normals({1, 2}, 9);
  const VelocityField field = velocity_field(net, condition);
  const Tensor x = normals({1, 3}, 10);
  const Inpainting known{normals({1, 3}, 11), tensor({1.0, 0.5, 0.0}, kDouble), 3};
  const double t = 0.4;
  NoGrad off;
  // Of half the weighted squared distance between the target and where the path is seen to end.
  const auto cost = [&](const Tensor& at) {
    return 0.5 * sum(square(known.target - at - field(t, at) * (1 - t)) * known.weight).item();
  };
  std::vector<double> slope;
  constexpr double h = 1e-5;
  for (int64_t i = 0; i < 3; ++i) {
    std::vector<double> step(3, 0.0);
    step[static_cast<size_t>(i)] = h;
    const Tensor d = Tensor::from(step, {1, 3}, kDouble);
    slope.push_back((cost(x + d) - cost(x - d)) / (2 * h));
  }
  const Tensor wanted =
      field(t, x) - Tensor::from(slope, {1, 3}, kDouble) * inpainting_gain(t, known.beta);
  CHECK(distance(inpainted(field, known)(t, x), wanted) < 1e-8);
}

TEST_CASE("what is known is met, and the rest follows it", "[inpainting_test]") {
  const int64_t n = 500;
  const Tensor y = expand(tensor({1.2, 1.0, 1.4, 1.5, 1.1, 0.9, 1.0, 0.8}, kDouble), {n, kSize});
  const OdeOptions solver{.solver = "euler", .n_steps = 10};
  const auto solve = [&](const std::vector<double>& weight, double beta) {
    const Inpainting known{y, Tensor::from(weight, {kSize}, kDouble), beta};
    return odeint(inpainted(velocity, known), normals({n, kSize}, 12), 0, 1, solver);
  };
  const auto rms = [&](const Tensor& x, int64_t columns) {
    return std::sqrt(mean(square(slice(x - y, 1, 0, columns))).item());
  };
  const std::vector<double> first = {1, 1, 1, 0, 0, 0, 0, 0};
  const Tensor free = solve(first, 0);
  const Tensor held = solve(first, 10);
  CHECK(rms(free, 3) > 0.9);
  CHECK(rms(solve(first, 5), 3) < 0.15);
  CHECK(rms(held, 3) < 0.04);
  CHECK(rms(solve(std::vector<double>(kSize, 1.0), 10), kSize) < 0.04);
  // By the Markov property the mean of the next number is 0.9 of the last that is known, 1.26; the
  // guidance is approximate, and the free flow has 0 there.
  const double next = mean(select(held, 1, 3)).item();
  CHECK(next == Catch::Approx(1.26).margin(0.2));
  CHECK(std::abs(mean(select(free, 1, 3)).item()) < 0.2);
  // Weights of zero leave the field as it is.
  CHECK(distance(solve(std::vector<double>(kSize, 0.0), 5), free) < 1e-14);
}

TEST_CASE("a policy goes on from the chunk under way, in the world's units", "[inpainting_test]") {
  for (const bool relative : {true, false}) {
    INFO(relative);
    RobotPolicyOptions o = small_painter();
    o.relative = relative;
    const auto policy = fitted_painter(o);
    const PolicyObservation seen = seen_by(3);
    const Tensor noise = normals({3, 1, 12}, 13);
    // What the policy itself might say for other noise: something that its flow can reach.
    const Tensor before = policy->generate(seen, normals({3, 1, 12}, 14), {.n_steps = 50});
    const Tensor plain = policy->generate(seen, noise, {.n_steps = 50});
    const Tensor guided = policy->generate(
        seen, noise, {.n_steps = 50}, {.actions = before, .delay = 4, .execute = 2, .beta = 50});
    const auto gap = [&](const Tensor& x) { return mean(abs(slice(x - before, 1, 0, 4))).item(); };
    CHECK(gap(guided) < 0.05 * gap(plain));
    // Beta 0 is no guidance at all, bit for bit.
    const Tensor none = policy->generate(seen, noise, {.n_steps = 50},
                                         {.actions = before, .delay = 4, .execute = 2, .beta = 0});
    CHECK(none.to_vector<double>() == plain.to_vector<double>());
  }
}

TEST_CASE("a chunk far from what demonstrations span guides no further than their edge",
          "[inpainting_test]") {
  const auto policy = fitted_painter(small_painter());
  const PolicyObservation seen = seen_by(3);
  const Tensor noise = normals({3, 1, 12}, 13);
  const auto towards = [&](double far) {
    const Tensor before = expand(unsqueeze(seen.robot, 1) + far, {3, 6, 2});
    return policy->generate(seen, noise, {}, {.actions = before, .delay = 1, .execute = 3});
  };
  CHECK(distance(towards(1e6), towards(1e3)) == 0);
  CHECK(distance(towards(1e6), towards(-1e6)) > 1e-3);
  CHECK(max(abs(towards(1e6))).item() < 100);
}

TEST_CASE("a row that goes on depends on its own row alone, with the same bits on a rerun",
          "[inpainting_test]") {
  for (const DType dtype : {DType::float32, kDouble}) {
    const auto policy = fitted_painter(small_painter(), dtype);
    const PolicyObservation seen = seen_by(5, dtype);
    const Tensor noise = normals({5, 1, 12}, 13, dtype);
    const Tensor before = unsqueeze(seen.robot, 1) + normals({5, 6, 2}, 15, dtype) * 0.1;
    const auto run = [&](const PolicyObservation& s, const Tensor& n, const Tensor& b) {
      return policy->generate(s, n, {}, {.actions = b, .delay = 1, .execute = 3});
    };
    const Tensor all = run(seen, noise, before);
    CHECK(all.dtype() == dtype);
    CHECK_FALSE(all.requires_grad());
    CHECK(distance(run(seen, noise, before), all) == 0);
    for (int64_t i = 0; i < 5; ++i) {
      const auto part = [i](const Tensor& t) { return contiguous(slice(t, 0, i, i + 1)); };
      CHECK(distance(run(row_of(seen, i), part(noise), part(before)), part(all)) == 0);
    }
    PolicyObservation nobody = seen;
    nobody.state = slice(seen.state, 0, 0, 0);
    nobody.robot = slice(seen.robot, 0, 0, 0);
    CHECK(run(nobody, slice(noise, 0, 0, 0), slice(before, 0, 0, 0)).shape() == Shape{0, 6, 2});
  }
}

TEST_CASE("inpainting says what it does not accept", "[inpainting_test]") {
  const PolicyObservation seen = seen_by(2);
  const Tensor before = normals({2, 6, 2}, 16);
  for (const HeadKind kind :
       {HeadKind::diffusion, HeadKind::regression, HeadKind::cvae, HeadKind::mip}) {
    const auto policy = fitted_painter(small_painter(kind));
    const Shape row = policy->noise_shape();
    const Tensor noise = normals({2, row[0], row[1]}, 17);
    CHECK(contains(raised<ValueError>([&] {
                     policy->generate(seen, noise, {}, {.actions = before, .execute = 3});
                   }),
                   {"inpainting", "the flow head accepts it"}));
  }
  const auto policy = fitted_painter(small_painter());
  const Tensor noise = normals({2, 1, 12}, 17);
  const auto refused = [&](const ChunkUnderWay& c) {
    return raised<Error>([&] { policy->generate(seen, noise, {}, c); });
  };
  CHECK(contains(refused({.actions = normals({2, 5, 2}, 1), .execute = 3}),
                 {"chunks of shape (2, 5, 2)", "(N, 6, 2)"}));
  CHECK(contains(refused({.actions = before, .delay = 4, .execute = 3}),
                 {"delay = 4", "execute = 3"}));
  CHECK(contains(refused({.actions = before, .execute = 3, .beta = -1}), {"beta = -1"}));
  CHECK(contains(refused({.actions = before, .execute = 3, .beta = std::nan("")}), {"beta = nan"}));
  ActionHead& head = policy->head();
  const Tensor feature = zeros({2, head.options().feature_dim}, kDouble);
  const auto shape = [&](const Inpainting& known) {
    return raised<ShapeError>([&] { head.generate(feature, noise, {.inpainting = known}); });
  };
  const Tensor target = zeros({2, 12}, kDouble);
  CHECK(contains(shape({.target = zeros({1, 12}, kDouble), .weight = ones({12}, kDouble)}),
                 {"target", "(1, 12)", "(2, 12)"}));
  CHECK(contains(shape({.target = target}), {"weight absent"}));
  CHECK(contains(shape({.target = target, .weight = ones({2}, kDouble)}),
                 {"weight (2,)", "(2, 12)", "(12,)"}));
}
