#include "flowgrad/models/likelihood.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

namespace flowgrad {
namespace {

/// Velocity and its divergence (N, 1), or one estimate for each of K probes (N, K).
OdeState slopes(const VelocityField& velocity, double t, const Tensor& x, const Tensor& probes,
                bool keep_graph) {
  const Function f = [&](const Tensor& at) { return velocity(t, at); };
  if (probes.defined()) {
    const ValueAndDerivative d = hutchinson_divergence(f, x, probes, keep_graph);
    return {d.value, d.derivative};
  }
  const ValueAndDerivative d = divergence(f, x, keep_graph);
  return {d.value, unsqueeze(d.derivative, 1)};
}

OdeOptions finer(OdeOptions solver) {
  solver.rtol /= 10;
  solver.atol /= 10;
  solver.n_steps *= 2;
  solver.trace = {};
  return solver;
}

}  // namespace

Likelihood likelihood(const VelocityField& velocity, const Tensor& x, Generator& generator,
                      const LikelihoodOptions& options) {
  if (x.rank() != 2) {
    throw ShapeError(
        fmt::format("likelihood: x has shape {}; (N, D) is accepted", x.shape().to_string()));
  }
  if (!(options.end_time > 0 && options.end_time <= 1)) {
    throw ValueError(
        fmt::format("likelihood: end_time = {} given; above 0 to 1 is accepted", options.end_time));
  }
  const bool by_probes = options.trace == Trace::hutchinson;
  Tensor probes = by_probes ? options.probes : Tensor();
  if (by_probes && !probes.defined()) {
    if (options.n_probes < 1) {
      throw ValueError(
          fmt::format("likelihood: n_probes = {} given; at least 1 is accepted", options.n_probes));
    }
    const Shape shape{options.n_probes, x.size(0), x.size(1)};
    probes = options.probe == Probe::rademacher
                 ? rademacher(shape, generator, x.dtype(), x.device())
                 : randn(shape, generator, x.dtype(), x.device());
  }
  if (by_probes && (probes.rank() != 3 || probes.size(0) < 1 || probes.size(1) != x.size(0) ||
                    probes.size(2) != x.size(1))) {
    throw ShapeError(fmt::format("likelihood: probes of shape {} given; (K, {}, {}) is accepted",
                                 probes.shape().to_string(), x.size(0), x.size(1)));
  }
  if (options.solver.gradient == OdeGradient::adjoint) {
    throw ValueError(
        "likelihood: gradient adjoint given; direct and checkpointed are accepted, because the "
        "parameters behind a velocity are not known here");
  }
  const int64_t k = by_probes ? probes.size(0) : 1;
  // The path leads from data to base; the integral is that of the trace back to t = 0, which has
  // the sign of the inverse map's log-determinant.
  const auto solve = [&](OdeOptions solver, bool keep_graph) {
    NoGrad off(!keep_graph);
    solver.integrals = 1;
    // By value: a checkpointed solve runs the field again in the backward pass.
    const OdeField field = [velocity, probes, keep_graph](double t, const OdeState& y) {
      return slopes(velocity, t, y[0], probes, keep_graph);
    };
    OdeSolution s = solve_ode(field, {x, zeros({x.size(0), k}, x.dtype(), x.device())},
                              options.end_time, 0, solver);
    require_success(s);
    return s;
  };
  const auto density = [](const OdeState& y) {
    return standard_normal_log_prob(y[0]) + mean(y[1], {1});
  };
  const OdeSolution s = solve(options.solver, options.differentiable && mode().recording);
  Likelihood out;
  out.base = s.y[0];
  out.log_prob = density(s.y);
  out.evaluations = s.statistics.evaluations;
  NoGrad off;
  if (options.solver_error) {
    try {
      const OdeSolution fine = solve(finer(options.solver), false);
      out.solver_error = abs(density(fine.y) - out.log_prob.detach());
    } catch (const OdeError&) {  // the result stands, its error is not known
      out.solver_error = full(out.log_prob.shape(), std::numeric_limits<double>::quiet_NaN(),
                              x.dtype(), x.device());
    }
  }
  if (!by_probes) {
    out.probe_error = zeros_like(out.log_prob.detach());
  } else if (k > 1) {
    out.probe_error = std(s.y[1].detach(), {1}) / std::sqrt(static_cast<double>(k));
  }
  return out;
}

Tensor log_prob(FlowMatching& model, const Tensor& x, const Tensor& condition, const Tensor& probe,
                const OdeOptions& solver, Generator& generator) {
  LikelihoodOptions options{.solver = solver, .differentiable = true, .solver_error = false};
  if (probe.defined()) {
    if (probe.shape() != x.shape()) {
      throw ShapeError(fmt::format("log_prob: probe of shape {} given; {} is accepted",
                                   probe.shape().to_string(), x.shape().to_string()));
    }
    options.trace = Trace::hutchinson;
    options.probes = unsqueeze(probe, 0);
  }
  return likelihood(velocity_field(model, condition), x, generator, options).log_prob;
}

}  // namespace flowgrad
