// Log-likelihood of velocity fields by a solve, against closed forms, with its two errors apart.
#include "flowgrad/models/likelihood.h"

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/models/registry.h"
#include "flowgrad/models/score.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;
using V = std::vector<double>;

namespace {

/// The exact field of flow matching from N(0, 1) to N(mu, s^2).
VelocityField gaussian_field(double mu, double s) {
  return [=](double t, const Tensor& x) {
    const double variance = (1 - t) * (1 - t) + t * t * s * s;
    return (x - t * mu) * ((t * s * s - (1 - t)) / variance) + mu;
  };
}

Tensor gaussian_log_prob(const Tensor& x, double mu, double s) {
  return standard_normal_log_prob((x - mu) / s) - std::log(s) * static_cast<double>(x.size(1));
}

/// x' = x A^T: the log-determinant over unit time is tr A, whatever x.
VelocityField linear_field(const Tensor& a) {
  return [a](double, const Tensor& x) { return matmul(x, transpose(a)); };
}

}  // namespace

TEST_CASE("flow matching between Gaussians has the closed form's likelihood", "[likelihood_test]") {
  Generator generator(3);
  for (const int64_t dim : {1, 3}) {
    for (const auto& [mu, s] : {std::pair(2.0, 0.5), std::pair(-1.0, 2.0)}) {
      const Tensor x = randn({5, dim}, generator, DType::float64) * s + mu;
      LikelihoodOptions o;
      o.solver.rtol = o.solver.atol = 1e-9;
      const Likelihood got = likelihood(gaussian_field(mu, s), x, generator, o);
      CHECK(distance(got.log_prob, gaussian_log_prob(x, mu, s)) < 1e-6);
      CHECK(distance(got.base, (x - mu) / s) < 1e-6);
      CHECK(got.probe_error.to_vector<double>() == V(5, 0));
      CHECK(max(got.solver_error).item() < 1e-6);
      CHECK(got.evaluations > 8);
    }
  }
}

TEST_CASE("rows are data at the time that is given", "[likelihood_test]") {
  Generator generator(3);
  const Tensor x = randn({5, 2}, generator, DType::float64);
  LikelihoodOptions o{.end_time = 0.6};
  o.solver.rtol = o.solver.atol = 1e-9;
  // x(t) = (1 - t) z + t (mu + s z) has mean t mu and this variance.
  const double variance = 0.4 * 0.4 + 0.6 * 0.6 * 0.25;
  CHECK(distance(likelihood(gaussian_field(2, 0.5), x, generator, o).log_prob,
                 gaussian_log_prob(x, 1.2, std::sqrt(variance))) < 1e-6);
  ScoreModel score({.network = {.hidden = 8}}, generator, DType::float64);
  const VelocityField field = [&](double t, const Tensor& at) {
    return score.velocity(at, full({at.size(0)}, t, DType::float64), {});
  };
  o.end_time = score.options().end_time;
  CHECK(all(isfinite(likelihood(field, x, generator, o).log_prob)).item() == 1);
  for (const double bad : {0.0, 1.5, std::nan("")}) {
    o.end_time = bad;
    CHECK(contains(raised<ValueError>([&] { likelihood(field, x, generator, o); }), {"end_time"}));
  }
}

TEST_CASE("the solver's error is what it says", "[likelihood_test]") {
  Generator generator(3);
  const Tensor x = randn({6, 2}, generator, DType::float64) * 0.5 + 2;
  const Tensor wanted = gaussian_log_prob(x, 2, 0.5);
  for (const OdeOptions& solver :
       {OdeOptions{.solver = "rk4", .n_steps = 6}, OdeOptions{.solver = "midpoint", .n_steps = 20},
        OdeOptions{.solver = "dopri5", .rtol = 1e-3, .atol = 1e-3}}) {
    INFO(solver.solver);
    const Likelihood got = likelihood(gaussian_field(2, 0.5), x, generator, {.solver = solver});
    const double real = max(abs(got.log_prob - wanted)).item();
    const double told = max(got.solver_error).item();
    CHECK(real > 1e-6);
    CHECK(told > 0.3 * real);
    CHECK(told < 3 * real);
  }
}

