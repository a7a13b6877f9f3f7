// The continuous flow beyond a plain solve: adaptive steps, conditions, regularisers, kinds of
// gradient, evaluation counts and the redrawn probe.
#include "flowgrad/models/cnf.h"

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/checks.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;
using V = std::vector<double>;

namespace {

CNFOptions small(Trace trace, int64_t condition_dim = 0) {
  CNFOptions o{.dim = 3, .hidden = 8, .condition_dim = condition_dim, .trace = trace};
  o.solver.rtol = o.solver.atol = 1e-8;
  return o;
}

std::unique_ptr<ContinuousNormalizingFlow> flow_of(const CNFOptions& o) {
  Generator generator(3);
  auto flow = std::make_unique<ContinuousNormalizingFlow>(o, generator, DType::float64);
  shake(*flow, 4, 0.8);
  return flow;
}

}  // namespace

TEST_CASE("the adaptive flow inverts itself and has the Jacobian's determinant", "[cnf_test]") {
  Generator generator(9);
  for (const int64_t width : {0, 2}) {
    const auto flow = flow_of(small(Trace::exact, width));
    const Tensor x = randn({5, 3}, generator, DType::float64);
    const Tensor condition = width > 0 ? randn({5, width}, generator, DType::float64) : Tensor();
    CHECK(reconstruction_error(*flow, x, condition).max < 1e-7);
    CHECK(log_det_consistency(*flow, x, condition).max < 1e-7);
    CHECK(log_det_error(*flow, x, condition).max < 1e-6);
    CHECK(flow->evaluations() ==
          2 + 6 * (flow->statistics().accepted + flow->statistics().rejected));
  }
}

TEST_CASE("a condition enters between x and time", "[cnf_test]") {
  Generator generator(9);
  const auto flow = flow_of(small(Trace::exact, 2));
  const Tensor x = randn({4, 3}, generator, DType::float64);
  const Tensor condition = randn({4, 2}, generator, DType::float64);
  const auto p = flow->parameters();
  CHECK(p[0].second.shape() == Shape{8, 6});
  const Tensor columns = concat({x, condition, full({4, 1}, 0.3, DType::float64)}, 1);
  Tensor h = tanh(linear(columns, p[0].second, p[1].second));
  h = linear(tanh(linear(h, p[2].second, p[3].second)), p[4].second, p[5].second);
  CHECK(distance(flow->velocity(0.3, x, condition), h) < 1e-14);
  // One row serves all; another condition gives another flow, and its gradient is right.
  const Tensor one = slice(condition, 0, 0, 1);
  CHECK(distance(flow->log_prob(x, one), flow->log_prob(x, expand(one, {4, 2}))) == 0);
  CHECK(distance(flow->log_prob(x, one), flow->log_prob(x, condition)) > 1e-3);
  CHECK(gradcheck([&](const Tensor& c) { return flow->log_prob(x, c); }, condition).passed);
  CHECK(flow->sample(4, generator, condition).shape() == Shape{4, 3});
  CHECK(contains(raised<ShapeError>([&] { flow->log_prob(x); }), {"condition"}));
}

TEST_CASE("linear fields have the trace for a log-determinant", "[cnf_test]") {
  // With small weights tanh is linear up to their cube: v = W3 W2 W1 x.
  for (const Trace trace : {Trace::exact, Trace::hutchinson}) {
    const auto flow = flow_of(small(trace));
    {
      NoGrad off;
      for (const auto& [name, p] : flow->parameters()) {
        const bool bias = p.rank() == 1;
        copy_(p, p * (bias ? 0 : name.find(".0.") != std::string::npos ? 1e-5 : 1));
      }
      const Tensor last = flow->parameters()[4].second;
      copy_(last, last * 1e5);
      const Tensor first = flow->parameters()[0].second;
      copy_(slice(first, 1, 3, 4), zeros({8, 1}, DType::float64));
    }
    const auto p = flow->parameters();
    const Tensor a = matmul(p[4].second, matmul(p[2].second, slice(p[0].second, 1, 0, 3))).detach();
    Generator generator(9);
    const Tensor x = randn({4, 3}, generator, DType::float64);
    const Tensor probe = rademacher({4, 3}, generator, DType::float64);
    const Tensor wanted =
        trace == Trace::exact ? expand(sum(diag(a)), {4}) : sum(matmul(probe, a) * probe, {1});
    using LogDet = std::function<Tensor(double t0, double t1)>;
    const auto error = [&](const LogDet& log_det) {
      double worst = 0;
      for (const auto& [t0, t1] : {std::pair(0.0, 1.0), {1.0, 0.0}, {0.2, 0.7}})
        worst = std::max(worst, distance(log_det(t0, t1), wanted * (t1 - t0)));
      return worst;
    };
    const LogDet right = [&](double t0, double t1) {
      return flow->integrate(x, t0, t1, probe).log_det;
    };
    CHECK(error(right) < 1e-7);
    // Planted: one sign for both directions.
    CHECK(error([&](double t0, double t1) { return t1 > t0 ? right(t0, t1) : -right(t0, t1); }) >
          1e-2);
  }
}

