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
    CHECK(distance(flow->integrate(x, 0, 1, probe).log_det, wanted) < 1e-7);
    CHECK(distance(flow->integrate(x, 1, 0, probe).log_det, -wanted) < 1e-7);
    CHECK(distance(flow->integrate(x, 0.2, 0.7, probe).log_det, wanted * 0.5) < 1e-7);
  }
}

TEST_CASE("variance of Hutchinson's estimate", "[cnf_test]") {
  // A single Euler step of length 1: the log-determinant is probe^T J probe.
  const int64_t n = 200000;
  NoGrad off;
  for (const Probe law : {Probe::rademacher, Probe::gaussian}) {
    CNFOptions o = small(Trace::hutchinson);
    o.probe = law;
    o.solver = {.solver = "euler", .n_steps = 1};
    const auto flow = flow_of(o);
    const Tensor row = Tensor::from(V{0.3, -0.4, 1.0}, {1, 3});
    Tensor j;
    {
      EnableGrad on;
      j = reshape(jacobian([&](const Tensor& x) { return flow->velocity(0, x); }, row), {3, 3});
    }
    const Tensor s = (j + transpose(j)) / 2;
    const double wanted =
        2 * (sum(square(s)).item() - (law == Probe::rademacher ? sum(square(diag(s))).item() : 0));
    const Tensor estimates = flow->forward(expand(row, {n, 3})).log_det;
    const double got = var(estimates).item();
    // The standard error of a variance, by the fourth moment.
    const Tensor centred = square(estimates - mean(estimates));
    const double error = flowgrad::std(centred).item() / std::sqrt(static_cast<double>(n));
    CHECK(std::abs(got - wanted) < 4 * error);
    CHECK(error < 0.02 * wanted);
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
      norm = norm + (trace == Trace::exact ? sum(square(row_jacobian(v, y)), {1, 2})
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
