#include "flowgrad/models/ode.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/precision.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/core/device_graph.h"
#include "flowgrad/models/ode_step.h"

namespace flowgrad {
namespace {

constexpr const char* kAdaptive = "dopri5";

const Tableau& tableau(const OdeOptions& options) {
  const auto& all = fixed_step_tableaus();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Tableau& t) { return options.solver == t.name; });
  if (found == all.end()) {
    throw ValueError(fmt::format("odeint: solver \"{}\" given; {} are accepted", options.solver,
                                 fmt::join(ode_solvers(), ", ")));
  }
  if (options.n_steps < 1) {
    throw ValueError(
        fmt::format("odeint: n_steps = {} given; at least 1 is accepted", options.n_steps));
  }
  return *found;
}

OdeState one_step(const OdeField& field, const Tableau& t, double time, double h, const OdeState& y,
                  size_t integrals) {
  std::vector<OdeState> k;
  for (size_t i = 0; i < t.c.size(); ++i) {
    k.push_back(field(time + t.c[i] * h, ode::advanced(y, k, t.a[i], h, y.size() - integrals)));
    ode::check_slopes(k.back(), y);
  }
  return ode::advanced(y, k, t.b, h, y.size());
}

/// The cubic Hermite interpolant of a step of size h at x in [0, 1].
OdeState between(double x, double h, const OdeState& y0, const OdeState& f0, const OdeState& y1,
                 const OdeState& f1) {
  OdeState out;
  const double rest = 1 - x;
  for (size_t i = 0; i < y0.size(); ++i) {
    out.push_back(y0[i] * (rest * rest * (1 + 2 * x)) + f0[i] * (h * x * rest * rest) +
                  y1[i] * (x * x * (3 - 2 * x)) - f1[i] * (h * x * x * rest));
  }
  return out;
}

OdeSolution solve_fixed(const OdeField& field, const OdeState& y0, double t0, double t1,
                        const OdeOptions& options) {
  const Tableau& method = tableau(options);
  const auto integrals = static_cast<size_t>(options.integrals);
  OdeSolution out;
  out.y = y0;
  out.t = t1;
  if (t0 == t1) {
    out.at.assign(options.times.size(), y0);
    return out;
  }
  const double h = (t1 - t0) / static_cast<double>(options.n_steps);
  const auto slopes = [&](double t, const OdeState& y) {
    ++out.statistics.evaluations;
    return field(t, y);
  };
  for (int64_t i = 0; i < options.n_steps; ++i) {
    const double time = t0 + static_cast<double>(i) * h;
    const double end = i + 1 == options.n_steps ? t1 : t0 + static_cast<double>(i + 1) * h;
    const OdeState start = out.y;
    if (options.gradient == OdeGradient::checkpointed) {
      out.y = checkpoint(
          [field, &method, time, h, integrals](std::span<const Tensor> in) {
            return one_step(field, method, time, h, OdeState(in.begin(), in.end()), integrals);
          },
          start);
    } else {
      out.y = one_step(field, method, time, h, start, integrals);
    }
    out.statistics.evaluations += static_cast<int64_t>(method.c.size());
    ++out.statistics.accepted;
    if (options.trace) options.trace({time, h, 0, true, out.statistics.evaluations});
    OdeState f0, f1;
    while (out.at.size() < options.times.size()) {
      const double t = options.times[out.at.size()];
      if ((t1 - t0) * (t - end) > 0) break;
      if (t == time || t == end) {
        out.at.push_back(t == time ? start : out.y);
        continue;
      }
      if (f0.empty()) {
        f0 = slopes(time, start);
        f1 = slopes(end, out.y);
      }
      out.at.push_back(between((t - time) / (end - time), end - time, start, f0, out.y, f1));
    }
  }
  return out;
}

/// y with the derivative `slope` in t, which is given as a tensor.
OdeState with_time(const OdeState& y, const OdeState& slope, const Tensor& t) {
  const size_t n = y.size();
  std::vector<Tensor> inputs = y;
  for (const Tensor& s : slope) inputs.push_back(s.detach());
  inputs.push_back(t);
  return custom_vjp(
      "odeint", [n](std::span<const Tensor> in) { return OdeState(in.begin(), in.begin() + n); },
      [n](std::span<const Tensor> g, std::span<const Tensor> in, std::span<const Tensor>) {
        std::vector<Tensor> out(in.size());
        Tensor total;
        for (size_t i = 0; i < n; ++i) {
          out[i] = g[i];
          const Tensor part = sum(g[i] * in[n + i]);
          total = total.defined() ? total + part : part;
        }
        out.back() = to(cast(total, in.back().dtype()), in.back().device());
        return out;
      },
      inputs, true);
}

OdeSolution solve(const OdeParameterField& field, const OdeState& y0,
                  const std::vector<Tensor>& parameters, double t0, double t1,
                  const OdeOptions& options) {
  if (options.gradient == OdeGradient::adjoint && mode().recording) {
    return ode::solve_adjoint(field, y0, parameters, t0, t1, options);
  }
  const OdeField bound = [field, parameters](double t, const OdeState& y) {
    return field(t, y, parameters);
  };
  return is_adaptive(options) ? ode::solve_adaptive(bound, y0, t0, t1, options)
                              : solve_fixed(bound, y0, t0, t1, options);
}

}  // namespace

