// Fixed-step solvers and the continuous flow built on them.
#include "flowgrad/models/ode.h"

#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/cnf.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;
using V = std::vector<double>;

namespace {

/// y' = A(t) y with A(s), A(t) not commuting and not symmetric.
Tensor rotating(double t, const Tensor& y) {
  const Tensor a =
      Tensor::from(V{0.3 * t, 1 + t, std::sin(3 * t), -2, -0.5, t * t, 0.7, -t, 0.2}, {3, 3});
  return matmul(y, transpose(a));
}

/// Slope of log error against log step, between n and 4 n steps.
double order_of(const std::function<Tensor(int64_t n)>& solve, const Tensor& exact, int64_t n) {
  return std::log(distance(solve(n), exact) / distance(solve(4 * n), exact)) / std::log(4.0);
}

std::unique_ptr<ContinuousNormalizingFlow> small_cnf(Trace trace, Probe probe = Probe::rademacher) {
  CNFOptions o;
  o.dim = 3;
  o.hidden = 8;
  o.trace = trace;
  o.probe = probe;
  Generator generator(3);
  auto flow = std::make_unique<ContinuousNormalizingFlow>(o, generator, DType::float64);
  shake(*flow, 4, 0.8);
  return flow;
}

}  // namespace

TEST_CASE("solvers have their orders in both directions", "[ode_test]") {
  const Tensor y0 = Tensor::from(V{1, -0.5, 2, 0.1, 0.2, 0.3}, {2, 3});
  for (const bool reverse : {false, true}) {
    const double t0 = reverse ? 1 : 0;
    const double t1 = 1 - t0;
    const Tensor exact = odeint(rotating, y0, t0, t1, {.solver = "rk4", .n_steps = 4096});
    const auto slope = [&](const char* solver) {
      return order_of(
          [&](int64_t n) { return odeint(rotating, y0, t0, t1, {.solver = solver, .n_steps = n}); },
          exact, 32);
    };
    CHECK(std::abs(slope("euler") - 1) < 0.1);
    CHECK(std::abs(slope("midpoint") - 2) < 0.15);
    CHECK(std::abs(slope("heun") - 2) < 0.15);
    CHECK(std::abs(slope("rk4") - 4) < 0.2);
    CHECK(std::abs(order_of(
                       [&](int64_t n) {
                         return odeint(rotating, y0, t0, t1,
                                       {.solver = "dopri5_fixed", .n_steps = n});
                       },
                       exact, 8) -
                   5) < 0.3);
  }
}

TEST_CASE("the edges of odeint", "[ode_test]") {
  const Tensor y0 = Tensor::from(V{1, 2, 3}, {1, 3});
  CHECK(odeint(rotating, y0, 0.4, 0.4, {.solver = "rk4", .n_steps = 3}).same_as(y0));
  CHECK(contains(
      raised<ValueError>([&] { odeint(rotating, y0, 0, 1, {.solver = "dopri8", .n_steps = 3}); }),
      {"dopri8", "euler, midpoint, heun, rk4, dopri5_fixed, dopri5"}));
  CHECK(contains(
      raised<ValueError>([&] { odeint(rotating, y0, 0, 1, {.solver = "rk4", .n_steps = 0}); }),
      {"n_steps = 0", "at least 1"}));
  CHECK(contains(raised<ShapeError>([&] {
                   odeint([](double, const OdeState&) { return OdeState{}; }, OdeState{y0}, 0, 1);
                 }),
                 {"0 tensors", "a state of 1"}));
  for (const std::string& solver : fixed_step_solvers()) {
    std::vector<double> seen;
    const OdeOptions options{.solver = solver, .n_steps = 3};
    odeint([&](double t, const Tensor& y) { return seen.push_back(t), y; }, y0, 1, 0, options);
    CHECK(seen == field_times(1, 0, options));
  }
}

TEST_CASE("states of several tensors, and integrals", "[ode_test]") {
  // Position and velocity of an oscillator, and the integral of position over time.
  const OdeField oscillator = [](double, const OdeState& y) { return OdeState{y[1], -y[0], y[0]}; };
  const OdeState start{ones({2}, DType::float64), zeros({2}, DType::float64),
                       zeros({2}, DType::float64)};
  for (const int64_t integrals : {0, 1}) {
    const OdeState end =
        odeint(oscillator, start, 0, 2, {.solver = "rk4", .n_steps = 200, .integrals = integrals});
    CHECK(end[0].at({0}) == Catch::Approx(std::cos(2.0)).epsilon(1e-9));
    CHECK(end[1].at({0}) == Catch::Approx(-std::sin(2.0)).epsilon(1e-9));
    CHECK(end[2].at({1}) == Catch::Approx(std::sin(2.0)).epsilon(1e-9));
  }
}

TEST_CASE("checkpointed steps give the same gradients", "[ode_test]") {
  Generator generator(1);
  const Tensor w = randn({3, 3}, generator, DType::float64).requires_grad_();
  const Tensor y0 = randn({2, 3}, generator, DType::float64).requires_grad_();
  std::vector<std::vector<Tensor>> gradients;
  for (const bool on : {false, true}) {
    Tensor loss;
    {
      // The field is gone when the backward pass runs it again.
      const auto field = [w](double t, const Tensor& y) { return tanh(matmul(y, w) + t); };
      loss =
          sum(square(odeint(field, y0, 0, 1,
                            {.solver = "rk4",
                             .n_steps = 5,
                             .gradient = on ? OdeGradient::checkpointed : OdeGradient::direct})));
    }
    const Tensor slope = sum(square(grad(loss, w, {.create_graph = true})));
    gradients.push_back({grad(loss, y0, {.retain_graph = true}), grad(slope, w)});
  }
  CHECK(distance(gradients[1][0], gradients[0][0]) < 1e-12);
  CHECK(distance(gradients[1][1], gradients[0][1]) < 1e-12);
}

