// Gradients of solves: direct, checkpointed and by the continuous adjoint, against each other and
// against finite differences, in the state, the parameters and both times.
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/core/allocator.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using V = std::vector<double>;

namespace {

/// y' = tanh(y W) + sin(3 t) b with state (2, 3), and the integral of |y'|^2.
struct Example {
  Tensor w, b, y0, t0, t1;
  /// A defect: the slope's derivative in the state is lost.
  bool loses_state = false;

  explicit Example(double from = 0.1, double until = 0.9) {
    Generator generator(4);
    w = randn({3, 3}, generator, DType::float64).requires_grad_();
    b = randn({3}, generator, DType::float64).requires_grad_();
    y0 = randn({2, 3}, generator, DType::float64).requires_grad_();
    t0 = scalar(from, DType::float64).requires_grad_();
    t1 = scalar(until, DType::float64).requires_grad_();
  }
  std::vector<Tensor> inputs() const { return {y0, w, b, t0, t1}; }

  OdeParameterField slopes() const {
    return [lost = loses_state](double t, const OdeState& y, std::span<const Tensor> p) {
      const Tensor v = tanh(matmul(lost ? y[0].detach() : y[0], p[0])) + p[1] * std::sin(3 * t);
      return OdeState{v, sum(square(v), {1})};
    };
  }
  Tensor loss(OdeOptions o, std::vector<double> times = {}) const {
    o.integrals = 1;
    o.times = std::move(times);
    const OdeSolution s = solve_ode(slopes(), {y0, zeros({2}, DType::float64)}, {w, b}, t0, t1, o);
    require_success(s);
    Tensor total = sum(square(s.y[0])) + sum(s.y[1] * 0.7);
    for (size_t i = 0; i < s.at.size(); ++i) {
      total = total + sum(sin(s.at[i][0])) * static_cast<double>(i + 1) + sum(s.at[i][1]);
    }
    return total;
  }
  std::vector<Tensor> gradients(const OdeOptions& o, const V& times = {}) const {
    const Tensor value = loss(o, times);
    const std::vector<Tensor> in = inputs();
    return grad(std::span(&value, 1), in);
  }
};

OdeOptions with(const char* solver, OdeGradient how, double tolerance = 1e-10) {
  return {.solver = solver, .n_steps = 200, .gradient = how, .rtol = tolerance, .atol = tolerance};
}

/// Central difference in one element, the leaf restored.
double numeric(const Example& e, const Tensor& leaf, int64_t i, const OdeOptions& o,
               const V& times) {
  NoGrad off;
  const Tensor flat = reshape(leaf.detach(), {leaf.numel()});
  const double h = 1e-4;
  const double before = flat.at({i});
  const auto at = [&](double value) {
    fill_(slice(flat, 0, i, i + 1), value);
    // The times are read when a solve starts.
    return e.loss(o, times).item();
  };
  const double slope =
      (at(before - 2 * h) - 8 * at(before - h) + 8 * at(before + h) - at(before + 2 * h)) /
      (12 * h);
  fill_(slice(flat, 0, i, i + 1), before);
  return slope;
}

}  // namespace

namespace {

double worst_distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, distance(a[i], b[i]));
  return worst;
}

/// Largest distance of direct gradients, in one element of every input, from central differences,
/// relative to max(1, |difference|).
double off_differences(const Example& e, const OdeOptions& o, const V& times) {
  const auto direct = e.gradients(o, times);
  const std::vector<Tensor> in = e.inputs();
  double worst = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const int64_t which = in[i].numel() / 2;
    const double want = numeric(e, in[i], which, o, times);
    const double got = reshape(direct[i], {in[i].numel()}).at({which});
    worst = std::max(worst, std::abs(got - want) / std::max(1.0, std::abs(want)));
  }
  return worst;
}

}  // namespace

