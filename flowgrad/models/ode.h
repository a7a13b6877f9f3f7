#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "flowgrad/autograd/cnf_solve.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// State of an ordinary differential equation: one or more tensors that advance together.
using OdeState = std::vector<Tensor>;
/// dy/dt at time t.
using OdeField = std::function<OdeState(double t, const OdeState& y)>;

struct OdeOptions {
  /// euler (order 1), midpoint and heun (order 2), rk4 (the classical one, order 4).
  std::string solver = "rk4";
  int64_t n_steps = 20;
  /// Keep only the state at each step for the backward pass and run the step again there.
  bool checkpoint_steps = false;
  /// How many of the last tensors of the state are mere integrals, which the field does not read:
  /// it is then given their values at the start of the step.
  int64_t integrals = 0;
};

/// Names that OdeOptions::solver accepts.
const std::vector<std::string>& fixed_step_solvers();

/// State at t1 from y0 at t0 by n_steps equal steps, in either time direction (t1 < t0 integrates
/// backwards; t1 = t0 returns y0). Differentiable through the steps in y0 and in whatever the field
/// captures; with checkpoint_steps the field runs again in the backward pass, so what it captures
/// by reference must still live then. ValueError for an unknown solver or n_steps < 1.
OdeState odeint(const OdeField& field, OdeState y0, double t0, double t1,
                const OdeOptions& options = {});
Tensor odeint(const std::function<Tensor(double t, const Tensor& y)>& field, const Tensor& y0,
              double t0, double t1, const OdeOptions& options = {});

/// The same steps for a kernel that takes them all. Nothing where there is no step (t0 = t1), or a
/// stage reads more than the slope before it. ValueError as odeint.
std::optional<kernels::SolveSteps> solve_steps(double t0, double t1, const OdeOptions& options);

/// Every time at which odeint evaluates the field, in that order: what depends on time alone can be
/// prepared in one batch.
std::vector<double> field_times(double t0, double t1, const OdeOptions& options);

/// One evaluation of the field by odeint: its slope times in_step goes to the end of the step;
/// times in_next, added to the step's start, it gives the next evaluation's state.
struct SolverStage {
  double time, in_step, in_next;
  bool ends_step;
};
/// All evaluations in order; none where solve_steps gives nothing.
std::vector<SolverStage> solver_stages(double t0, double t1, const OdeOptions& options);

}  // namespace flowgrad