TEST_CASE("Euler shrinks a Gaussian as predicted", "[ode_test]") {
  // Flow matching from N(0, 1) to N(mu, s^2) in closed form; the flow map is linear in x0.
  const double s = 0.5;
  const double mu = 2;
  const auto field = [=](double t, const Tensor& x) {
    const double variance = (1 - t) * (1 - t) + t * t * s * s;
    return (x - t * mu) * ((t * s * s - (1 - t)) / variance) + mu;
  };
  const Tensor x0 = Tensor::from(V{0, 1}, {2});
  const auto spread = [&](const char* solver, int64_t n) {
    const Tensor x = odeint(field, x0, 0, 1, {.solver = solver, .n_steps = n});
    CHECK(x.at({0}) == Catch::Approx(mu).epsilon(1e-9));
    return x.at({1}) - x.at({0});
  };
  CHECK(std::abs(spread("euler", 1)) < 1e-12);
  CHECK(spread("euler", 10) == Catch::Approx(0.431).margin(5e-4));
  CHECK(spread("euler", 100) == Catch::Approx(0.4926).margin(5e-5));
  CHECK(spread("rk4", 100) == Catch::Approx(0.5).epsilon(1e-6));
}

TEST_CASE("the traces written out equal those of automatic differentiation", "[ode_test]") {
  Generator generator(9);
  const Tensor x = randn({5, 3}, generator, DType::float64);
  const Tensor probe = randn({5, 3}, generator, DType::float64);
  const auto exact = small_cnf(Trace::exact);
  const auto estimate = small_cnf(Trace::hutchinson);
  // One Euler step of length 1 from t = 0.3: its log-determinant is the trace there.
  exact->set_solver({.solver = "euler", .n_steps = 1});
  estimate->set_solver({.solver = "euler", .n_steps = 1});
  const Function v = [&](const Tensor& at) { return exact->velocity(0.3, at); };
  const auto one = divergence(v, x);
  const auto two = hutchinson_divergence(v, x, probe);
  CHECK(distance(exact->integrate(x, 0.3, 1.3).log_det, one.derivative) < 1e-14);
  CHECK(distance(estimate->integrate(x, 0.3, 1.3, probe).log_det, two.derivative) < 1e-14);
  CHECK(distance(estimate->integrate(x, 0.3, 1.3, probe).value, x + one.value) < 1e-14);
}

TEST_CASE("a fixed probe keeps the order of the log-determinant", "[ode_test]") {
  Generator generator(9);
  const Tensor x = randn({4, 3}, generator, DType::float64);
  const Tensor probe = rademacher({4, 3}, generator, DType::float64);
  const auto flow = small_cnf(Trace::hutchinson);
  const auto solve = [&](int64_t n) {
    flow->set_solver({.solver = "rk4", .n_steps = n});
    return flow->integrate(x, 1, 0, probe).log_det;
  };
  CHECK(std::abs(order_of(solve, solve(512), 8) - 4) < 0.3);
}

TEST_CASE("Hutchinson's estimate is unbiased over probes", "[ode_test]") {
  const Probe law = GENERATE(Probe::rademacher, Probe::gaussian);
  const auto flow = small_cnf(Trace::hutchinson, law);
  const auto exact = small_cnf(Trace::exact);
  flow->set_solver({.solver = "euler", .n_steps = 1});
  exact->set_solver({.solver = "euler", .n_steps = 1});
  const int64_t n = 20000;
  const Tensor x = expand(Tensor::from(V{0.3, -0.4, 1.0}, {1, 3}), {n, 3});
  NoGrad off;
  const Tensor estimates = flow->forward(x).log_det;
  const double wanted = exact->forward(slice(x, 0, 0, 1)).log_det.item();
  const double error = flowgrad::std(estimates).item() / std::sqrt(static_cast<double>(n));
  CHECK(error > 0);
  CHECK(std::abs(mean(estimates).item() - wanted) < 4 * error);
}

TEST_CASE("probes are one a solve, and a seed fixes them", "[ode_test]") {
  const auto a = small_cnf(Trace::hutchinson);
  const auto b = small_cnf(Trace::hutchinson);
  Generator generator(9);
  const Tensor x = randn({4, 3}, generator, DType::float64);
  const Tensor first = a->forward(x).log_det;
  CHECK(distance(b->forward(x).log_det, first) == 0);
  CHECK(distance(a->forward(x).log_det, first) > 0);
  const auto exact = small_cnf(Trace::exact);
  for (const auto& flow : {&a, &exact}) {
    CHECK(contains(raised<ShapeError>([&] {
                     (*flow)->integrate(x, 0, 1, randn({1, 3}, generator, DType::float64));
                   }),
                   {"probe", "(1, 3)", "(4, 3)"}));
  }
  CHECK(a->sample(7, generator).shape() == Shape{7, 3});
}
