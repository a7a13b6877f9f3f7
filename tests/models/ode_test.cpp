// Fixed-step solvers and the continuous flow built on them.
#include "flowgrad/models/ode.h"

#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/cnf.h"
#include "flowgrad/models/ode_tableau.h"
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

/// `steps` equal steps of a method on `rotating`, written out.
Tensor by_hand(const Tableau& m, Tensor y, double t0, double t1, int64_t steps) {
  const double h = (t1 - t0) / static_cast<double>(steps);
  for (int64_t n = 0; n < steps; ++n) {
    const double t = t0 + static_cast<double>(n) * h;
    std::vector<Tensor> k;
    Tensor end = y;
    for (size_t i = 0; i < m.c.size(); ++i) {
      Tensor at = y;
      for (size_t j = 0; j < m.a[i].size(); ++j) at = at + k[j] * (h * m.a[i][j]);
      k.push_back(rotating(t + m.c[i] * h, at));
      end = end + k[i] * (h * m.b[i]);
    }
    y = end;
  }
  return y;
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
  struct Case {
    Tableau method;
    double order, margin;
    int64_t n;
  };
  std::vector<Case> cases;
  const std::vector<std::tuple<double, double, int64_t>> known = {
      {1, 0.1, 32}, {2, 0.15, 32}, {2, 0.15, 32}, {4, 0.2, 32}, {5, 0.3, 8}};
  REQUIRE(fixed_step_tableaus().size() == known.size());
  for (size_t i = 0; i < known.size(); ++i) {
    const auto [order, margin, n] = known[i];
    cases.push_back({fixed_step_tableaus()[i], order, margin, n});
  }
  for (const bool reverse : {false, true}) {
    const double t0 = reverse ? 1 : 0;
    const double t1 = 1 - t0;
    const Tensor exact = odeint(rotating, y0, t0, t1, {.solver = "rk4", .n_steps = 4096});
    for (const auto& [method, order, margin, n] : cases) {
      INFO(method.name << (reverse ? " backwards" : ""));
      const auto slope = [&](const std::function<Tensor(int64_t)>& solve) {
        return order_of(solve, exact, n);
      };
      CHECK(std::abs(slope([&](int64_t steps) {
                       return odeint(rotating, y0, t0, t1,
                                     {.solver = method.name, .n_steps = steps});
                     }) -
                     order) < margin);
      const auto by_tableau = [&](const Tableau& m) {
        return slope([&](int64_t steps) { return by_hand(m, y0, t0, t1, steps); });
      };
      CHECK(std::abs(by_tableau(method) - order) < margin);
      // Planted: a weight off by a twentieth; a stage too early; a slope left out of a stage.
      Tableau wrong = method;
      wrong.b.back() *= 1.05;
      CHECK(std::abs(by_tableau(wrong) - order) > margin);
      if (order < 2) continue;
      wrong = method;
      wrong.c.back() -= 0.05;
      CHECK(std::abs(by_tableau(wrong) - order) > margin);
      wrong = method;
      wrong.a.back().back() = 0;
      CHECK(std::abs(by_tableau(wrong) - order) > margin);
    }
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
  const auto order = [&](const std::function<Tensor()>& probe_of_solve) {
    const auto solve = [&](int64_t n) {
      flow->set_solver({.solver = "rk4", .n_steps = n});
      return flow->integrate(x, 1, 0, probe_of_solve()).log_det;
    };
    return order_of(solve, solve(512), 8);
  };
  CHECK(std::abs(order([&] { return probe; }) - 4) < 0.3);
  // Planted: a new probe for every solve.
  CHECK(std::abs(order([&] { return rademacher({4, 3}, generator, DType::float64); }) - 4) > 0.3);
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