TEST_CASE("three kinds of gradient agree with finite differences", "[ode_gradient_test]") {
  for (const bool reverse : {false, true}) {
    Example e(reverse ? 0.9 : 0.1, reverse ? 0.1 : 0.9);
    V times{0.2, 0.55};
    if (reverse) std::reverse(times.begin(), times.end());
    for (const char* solver : {"rk4", "dopri5_fixed", "dopri5"}) {
      for (const V& at : {V{}, times}) {
        INFO(solver << (reverse ? " backwards" : "") << " with " << at.size() << " times");
        const auto direct = e.gradients(with(solver, OdeGradient::direct), at);
        const auto kept = e.gradients(with(solver, OdeGradient::checkpointed), at);
        const auto adjoint = e.gradients(with(solver, OdeGradient::adjoint), at);
        CHECK(worst_distance(kept, direct) < 1e-12);
        CHECK(worst_distance(adjoint, direct) < 1e-8);
        CHECK(off_differences(e, with(solver, OdeGradient::direct), at) < 1e-6);
      }
    }
    // Planted: a term of the chain rule dropped.
    e.loses_state = true;
    CHECK(off_differences(e, with("dopri5", OdeGradient::direct), {}) > 1e-6);
  }
}

TEST_CASE("the adjoint's error follows the tolerance", "[ode_gradient_test]") {
  const Example e;
  const auto exact = e.gradients(with("dopri5", OdeGradient::direct, 1e-12));
  const auto error = [&](double tolerance) {
    return worst_distance(e.gradients(with("dopri5", OdeGradient::adjoint, tolerance)), exact);
  };
  for (const double tolerance : {1e-5, 1e-7, 1e-9}) {
    INFO(tolerance);
    CHECK(error(tolerance) < 10 * tolerance);
    // Planted: a solve that is told a looser tolerance.
    CHECK(error(1e4 * tolerance) > 10 * tolerance);
  }
}

TEST_CASE("direct and checkpointed gradients have a second derivative, the adjoint says no",
          "[ode_gradient_test]") {
  const Example e;
  const auto second = [&](OdeGradient how) {
    OdeOptions o{.solver = "dopri5", .gradient = how, .integrals = 0, .rtol = 1e-8, .atol = 1e-8};
    const Tensor end =
        solve_ode([](double, const OdeState& y,
                     std::span<const Tensor> p) { return OdeState{tanh(matmul(y[0], p[0]))}; },
                  {e.y0}, {e.w}, 0, 1, o)
            .y[0];
    const Tensor first = grad(sum(square(end)), e.w, {.create_graph = true});
    return grad(sum(square(first)), e.w);
  };
  const Tensor direct = second(OdeGradient::direct);
  CHECK(distance(second(OdeGradient::checkpointed), direct) < 1e-12);
  CHECK(contains(raised<GradError>([&] { second(OdeGradient::adjoint); }), {"odeint", "once"}));
  // A time's gradient is that of the exact flow: it has no derivative of its own.
  CHECK(contains(raised<GradError>([&] {
                   const Tensor end = odeint([](double, const Tensor& y) { return sin(y); }, e.y0,
                                             0, e.t1, {.solver = "dopri5"});
                   const Tensor g = grad(sum(end), e.t1, {.create_graph = true});
                   grad(g, e.y0);
                 }),
                 {"odeint", "once"}));
}

TEST_CASE("the adjoint refuses a field that depends on what it was not told",
          "[ode_gradient_test]") {
  const Example e;
  const auto affine = [&](double, const OdeState& y, std::span<const Tensor> p) {
    return OdeState{matmul(y[0], p[0]) + e.b};
  };
  const OdeSolution s = solve_ode(affine, {e.y0}, {e.w}, 0, 1, {.gradient = OdeGradient::adjoint});
  CHECK(contains(raised<GradError>([&] { backward(sum(s.y[0])); }), {"(3,)", "parameters"}));
  // A pass that could do without the solve, too.
  const Tensor loss = sum(s.y[0]) + sum(square(e.b));
  CHECK(contains(raised<GradError>([&] { grad(loss, e.b); }), {"(3,)", "parameters"}));
  // Parameters may be computed from leaves, and from each other.
  const Tensor one = e.w * 2;
  const Tensor two = sin(one);
  const auto through = [&](OdeGradient how) {
    const auto field = [](double, const OdeState& y, std::span<const Tensor> p) {
      return OdeState{sin(matmul(y[0], p[0])) + matmul(y[0], p[1])};
    };
    const OdeSolution end =
        solve_ode(field, {e.y0}, {one, two, scalar(1)}, 0, 1, {.n_steps = 100, .gradient = how});
    return grad(sum(end.y[0]), e.w, {.retain_graph = true});
  };
  CHECK(distance(through(OdeGradient::adjoint), through(OdeGradient::direct)) < 1e-6);
}

