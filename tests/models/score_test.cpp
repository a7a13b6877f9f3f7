// Gaussian paths, what networks may predict on them, and the score model.
#include "flowgrad/models/score.h"

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

const std::vector<PathKind> kKinds = {PathKind::linear, PathKind::cosine, PathKind::vp};
const std::vector<Prediction> kPredictions = {Prediction::score, Prediction::velocity,
                                              Prediction::noise, Prediction::data};

ScoreOptions small_score() {
  ScoreOptions o;
  o.network.time_dim = 16;
  o.network.time_scale = 10;
  o.network.hidden = 24;
  return o;
}

}  // namespace

TEST_CASE("coefficients of the paths: ends, derivatives, signal-to-noise", "[score_test]") {
  for (const PathKind kind : kKinds) {
    const GaussianPath path(kind);
    const Tensor t = linspace(0.02, 0.98, 25, DType::float64);
    const auto c = path.at(t);
    for (const bool alpha : {true, false}) {
      const Function f = [&](const Tensor& x) {
        return sum(alpha ? path.at(x).alpha : path.at(x).sigma);
      };
      const Tensor slope = value_and_grad(f, t).derivative;
      CHECK(distance(slope, alpha ? c.d_alpha : c.d_sigma) < 1e-10);
      CHECK(distance(slope, alpha ? -c.d_alpha : -c.d_sigma) >
            1e-10);  // planted: in diffusion time
    }
    const auto off = [&](const GaussianPath& back) {
      return distance(back.snr_inverse(path.snr(t)), t);
    };
    CHECK(off(path) < 1e-10);
    CHECK(off(GaussianPath(PathKind::vp, 0.1, 20.1)) > 1e-10);  // planted: another schedule's
    CHECK(all(greater(slice(path.snr(t), 0, 1, 25), slice(path.snr(t), 0, 0, 24))).item() == 1);
    if (kind != PathKind::linear)
      CHECK(distance(square(c.alpha) + square(c.sigma), ones_like(t)) < 1e-14);
    const auto ends = path.at(tensor({0, 1}, DType::float64));
    CHECK(ends.alpha.at({0}) < 0.007);
    CHECK(ends.sigma.at({0}) == Catch::Approx(1).margin(3e-5));
    CHECK(ends.alpha.at({1}) == 1);
    CHECK(std::abs(ends.sigma.at({1})) < 1e-15);
  }
  // Song et al. 2021, equation 33: alpha = exp(-tau^2 (20 - 0.1) / 4 - 0.1 tau / 2).
  const auto vp = GaussianPath(PathKind::vp).at(tensor({0, 0.4}, DType::float64));
  CHECK(vp.alpha.at({0}) == Catch::Approx(std::exp(-19.9 / 4 - 0.05)).epsilon(1e-14));
  CHECK(vp.alpha.at({1}) == Catch::Approx(std::exp(-0.36 * 19.9 / 4 - 0.03)).epsilon(1e-14));
  CHECK(contains(raised<ValueError>([] { GaussianPath(PathKind::vp, 3, 2); }),
                 {"beta_min = 3", "beta_max = 2"}));
}

TEST_CASE("predictions turn into each other and back", "[score_test]") {
  Generator generator(1);
  const Tensor x = randn({9, 3}, generator, DType::float64);
  const Tensor p = randn({9, 3}, generator, DType::float64);
  const Tensor t = linspace(0.1, 0.9, 9, DType::float64);
  using Conversion = std::function<Tensor(const Tensor&, Prediction, Prediction)>;
  for (const PathKind kind : kKinds) {
    const GaussianPath path(kind);
    const auto error = [&](Prediction from, Prediction to, const Conversion& there) {
      return distance(convert(there(p, from, to), to, from, x, t, path), p);
    };
    const Conversion right = [&](const Tensor& q, Prediction from, Prediction to) {
      return convert(q, from, to, x, t, path);
    };
    // Planted: the sign of sigma's derivative, which noise and data do not read.
    const Conversion wrong = [&](const Tensor& q, Prediction from, Prediction to) {
      if (to != Prediction::velocity) return right(q, from, to);
      const auto c = path.at(unsqueeze(t, 1));
      return c.d_alpha * right(q, from, Prediction::data) -
             c.d_sigma * right(q, from, Prediction::noise);
    };
    for (const Prediction from : kPredictions) {
      for (const Prediction to : kPredictions) {
        INFO(static_cast<int>(kind) << " " << static_cast<int>(from) << static_cast<int>(to));
        CHECK(error(from, to, right) < 1e-12);
        if (to == Prediction::velocity && from != to) CHECK(error(from, to, wrong) > 1e-12);
      }
    }
    // One time serves all rows.
    const Tensor one = slice(t, 0, 4, 5);
    CHECK(distance(
              convert(p, Prediction::noise, Prediction::velocity, x, one, path),
              convert(p, Prediction::noise, Prediction::velocity, x, expand(one, {9}), path)) == 0);
  }
  CHECK(contains(raised<ShapeError>([&] {
                   convert(p, Prediction::data, Prediction::noise, x, slice(t, 0, 0, 3),
                           GaussianPath());
                 }),
                 {"(9, 3)", "(3,)"}));
  CHECK(gradcheck(
      [&](std::span<const Tensor> in) {
        return std::vector<Tensor>{convert(in[0], Prediction::velocity, Prediction::score, in[1],
                                           in[2], GaussianPath(PathKind::vp))};
      },
      std::vector<Tensor>{p, x, t}));
}