void ode::check_slopes(const OdeState& slopes, const OdeState& y) {
  if (slopes.size() != y.size()) {
    throw ShapeError(fmt::format("odeint: the field returned {} tensors for a state of {}",
                                 slopes.size(), y.size()));
  }
  for (size_t i = 0; i < y.size(); ++i) {
    if (slopes[i].shape() == y[i].shape() && slopes[i].dtype() == y[i].dtype()) continue;
    throw ShapeError(
        fmt::format("odeint: the field returned {} {} for tensor {} of the state, which is {} {}",
                    slopes[i].shape().to_string(), name_of(slopes[i].dtype()), i,
                    y[i].shape().to_string(), name_of(y[i].dtype())));
  }
}

void ode::check_options(const OdeOptions& o, const OdeState& y0, double t0, double t1) {
  const size_t state = y0.size();
  const auto refuse = [](const char* name, double given, const char* accepted) {
    throw ValueError(fmt::format("odeint: {} = {} given; {}", name, given, accepted));
  };
  if (is_adaptive(o)) {
    if (is_capturing()) {
      throw DeviceError(
          "odeint: dopri5 given while a graph is captured: the host decides on each of its steps; "
          "a solver with n_steps equal steps such as rk4 is accepted");
    }
    for (const Tensor& y : y0) {
      if (!is_floating(y.dtype())) {
        throw DTypeError(fmt::format(
            "odeint: y0 of dtype {} given; float32 and float64 are accepted", name_of(y.dtype())));
      }
      if (y.dtype() != DType::float32 || !rounds_matmul(y.device())) continue;
      throw ValueError(
          "odeint: dopri5 given while products are rounded to tf32 or bf16: the estimate of the "
          "error would take the rounding for stiffness; matmul precision float32 is accepted, or a "
          "solver with n_steps equal steps");
    }
    for (const auto& [name, value] : {std::pair("rtol", o.rtol), std::pair("atol", o.atol)}) {
      if (!(value >= 0) || std::isinf(value)) refuse(name, value, "a number from 0 is accepted");
    }
    if (o.atol == 0) refuse("atol", 0, "above 0 is accepted, so that a state of 0 has a scale");
    if (o.max_steps < 1)
      refuse("max_steps", static_cast<double>(o.max_steps), "at least 1 is accepted");
    if (!(o.first_step >= 0) || std::isinf(o.first_step))
      refuse("first_step", o.first_step, "a size above 0 is accepted, or 0 to choose one");
  } else {
    tableau(o);
  }
  if (o.integrals < 0 || o.integrals > static_cast<int64_t>(state)) {
    throw ValueError(
        fmt::format("odeint: integrals = {} given for a state of {}", o.integrals, state));
  }
  if (!std::isfinite(t0)) refuse("t0", t0, "a finite time is accepted");
  if (!std::isfinite(t1)) refuse("t1", t1, "a finite time is accepted");
  double before = t0;
  for (const double t : o.times) {
    const bool ordered = t1 >= t0 ? before <= t && t <= t1 : before >= t && t >= t1;
    if (!ordered) {
      throw ValueError(fmt::format(
          "odeint: time {} given after {}; times in order from t0 = {} to t1 = {} are accepted", t,
          before, t0, t1));
    }
    before = t;
  }
}

OdeTime::OdeTime(const Tensor& t) : value(0), tensor(t) {
  if (t.rank() != 0) {
    throw ShapeError(
        fmt::format("odeint: a time of shape {} given; rank 0 is accepted", t.shape().to_string()));
  }
  value = t.item();
}

const std::vector<std::string>& fixed_step_solvers() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const Tableau& t : fixed_step_tableaus()) out.push_back(t.name);
    return out;
  }();
  return names;
}

const std::vector<std::string>& ode_solvers() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out = fixed_step_solvers();
    out.push_back(kAdaptive);
    return out;
  }();
  return names;
}

bool is_adaptive(const OdeOptions& options) { return options.solver == kAdaptive; }

OdeSolution solve_ode(const OdeField& field, OdeState y0, const OdeTime& t0, const OdeTime& t1,
                      const OdeOptions& options) {
  return solve_ode(
      [field](double t, const OdeState& y, std::span<const Tensor>) { return field(t, y); },
      std::move(y0), {}, t0, t1, options);
}