namespace {

/// How far mean and variance of estimates probe^T J probe are from tr J and from their identity
/// for a law of probes, in standard errors.
struct Moments {
  double mean, variance;
};
Moments moments(const Tensor& estimates, const Tensor& jacobian, Probe law) {
  const double n = static_cast<double>(estimates.numel());
  const Tensor s = (jacobian + transpose(jacobian)) / 2;
  const double wanted =
      2 * (sum(square(s)).item() - (law == Probe::rademacher ? sum(square(diag(s))).item() : 0));
  const double middle = mean(estimates).item();
  // The standard error of a variance, by the fourth moment.
  const Tensor centred = square(estimates - middle);
  const double error = flowgrad::std(centred).item() / std::sqrt(n);
  return {std::abs(middle - sum(diag(jacobian)).item()) /
              (flowgrad::std(estimates).item() / std::sqrt(n)),
          std::abs(mean(centred).item() - wanted) / error};
}

}  // namespace

TEST_CASE("mean and variance of Hutchinson's estimate", "[cnf_test]") {
  // A single Euler step of length 1: the log-determinant is probe^T J probe.
  const int64_t n = 1000000;
  NoGrad off;
  const Tensor row = Tensor::from(V{0.3, -0.4, 1.0}, {1, 3});
  for (const Probe law : {Probe::rademacher, Probe::gaussian}) {
    CNFOptions o = small(Trace::hutchinson);
    o.probe = law;
    o.solver = {.solver = "euler", .n_steps = 1};
    const auto flow = flow_of(o);
    Tensor j;
    {
      EnableGrad on;
      j = reshape(jacobian([&](const Tensor& x) { return flow->velocity(0, x); }, row), {3, 3});
    }
    const Tensor estimates = flow->forward(expand(row, {n, 3})).log_det;
    CHECK(moments(estimates, j, law).mean < 4);
    CHECK(moments(estimates, j, law).variance < 4);
    // Planted: the identity of the other law; probes whose variance is 1.02.
    const Probe other = law == Probe::gaussian ? Probe::rademacher : Probe::gaussian;
    CHECK(moments(estimates, j, other).variance > 4);
    CHECK(moments(estimates * 1.02, j, law).mean > 4);
    CHECK(moments(estimates * 1.02, j, law).variance > 4);
  }
  // A diagonal Jacobian: signs cancel in every term, normal probes leave their squares.
  for (const Probe law : {Probe::rademacher, Probe::gaussian}) {
    CNFOptions o = small(Trace::hutchinson);
    o.hidden = 3;
    o.probe = law;
    o.solver = {.solver = "euler", .n_steps = 1};
    const auto flow = flow_of(o);
    for (const auto& [name, p] : flow->parameters()) {
      if (p.rank() == 2)
        copy_(p, p * slice(slice(eye(4, DType::float64), 0, 0, 3), 1, 0, p.size(1)));
    }
    const Tensor estimates = flow->forward(expand(row, {1000, 3})).log_det;
    CHECK((min(estimates).item() == max(estimates).item()) == (law == Probe::rademacher));
  }
}

TEST_CASE("regularisers are integrals along the path", "[cnf_test]") {
  Generator generator(9);
  const Tensor x = randn({4, 3}, generator, DType::float64);
  const Tensor probe = randn({4, 3}, generator, DType::float64);
  for (const Trace trace : {Trace::exact, Trace::hutchinson}) {
    CNFOptions o = small(trace);
    o.solver = {.solver = "rk4", .n_steps = 40};
    const auto flow = flow_of(o);
    // The same integrals by automatic differentiation of the velocity, with Simpson's rule on rk4's
    // own states: fourth order as well.
    const auto at = [&](double t) { return t == 1 ? x : flow->integrate(x, 1, t, probe).value; };
    Tensor kinetic = zeros({4}, DType::float64), norm = kinetic;
    const int n = 40;
    for (int i = 0; i <= n; ++i) {
      const double t = static_cast<double>(i) / n;
      const double w = (i == 0 || i == n ? 1 : i % 2 ? 4 : 2) / (3.0 * n);
      const Tensor y = at(t);
      const Function v = [&](const Tensor& z) { return flow->velocity(t, z); };
      kinetic = kinetic + sum(square(v(y)), {1}) * w;
      norm = norm + (trace == Trace::exact ? sum(square(batch_jacobian(v, y)), {1, 2})
                                           : sum(square(vjp(v, y, probe).derivative), {1})) *
                        w;
    }
    const RegularizedPath path = flow->integrate_regularized(x, 1, 0, probe);
    CHECK(distance(path.kinetic, kinetic) < 1e-5);
    CHECK(distance(path.jacobian_norm, norm) < 1e-5);
    CHECK(min(path.kinetic).item() > 0);
    const Transformed plain = flow->integrate(x, 1, 0, probe);
    CHECK(distance(path.end.value, plain.value) < 1e-13);
    CHECK(distance(path.end.log_det, plain.log_det) < 1e-13);
    // And the loss adds them with their weights.
    CNFOptions weighted = o;
    weighted.kinetic = 0.5;
    weighted.jacobian_norm = 0.25;
    const auto same = flow_of(weighted);
    const double nll = -mean(standard_normal_log_prob(plain.value) + plain.log_det).item();
    CHECK(flow->loss(x, {}, probe).item() == Catch::Approx(nll).epsilon(1e-12));
    CHECK(same->loss(x, {}, probe).item() == Catch::Approx(nll + 0.5 * mean(path.kinetic).item() +
                                                           0.25 * mean(path.jacobian_norm).item())
                                                 .epsilon(1e-12));
    CHECK(gradcheck([&](const Tensor& y) { return same->loss(y, {}, probe); }, x).passed);
    CHECK(flow->evaluations() == 160);
  }
}