TEST_CASE("Euler's map of a Gaussian is measured by its own likelihood", "[likelihood_test]") {
  // Spread of what Euler's method generates; a likelihood by as many steps is off by as much.
  for (const auto& [n, spread] : {std::pair<int64_t, double>(1, 0), {10, 0.431}, {100, 0.4926}}) {
    const Tensor x0 = Tensor::from(V{0, 1}, {2, 1});
    const Tensor x = odeint(gaussian_field(2, 0.5), x0, 0, 1, {.solver = "euler", .n_steps = n});
    CHECK(x.at({1, 0}) - x.at({0, 0}) == Catch::Approx(spread).margin(5e-4));
  }
}

TEST_CASE("the probes' error is what it says", "[likelihood_test]") {
  Generator generator(3);
  const Tensor a = randn({4, 4}, generator, DType::float64) * 0.4;
  const int64_t n = 400;
  const Tensor x = randn({n, 4}, generator, DType::float64);
  const double trace = sum(diag(a)).item();
  for (const Probe law : {Probe::rademacher, Probe::gaussian}) {
    LikelihoodOptions o{
        .trace = Trace::hutchinson, .probe = law, .n_probes = 8, .solver_error = false};
    o.solver.rtol = o.solver.atol = 1e-9;
    const Likelihood got = likelihood(linear_field(a), x, generator, o);
    CHECK_FALSE(got.solver_error.defined());
    const Tensor error = standard_normal_log_prob(got.base) - trace - got.log_prob;
    // Over rows the errors have mean 0 and the variance that a row's own probes tell.
    const double told = mean(square(got.probe_error)).item();
    CHECK(mean(square(error)).item() == Catch::Approx(told).epsilon(0.3));
    CHECK(std::abs(mean(error).item()) < 4 * std::sqrt(told / static_cast<double>(n)));
    // Hutchinson: variance of one probe 2 |S|_F^2, without the diagonal for Rademacher.
    const Tensor symmetric = (a + transpose(a)) / 2;
    const double all_of_it = sum(square(symmetric)).item();
    const double diagonal = sum(square(diag(symmetric))).item();
    const double variance = 2 * (all_of_it - (law == Probe::rademacher ? diagonal : 0));
    CHECK(told * 8 == Catch::Approx(variance).epsilon(0.2));
    o.n_probes = 1;
    CHECK_FALSE(likelihood(linear_field(a), x, generator, o).probe_error.defined());
  }
  // A diagonal Jacobian has no variance with Rademacher probes.
  const Tensor d = diag(Tensor::from(V{0.3, -0.2, 1, 0.5}, {4}));
  LikelihoodOptions o{.trace = Trace::hutchinson, .n_probes = 3};
  const Likelihood got = likelihood(linear_field(d), x, generator, o);
  CHECK(max(got.probe_error).item() < 1e-14);
}

TEST_CASE("a likelihood is differentiable when asked", "[likelihood_test]") {
  Generator generator(3);
  const Tensor w = randn({2, 2}, generator, DType::float64);
  const Tensor x = randn({3, 2}, generator, DType::float64);
  for (const Trace trace : {Trace::exact, Trace::hutchinson}) {
    LikelihoodOptions o{.trace = trace, .differentiable = true, .solver_error = false};
    o.probes = trace == Trace::exact ? Tensor() : randn({2, 3, 2}, generator, DType::float64);
    o.solver.rtol = o.solver.atol = 1e-10;
    const auto of_weight = [&](const Tensor& at) {
      const VelocityField v = [at](double t, const Tensor& y) {
        return tanh(matmul(y, at)) + t * y;
      };
      return likelihood(v, x, generator, o).log_prob;
    };
    const auto of_rows = [&](const Tensor& at) {
      const VelocityField v = [w](double, const Tensor& y) { return tanh(matmul(y, w)); };
      return likelihood(v, at, generator, o).log_prob;
    };
    CHECK(gradcheck(of_weight, w).passed);
    CHECK(gradcheck(of_rows, x).passed);
    o.differentiable = false;
    const Tensor leaf = clone(w).requires_grad_();
    CHECK_FALSE(of_weight(leaf).requires_grad());
  }
}