OdeSolution solve_ode(const OdeParameterField& field, OdeState y0,
                      const std::vector<Tensor>& parameters, const OdeTime& t0, const OdeTime& t1,
                      const OdeOptions& options) {
  ode::check_options(options, y0, t0.value, t1.value);
  const auto wants = [](const OdeTime& t) {
    return mode().recording && t.tensor.defined() && t.tensor.requires_grad();
  };
  const auto slopes = [&](double t, const OdeState& y, double sign) {
    NoGrad off;
    OdeState f = field(t, y, parameters);
    ode::check_slopes(f, y);
    for (Tensor& k : f) k = k * sign;
    return f;
  };
  if (wants(t0)) y0 = with_time(y0, slopes(t0.value, y0, -1), t0.tensor);
  OdeSolution out = solve(field, y0, parameters, t0.value, t1.value, options);
  out.statistics.evaluations += wants(t0) ? 1 : 0;
  // A solve that ended before t1 does not depend on it.
  if (wants(t1) && out.status == OdeStatus::success) {
    out.y = with_time(out.y, slopes(t1.value, out.y, 1), t1.tensor);
    ++out.statistics.evaluations;
  }
  return out;
}

namespace {

/// OdeError for a solve that ended at `place`.
void raise(OdeStatus status, const std::string& place, const OdeStatistics& s) {
  const char* what = status == OdeStatus::max_steps ? "max_steps was reached"
                     : status == OdeStatus::step_underflow
                         ? "the step fell below the resolution of t"
                         : "the state or its slope is not finite";
  const char* remedy =
      status == OdeStatus::max_steps ? "raise max_steps, or rtol and atol"
      : status == OdeStatus::step_underflow
          ? "raise rtol and atol, or use float64: the error asked for is below rounding, or the "
            "solution has a singularity there"
          : "check the initial state and the field's parameters for values that are not finite, or "
            "that overflow the dtype when divided by the tolerance; the solution may grow without "
            "bound";
  throw OdeError(status,
                 fmt::format("odeint: {} at {}, after {} accepted and {} rejected steps; {}", what,
                             place, s.accepted, s.rejected, remedy));
}

}  // namespace

void require_success(const OdeSolution& s) {
  if (s.status == OdeStatus::success) return;
  // The first step has no size where the state or its slope is not finite.
  const std::string step = std::isfinite(s.dt) ? fmt::format(" with dt = {:g}", s.dt) : "";
  raise(s.status, fmt::format("t = {:g}{}", s.t, step), s.statistics);
}

void require_success(const OdeRowsSolution& s, size_t row) {
  if (s.status[row] == OdeStatus::success) return;
  raise(s.status[row], fmt::format("t = {:g} in row {}", s.t[row], row), s.statistics[row]);
}

OdeState odeint(const OdeField& field, OdeState y0, const OdeTime& t0, const OdeTime& t1,
                const OdeOptions& options) {
  OdeSolution solution = solve_ode(field, std::move(y0), t0, t1, options);
  require_success(solution);
  return std::move(solution.y);
}

Tensor odeint(const std::function<Tensor(double, const Tensor&)>& field, const Tensor& y0,
              const OdeTime& t0, const OdeTime& t1, const OdeOptions& options) {
  return odeint([field](double t, const OdeState& y) { return OdeState{field(t, y[0])}; },
                OdeState{y0}, t0, t1, options)[0];
}

std::optional<kernels::SolveSteps> solve_steps(double t0, double t1, const OdeOptions& options) {
  if (is_adaptive(options)) return {};
  const Tableau& method = tableau(options);
  if (t0 == t1 || method.c.size() > kernels::SolveSteps::kMaxStages) return {};
  kernels::SolveSteps steps;
  steps.stages = static_cast<int>(method.c.size());
  steps.n_steps = options.n_steps;
  steps.t0 = t0;
  steps.h = (t1 - t0) / static_cast<double>(options.n_steps);
  for (size_t i = 0; i < method.c.size(); ++i) {
    const std::vector<double>& a = method.a[i];
    const auto before_last = a.empty() ? a.end() : a.end() - 1;
    if (std::any_of(a.begin(), before_last, [](double w) { return w != 0; })) return {};
    steps.time[i] = method.c[i];
    steps.previous[i] = a.empty() ? 0 : a.back();
    steps.weight[i] = method.b[i];
  }
  return steps;
}

std::vector<double> field_times(double t0, double t1, const OdeOptions& options) {
  std::vector<double> times;
  if (is_adaptive(options)) return times;
  const Tableau& method = tableau(options);
  if (t0 == t1) return times;
  const double h = (t1 - t0) / static_cast<double>(options.n_steps);
  for (int64_t i = 0; i < options.n_steps; ++i) {
    for (double c : method.c) times.push_back(t0 + static_cast<double>(i) * h + c * h);
  }
  return times;
}

std::vector<SolverStage> solver_stages(double t0, double t1, const OdeOptions& options) {
  const std::optional<kernels::SolveSteps> steps = solve_steps(t0, t1, options);
  if (!steps) return {};
  std::vector<SolverStage> stages;
  const auto n = static_cast<size_t>(steps->stages);
  for (const double time : field_times(t0, t1, options)) {
    const size_t i = stages.size() % n;
    const bool last = i + 1 == n;
    stages.push_back(
        {time, steps->h * steps->weight[i], last ? 0 : steps->h * steps->previous[i + 1], last});
  }
  return stages;
}

}  // namespace flowgrad