TEST_CASE("all kinds of gradient train the same flow", "[cnf_test]") {
  Generator generator(9);
  const Tensor x = randn({4, 3}, generator, DType::float64);
  const Tensor condition = randn({4, 2}, generator, DType::float64);
  const Tensor probe = randn({4, 3}, generator, DType::float64);
  for (const char* solver : {"dopri5", "rk4"}) {
    for (const int64_t width : {0, 2}) {
      std::vector<std::vector<Tensor>> all;
      for (const OdeGradient how :
           {OdeGradient::direct, OdeGradient::checkpointed, OdeGradient::adjoint}) {
        CNFOptions o = small(Trace::hutchinson, width);
        o.kinetic = 0.1;
        o.solver.solver = solver;
        o.solver.n_steps = 60;
        o.solver.gradient = how;
        const auto flow = flow_of(o);
        std::vector<Tensor> leaves;
        for (const auto& [name, p] : flow->parameters()) leaves.push_back(p);
        const Tensor loss = flow->loss(x, width > 0 ? condition : Tensor(), probe);
        all.push_back(grad(std::span(&loss, 1), leaves));
      }
      for (size_t i = 0; i < all[0].size(); ++i) {
        INFO(solver << " parameter " << i);
        CHECK(distance(all[1][i], all[0][i]) < 1e-12);
        CHECK(distance(all[2][i], all[0][i]) < 1e-6);
      }
    }
  }
}

TEST_CASE("with steps per row a row alone has the bits of the row in a batch", "[cnf_test]") {
  Generator generator(9);
  const DType dtype = GENERATE(DType::float64, DType::float32);
  const Trace trace = GENERATE(Trace::exact, Trace::hutchinson);
  const auto flow_with = [&](bool per_row, double tolerance,
                             OdeGradient how = OdeGradient::direct) {
    CNFOptions o = small(trace, 2);
    o.solver.rtol = o.solver.atol = tolerance;
    o.solver.gradient = how;
    o.per_row = per_row;
    o.kinetic = 0.1;
    Generator weights(3);
    auto flow = std::make_unique<ContinuousNormalizingFlow>(o, weights, dtype);
    shake(*flow, 4, 1.5);
    return flow;
  };
  const auto own = flow_with(true, 1e-4), shared = flow_with(false, 1e-4);
  // Rows of very different size, so that they want different steps.
  const Tensor size = Tensor::from(V{0.1, 1, 3, 9, 0.5, 20}, {6, 1});
  const Tensor x = randn({6, 3}, generator, dtype) * cast(size, dtype);
  const Tensor condition = randn({6, 2}, generator, dtype);
  const Tensor probe = rademacher({6, 3}, generator, dtype);
  const auto differing = [&](ContinuousNormalizingFlow& flow) {
    int rows = 0;
    const auto together = flow.integrate_regularized(x, 1, 0, probe, condition);
    for (int64_t i = 0; i < 6; ++i) {
      const auto row = [&](const Tensor& t) { return slice(t, 0, i, i + 1); };
      const auto alone = flow.integrate_regularized(row(x), 1, 0, row(probe), row(condition));
      rows += alone.end.value.to_vector<double>() != row(together.end.value).to_vector<double>() ||
              alone.end.log_det.item() != together.end.log_det.at({i}) ||
              alone.kinetic.item() != together.kinetic.at({i});
    }
    return rows;
  };
  CHECK(differing(*own) == 0);
  CHECK(differing(*shared) > 0);
  own->integrate(x, 1, 0, probe, condition);
  const OdeStatistics most = own->statistics();
  own->integrate(slice(x, 0, 0, 1), 1, 0, slice(probe, 0, 0, 1), slice(condition, 0, 0, 1));
  CHECK(own->statistics().evaluations < most.evaluations);
  if (dtype == DType::float32) return;
  // The same flow as with shared steps, and the same gradient, to the tolerance.
  const auto gradient = [&](ContinuousNormalizingFlow& flow) {
    std::vector<Tensor> leaves;
    for (const auto& [name, p] : flow.parameters()) leaves.push_back(p);
    const Tensor loss = flow.loss(x, condition, probe);
    return grad(std::span(&loss, 1), leaves);
  };
  const auto fine = flow_with(true, 1e-9);
  const auto a = gradient(*fine), b = gradient(*flow_with(false, 1e-9)),
             c = gradient(*flow_with(true, 1e-9, OdeGradient::checkpointed));
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(distance(b[i], a[i]) < 1e-6);
    CHECK(distance(c[i], a[i]) < 1e-12);
  }
  const auto result = gradcheck(
      [&](const Tensor& at) {
        return fine->integrate(at, 1, 0, slice(probe, 0, 0, 3), slice(condition, 0, 0, 3)).log_det;
      },
      slice(x, 0, 0, 3));
  INFO(result.message);
  CHECK(result.passed);
}