TEST_CASE("a continuous flow and its field have one likelihood", "[likelihood_test]") {
  Generator generator(3);
  CNFOptions options{.dim = 3, .hidden = 8, .trace = Trace::exact};
  options.solver.rtol = options.solver.atol = 1e-9;
  ContinuousNormalizingFlow flow(options, generator, DType::float64);
  shake(flow, 4, 0.8);
  const Tensor x = randn({5, 3}, generator, DType::float64);
  LikelihoodOptions o;
  o.solver = options.solver;
  const VelocityField v = [&](double t, const Tensor& at) { return flow.velocity(t, at); };
  const Likelihood got = likelihood(v, x, generator, o);
  CHECK(distance(got.log_prob, flow.log_prob(x)) < 1e-7);
}

TEST_CASE("flow_matching has the quantity log_prob", "[likelihood_test]") {
  Generator generator(3);
  for (const char* condition_dim : {"0", "2"}) {
    const auto model = make_model(
        "flow_matching",
        {{"hidden", "8"}, {"time_dim", "8"}, {"time_scale", "1"}, {"condition_dim", condition_dim}},
        generator, DType::float64);
    QuantityInputs in{.input = randn({4, 2}, generator, DType::float64)};
    if (condition_dim[0] == '2') in.condition = randn({4, 2}, generator, DType::float64);
    const auto of = [&](const QuantityOptions& o) {
      return model->evaluate("log_prob", in, o, generator);
    };
    const Tensor got = of({});
    CHECK(got.shape() == Shape{4});
    CHECK(distance(got, of({.n_steps = 30})) < 1e-4);
    CHECK(distance(of({.n_steps = 30}), of({.n_steps = 30, .solver = "rk4"})) == 0);
    const auto leaves = model->module().parameters();
    CHECK(sum(abs(grad(mean(got), leaves[0].second))).item() > 0);
    // Sampling's map and the density belong together: forward from the base gives the rows back.
    in.probe_noise = rademacher({4, 2}, generator, DType::float64);
    CHECK(distance(of({}), got) > 0);
    in.probe_noise = ones({4, 3}, DType::float64);
    CHECK(contains(raised<ShapeError>([&] { of({}); }), {"probe", "(4, 3)", "(4, 2)"}));
  }
}

TEST_CASE("a checkpointed likelihood has the gradient of the direct one", "[likelihood_test]") {
  Generator generator(8);
  FlowMatchingOptions options;
  options.hidden = 8;
  options.time_dim = 8;
  options.time_scale = 1;
  FlowMatching model(options, generator, DType::float64);
  const Tensor x = randn({3, 2}, generator, DType::float64);
  const auto gradient = [&](OdeGradient how) {
    // The velocity that the tape keeps must outlive this call.
    const Tensor l =
        log_prob(model, x, {}, {}, {.solver = "rk4", .n_steps = 4, .gradient = how}, generator);
    return grad(sum(l), model.parameters().front().second);
  };
  CHECK(distance(gradient(OdeGradient::checkpointed), gradient(OdeGradient::direct)) < 1e-12);
  CHECK(contains(raised<ValueError>([&] { gradient(OdeGradient::adjoint); }),
                 {"adjoint", "direct and checkpointed"}));
}

TEST_CASE("what a likelihood refuses", "[likelihood_test]") {
  Generator generator(3);
  const VelocityField still = [](double, const Tensor& x) { return zeros_like(x); };
  const Tensor x = randn({5, 2}, generator, DType::float64);
  CHECK(contains(raised<ShapeError>([&] { likelihood(still, ones({3}), generator); }), {"(3,)"}));
  CHECK(contains(raised<ValueError>([&] {
                   likelihood(still, x, generator, {.trace = Trace::hutchinson, .n_probes = 0});
                 }),
                 {"n_probes = 0"}));
  CHECK(contains(
      raised<ShapeError>([&] {
        likelihood(still, x, generator, {.trace = Trace::hutchinson, .probes = ones({5, 2})});
      }),
      {"(5, 2)", "(K, 5, 2)"}));
  // A field that does not move anything leaves the base's density; no rows are no trouble.
  for (const Trace trace : {Trace::exact, Trace::hutchinson}) {
    CHECK(distance(likelihood(still, x, generator, {.trace = trace}).log_prob,
                   standard_normal_log_prob(x)) == 0);
    CHECK(likelihood(still, zeros({0, 2}), generator, {.trace = trace}).log_prob.shape() ==
          Shape{0});
  }
}
