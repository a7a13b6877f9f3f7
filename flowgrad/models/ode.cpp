#include "flowgrad/models/ode.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

namespace flowgrad {
namespace {

/// An explicit Runge-Kutta method (Hairer, Norsett & Wanner 1993, II.1): stage i reads the earlier
/// ones with weights a, at time c_i h.
struct Tableau {
  const char* name;
  std::vector<double> c;
  std::vector<std::vector<double>> a;
  std::vector<double> b;
};

const std::vector<Tableau>& tableaus() {
  static const std::vector<Tableau> all = {
      {"euler", {0}, {{}}, {1}},
      {"midpoint", {0, 0.5}, {{}, {0.5}}, {0, 1}},
      {"heun", {0, 1}, {{}, {1}}, {0.5, 0.5}},
      {"rk4",
       {0, 0.5, 0.5, 1},
       {{}, {0.5}, {0, 0.5}, {0, 0, 1}},
       {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}},
  };
  return all;
}

/// y + h sum_i w_i k_i for the first `n` tensors. Slopes of equal weight are added before they are
/// scaled: fewer operations.
OdeState advanced(const OdeState& y, const std::vector<OdeState>& k,
                  const std::vector<double>& weights, double h, size_t n) {
  OdeState out = y;
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto same = std::find(weights.begin(), weights.end(), weights[i]);
    if (weights[i] == 0 || same != weights.begin() + static_cast<std::ptrdiff_t>(i)) continue;
    for (size_t j = 0; j < n; ++j) {
      Tensor slope = k[i][j];
      for (size_t l = i + 1; l < weights.size(); ++l) {
        if (weights[l] == weights[i]) slope = slope + k[l][j];
      }
      out[j] = out[j] + slope * (h * weights[i]);
    }
  }
  return out;
}

OdeState one_step(const OdeField& field, const Tableau& t, double time, double h, const OdeState& y,
                  size_t integrals) {
  std::vector<OdeState> k;
  for (size_t i = 0; i < t.c.size(); ++i) {
    k.push_back(field(time + t.c[i] * h, advanced(y, k, t.a[i], h, y.size() - integrals)));
    if (k.back().size() != y.size()) {
      throw ShapeError(fmt::format("odeint: the field returned {} tensors for a state of {}",
                                   k.back().size(), y.size()));
    }
  }
  return advanced(y, k, t.b, h, y.size());
}

const Tableau& tableau(const OdeOptions& options) {
  const auto found = std::find_if(tableaus().begin(), tableaus().end(),
                                  [&](const Tableau& t) { return options.solver == t.name; });
  if (found == tableaus().end()) {
    throw ValueError(fmt::format("odeint: solver \"{}\" given; {} are accepted", options.solver,
                                 fmt::join(fixed_step_solvers(), ", ")));
  }
  if (options.n_steps < 1) {
    throw ValueError(
        fmt::format("odeint: n_steps = {} given; at least 1 is accepted", options.n_steps));
  }
  return *found;
}

}  // namespace

const std::vector<std::string>& fixed_step_solvers() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const Tableau& t : tableaus()) out.push_back(t.name);
    return out;
  }();
  return names;
}

OdeState odeint(const OdeField& field, OdeState y, double t0, double t1,
                const OdeOptions& options) {
  const Tableau& method = tableau(options);
  if (options.integrals < 0 || options.integrals > static_cast<int64_t>(y.size())) {
    throw ValueError(
        fmt::format("odeint: integrals = {} given for a state of {}", options.integrals, y.size()));
  }
  const auto integrals = static_cast<size_t>(options.integrals);
  if (t0 == t1) return y;
  const double h = (t1 - t0) / static_cast<double>(options.n_steps);
  for (int64_t i = 0; i < options.n_steps; ++i) {
    const double time = t0 + static_cast<double>(i) * h;
    if (options.checkpoint_steps) {
      y = checkpoint(
          [field, &method, time, h, integrals](std::span<const Tensor> in) {
            return one_step(field, method, time, h, OdeState(in.begin(), in.end()), integrals);
          },
          y);
    } else {
      y = one_step(field, method, time, h, y, integrals);
    }
  }
  return y;
}

Tensor odeint(const std::function<Tensor(double, const Tensor&)>& field, const Tensor& y0,
              double t0, double t1, const OdeOptions& options) {
  return odeint([field](double t, const OdeState& y) { return OdeState{field(t, y[0])}; },
                OdeState{y0}, t0, t1, options)[0];
}

std::optional<kernels::SolveSteps> solve_steps(double t0, double t1, const OdeOptions& options) {
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
  const Tableau& method = tableau(options);
  std::vector<double> times;
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