TEST_CASE("the adjoint refuses to lose the gradient of what a field reads now and then",
          "[ode_gradient_test]") {
  const Tensor k = scalar(0.7, DType::float64).requires_grad_();
  const Tensor data = tensor({0.4, 1.1}, DType::float64);
  const Tensor leaf = data.detach().requires_grad_();
  const auto solve = [&](const Tensor& y0, double until) {
    const OdeField field = [k, until](double t,
                                      const OdeState& y) {  // lives until the backward pass
      return OdeState{t < until ? sin(y[0] * k) : sin(y[0])};
    };
    return solve_ode(field, {y0}, 0, 1, {.gradient = OdeGradient::adjoint}).y[0];
  };
  // Constant data: nothing else is on the tape, so no backward pass would come by.
  CHECK(contains(raised<GradError>([&] { solve(data, 2); }), {"()", "parameters"}));
  CHECK(contains(raised<GradError>([&] { solve(data, 0.5); }), {"()", "parameters"}));
  CHECK(
      contains(raised<GradError>([&] { backward(sum(solve(leaf, 0.5))); }), {"()", "parameters"}));
  NoGrad off;
  CHECK_FALSE(solve(data, 2).requires_grad());
}

TEST_CASE("the adjoint of a field that reads its parameters from a module", "[ode_gradient_test]") {
  Generator generator(2);
  MLP net({3, 8, 3}, silu, generator, DType::float64);
  const Tensor y0 = randn({2, 3}, generator, DType::float64).requires_grad_();
  std::vector<Tensor> parameters, in{y0};
  for (const auto& [name, p] : net.parameters()) parameters.push_back(p);
  in.insert(in.end(), parameters.begin(), parameters.end());
  const OdeParameterField field = [&](double, const OdeState& y, std::span<const Tensor>) {
    return OdeState{net(y[0])};
  };
  const auto gradients = [&](OdeGradient how) {
    const OdeSolution s = solve_ode(field, {y0}, parameters, 0, 1, with("dopri5", how));
    return grad(sum(square(s.y[0])), in);
  };
  const auto direct = gradients(OdeGradient::direct), adjoint = gradients(OdeGradient::adjoint);
  for (size_t i = 0; i < in.size(); ++i) CHECK(distance(adjoint[i], direct[i]) < 1e-7);
  for (const Tensor& p : parameters) CHECK_FALSE(p.grad().defined());
}

TEST_CASE("a field that draws sees the same numbers again", "[ode_gradient_test]") {
  const Tensor y0 = full({5}, 0.3, DType::float64).requires_grad_();
  const auto gradient = [&](OdeGradient how) {
    Generator draws(3);
    const OdeField field = [&](double, const OdeState& y) {
      return OdeState{sin(y[0]) * randn({5}, draws, DType::float64)};
    };
    const OdeSolution s =
        solve_ode(field, {y0}, 0, 1, {.solver = "rk4", .n_steps = 3, .gradient = how});
    return grad(sum(s.y[0]), y0);
  };
  CHECK(distance(gradient(OdeGradient::checkpointed), gradient(OdeGradient::direct)) == 0);
}

TEST_CASE("the adjoint's memory does not grow with the steps", "[ode_gradient_test]") {
  Generator generator(4);
  const Tensor w = randn({64, 64}, generator).requires_grad_();
  const Tensor y0 = randn({256, 64}, generator).requires_grad_();
  const auto peak = [&](OdeGradient how, int64_t steps) {
    OdeOptions o{.solver = "rk4", .n_steps = steps, .gradient = how};
    const int64_t before = memory_stats().live_bytes;
    reset_peak_memory();
    {
      const OdeParameterField field = [](double, const OdeState& y, std::span<const Tensor> p) {
        return OdeState{tanh(matmul(y[0], p[0]) * 0.1)};
      };
      const Tensor end = solve_ode(field, {y0}, {w}, 0, 1, o).y[0];
      grad(sum(end), {y0, w});
    }
    CHECK(memory_stats().live_bytes == before);
    return memory_stats().peak_bytes - before;
  };
  CHECK(peak(OdeGradient::adjoint, 64) == peak(OdeGradient::adjoint, 4));
  CHECK(peak(OdeGradient::direct, 64) > 8 * peak(OdeGradient::direct, 4));
  CHECK(peak(OdeGradient::checkpointed, 64) < peak(OdeGradient::direct, 64) / 4);
}