TEST_CASE("what steps per row refuse", "[cnf_test]") {
  CNFOptions o = small(Trace::hutchinson);
  o.per_row = true;
  const auto flow = flow_of(o);
  const Tensor x = Tensor::from(V{0, 1, 2, 1, NAN, 3}, {2, 3});
  CHECK(contains(raised<OdeError>([&] { flow->log_prob(x); }), {"not finite", "row 1"}));
  CHECK(std::isnan(flow->loss(x).item()));
  CHECK(flow->log_prob(zeros({0, 3}, DType::float64)).shape() == Shape{0});
  OdeOptions solver{.solver = "dopri5", .max_steps = 1};
  flow->set_solver(solver);
  CHECK(contains(raised<OdeError>([&] {
                   flow->log_prob(ones({2, 3}, DType::float64));
                 }),
                 {"max_steps", "t = ", "row 0", "raise max_steps"}));
  flow->set_solver({.solver = "rk4"});  // equal steps are every row's own
  CHECK(flow->log_prob(ones({2, 3}, DType::float64)).shape() == Shape{2});
  solver.gradient = OdeGradient::adjoint;
  CHECK(contains(raised<ValueError>([&] { flow->set_solver(solver); }), {"per_row", "adjoint"}));
  solver = {.solver = "dopri5", .trace = [](const OdeStep&) {}};
  CHECK(contains(raised<ValueError>([&] { flow->set_solver(solver); }), {"per_row", "trace"}));
  o.redraw_probe = true;
  CHECK(contains(raised<ValueError>([&] { flow_of(o); }), {"redraw_probe", "per_row"}));
}

TEST_CASE("a batch that is not finite has a loss that says so", "[cnf_test]") {
  const auto flow = flow_of(small(Trace::hutchinson));
  const Tensor x = Tensor::from(V{0, 1, NAN, 1, 2, 3}, {2, 3});
  CHECK(contains(raised<OdeError>([&] { flow->log_prob(x); }), {"not finite"}));
  const Tensor loss = flow->loss(x);
  CHECK(std::isnan(loss.item()));
  CHECK(loss.requires_grad());
  CHECK(std::isfinite(flow->loss(ones({2, 3}, DType::float64)).item()));
}

TEST_CASE("a redrawn probe has order one half", "[cnf_test]") {
  CNFOptions o = small(Trace::hutchinson);
  o.redraw_probe = true;
  const auto redrawn = flow_of(o);
  const auto exact = flow_of(small(Trace::exact));
  Generator generator(9);
  NoGrad off;
  // Many rows stand for many draws.
  const Tensor x = expand(randn({1, 3}, generator, DType::float64), {2000, 3});
  exact->set_solver({.solver = "rk4", .n_steps = 64});
  const Tensor wanted = exact->forward(slice(x, 0, 0, 1)).log_det;
  const auto error = [&](int64_t n) {
    redrawn->set_solver({.solver = "rk4", .n_steps = n});
    return std::sqrt(mean(square(redrawn->forward(x).log_det - wanted)).item());
  };
  const double order = std::log(error(4) / error(64)) / std::log(16.0);
  CHECK(order == Catch::Approx(0.5).margin(0.05));
  CHECK(contains(
      raised<ValueError>([&] { redrawn->set_solver({.gradient = OdeGradient::checkpointed}); }),
      {"redraw_probe", "direct"}));
  o.trace = Trace::exact;
  CHECK(contains(raised<ValueError>([&] { flow_of(o); }), {"redraw_probe", "hutchinson"}));
}