TEST_CASE("conversions hold for Gaussian data, where all four are known", "[score_test]") {
  Generator generator(2);
  const double mu = 1.5, s = 0.4;
  const Tensor x = randn({7, 1}, generator, DType::float64) * 2.0;
  const Tensor t = linspace(0.05, 0.95, 7, DType::float64);
  for (const PathKind kind : kKinds) {
    const GaussianPath path(kind);
    const auto c = path.at(unsqueeze(t, 1));
    const Tensor variance = square(c.alpha * s) + square(c.sigma);
    const Tensor centred = x - c.alpha * mu;
    const std::vector<Tensor> exact = {
        -centred / variance,
        c.d_alpha * mu + (c.d_alpha * c.alpha * (s * s) + c.d_sigma * c.sigma) / variance * centred,
        c.sigma * centred / variance, c.alpha * (s * s) / variance * centred + mu};
    for (size_t i = 0; i < 4; ++i) {
      for (size_t j = 0; j < 4; ++j) {
        CHECK(distance(convert(exact[i], kPredictions[i], kPredictions[j], x, t, path), exact[j]) <
              1e-10);
      }
    }
  }
}

TEST_CASE("the score model's loss and predictions follow their formulas", "[score_test]") {
  Generator generator(3);
  ScoreOptions o = small_score();
  o.network.condition_dim = 2;
  ScoreModel net(o, generator, DType::float64);
  const Tensor x1 = randn({6, 2}, generator, DType::float64);
  const Tensor noise = randn({6, 2}, generator, DType::float64);
  const Tensor condition = randn({6, 2}, generator, DType::float64);
  const Tensor t = linspace(0.1, 0.9, 6, DType::float64);
  const auto c = net.path().at(unsqueeze(t, 1));
  const Tensor x = c.alpha * x1 + c.sigma * noise;
  const Tensor predicted = net.noise_prediction(x, t, condition);
  CHECK(net.loss(x1, condition, generator, noise, t).item() ==
        Catch::Approx(mean(square(predicted - noise)).item()).epsilon(1e-14));
  CHECK(distance(net.score(x, t, condition) * c.sigma, -predicted) < 1e-13);
  // dx/dt of the probability flow, diffusion time running backwards: 1/2 beta (x + score).
  const Tensor beta = (1.0 - unsqueeze(t, 1)) * 19.9 + 0.1;
  CHECK(distance(net.velocity(x, t, condition), beta * 0.5 * (x + net.score(x, t, condition))) <
        1e-10);
  // Guidance acts on the noise as on the velocity.
  const OdeOptions solver{.solver = "heun", .n_steps = 5};
  const auto guided = [&](double time, const Tensor& y) {
    const Tensor at = full({6}, time, DType::float64);
    const Tensor without = net.velocity(y, at, zeros_like(condition));
    return without + (net.velocity(y, at, condition) - without) * 2.0;
  };
  CHECK(distance(net.generate(noise, condition, {solver, 2}),
                 odeint(guided, noise, 0, o.end_time, solver)) < 1e-12);
  CHECK(contains(raised<ShapeError>([&] { net.loss(x1, condition, generator, noise, x1); }),
                 {"time", "(6, 2)", "(6,)"}));
  o.network.condition_dim = 0;
  ScoreModel plain(o, generator);
  CHECK(contains(raised<ValueError>([&] {
                   plain.generate(zeros({2, 2}), {}, {.guidance = 2});
                 }),
                 {"guidance = 2"}));
  o.end_time = 1;
  CHECK(contains(raised<ValueError>([&] { ScoreModel(o, generator); }), {"end_time = 1"}));
}

TEST_CASE("denoising score matching learns two modes", "[score_test]") {
  Generator generator(4);
  ScoreOptions o = small_score();
  o.network.action_dim = 1;
  o.network.hidden = 64;
  ScoreModel net(o, generator);
  Adam optimizer({{net.parameters()}}, {.lr = 3e-3});
  const auto data = [&](int64_t n) {
    return (bernoulli({n, 1}, 0.25, generator) * 2.0 - 1.0) + randn({n, 1}, generator) * 0.3;
  };
  for (int step = 0; step < 800; ++step) {
    optimizer.set_learning_rate(3e-3 * (1 - step / 800.0));
    optimizer.zero_grad();
    backward(net.loss(data(512), {}, generator));
    optimizer.step();
  }
  const Tensor x = net.generate(randn({4000, 1}, generator));
  const Tensor right = cast(greater(x, 0), DType::float32);
  CHECK(mean(right).item() == Catch::Approx(0.25).margin(0.04));
  CHECK(mean(x).item() == Catch::Approx(-0.5).margin(0.08));
  CHECK(flowgrad::std(abs(x)).item() == Catch::Approx(0.3).margin(0.05));
}
