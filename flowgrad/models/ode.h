#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "flowgrad/autograd/cnf_solve.h"
#include "flowgrad/core/error.h"
#include "flowgrad/core/tensor.h"

/// Initial value problems dy/dt = f(t, y): odeint returns the end and raises where there is none,
/// solve_ode tells how the solve went, solve_ode_rows gives each row of a batch its own steps.
namespace flowgrad {

/// State of an ordinary differential equation: one or more tensors that advance together.
using OdeState = std::vector<Tensor>;
/// dy/dt at time t, with the shapes of y.
using OdeField = std::function<OdeState(double t, const OdeState& y)>;
/// dx/dt (N, D) at time t and rows x (N, D); of a flow, from noise at t = 0 to data at t = 1.
using VelocityField = std::function<Tensor(double t, const Tensor& x)>;
/// The same with the tensors that it depends on given to it, in the order of a list.
using OdeParameterField =
    std::function<OdeState(double t, const OdeState& y, std::span<const Tensor> parameters)>;
/// As OdeField with a time t (M) for each of M rows; `rows` (M, int64) are their positions in the
/// batch, for whatever else the field has per row.
using OdeRowField = std::function<OdeState(const Tensor& t, const OdeState& y, const Tensor& rows)>;

/// How a solve is differentiated in y0, the field's tensors, and t0 and t1.
enum class OdeGradient {
  /// Through the accepted steps, their sizes being constants. Any order.
  direct,
  /// The same, keeping the state at each step only and running the step again in the backward pass;
  /// what the field captures by reference must still live then.
  checkpointed,
  /// The continuous adjoint (Pontryagin et al. 1962; Chen et al. 2018): state, adjoint and
  /// parameter gradients are solved backwards from the end, in memory that does not depend on the
  /// number of steps. First order; correct to the solver's tolerance. For y0 and the parameters of
  /// an OdeParameterField, which may read those that are leaves elsewhere too, in a module for one:
  /// a field that depends on another tensor of the tape raises GradError, in the backward pass or,
  /// where nothing else is on the tape, at once.
  adjoint,
};

/// One attempted step of a solve, from t by dt. It was accepted where error_ratio, the RMS of the
/// estimated error over atol + rtol max(|y|), is at most 1; fixed steps have none and give 0.
struct OdeStep {
  double t, dt, error_ratio;
  bool accepted;
  int64_t evaluations;  // of the field, so far
};

struct OdeOptions {
  /// euler (order 1), midpoint and heun (order 2), rk4 (the classical one, order 4), dopri5_fixed
  /// (Dormand & Prince in equal steps, order 5): n_steps equal steps. dopri5: steps chosen by rtol
  /// and atol.
  std::string solver = "rk4";
  int64_t n_steps = 20;
  OdeGradient gradient = OdeGradient::direct;
  /// How many of the last tensors of the state are mere integrals, which the field does not read:
  /// it is then given their values at the start of the step.
  int64_t integrals = 0;

  // dopri5 alone reads these.
  double rtol = 1e-5, atol = 1e-5;
  /// Attempted steps before the solve gives up.
  int64_t max_steps = 10000;
  /// Size of the first step; 0 = chosen as in Hairer, Norsett & Wanner 1993, II.4.
  double first_step = 0;
  /// The last step ends at t1, and the field is never evaluated beyond. Otherwise the solve steps
  /// past t1 and interpolates, as torchdiffeq does.
  bool clip = true;

  /// Times from t0 towards t1 at which the state is wanted as well (OdeSolution::at): by the
  /// quartic interpolant of dopri5, the cubic Hermite interpolant of the others.
  std::vector<double> times = {};
  /// Told every attempted step.
  std::function<void(const OdeStep&)> trace = {};
};

/// A time, as a number or as a rank-0 tensor whose gradient is wanted. The gradient is that of the
/// exact flow, <g, f(t1, y1)> and -<g0, f(t0, y0)>, once differentiable.
struct OdeTime {
  OdeTime(double t) : value(t) {}
  /// ShapeError unless of rank 0.
  OdeTime(const Tensor& t);
  double value;
  Tensor tensor = {};
};

enum class OdeStatus { success, max_steps, step_underflow, non_finite };

struct OdeStatistics {
  int64_t evaluations = 0;
  int64_t accepted = 0;
  int64_t rejected = 0;
};

struct OdeSolution {
  OdeState y;  // at t
  /// t1, or where the solve ended without success.
  double t = 0;
  /// The step that would have come next; 0 for fixed steps.
  double dt = 0;
  OdeStatus status = OdeStatus::success;
  OdeStatistics statistics;
  /// States at OdeOptions::times, as far as the solve came.
  std::vector<OdeState> at;
};

/// A solve that did not reach its end: the message names t, the step and the remedy.
class OdeError : public Error {
 public:
  OdeError(OdeStatus status, const std::string& message) : Error(message), status(status) {}
  OdeStatus status;
};

/// Names that OdeOptions::solver accepts, and those among them that take n_steps equal steps.
const std::vector<std::string>& ode_solvers();
const std::vector<std::string>& fixed_step_solvers();
bool is_adaptive(const OdeOptions& options);

/// Solves from y0 at t0 to t1, in either time direction; t1 = t0 returns y0 itself. Time and step
/// are kept in double whatever the dtype. ValueError for an unknown solver, a count below 1, a
/// negative or non-finite tolerance, atol = 0, non-finite or unordered times; ShapeError for a
/// field whose result differs from its state in shape or dtype. Equal steps hand on values that are
/// not finite; dopri5 ends with OdeStatus::non_finite.
OdeSolution solve_ode(const OdeField& field, OdeState y0, const OdeTime& t0, const OdeTime& t1,
                      const OdeOptions& options = {});
OdeSolution solve_ode(const OdeParameterField& field, OdeState y0,
                      const std::vector<Tensor>& parameters, const OdeTime& t0, const OdeTime& t1,
                      const OdeOptions& options = {});

/// The state at t1. As solve_ode, and OdeError where the solve does not get there.
OdeState odeint(const OdeField& field, OdeState y0, const OdeTime& t0, const OdeTime& t1,
                const OdeOptions& options = {});
Tensor odeint(const VelocityField& field, const Tensor& y0, const OdeTime& t0, const OdeTime& t1,
              const OdeOptions& options = {});
/// Raises OdeError unless the solve succeeded.
void require_success(const OdeSolution& solution);

/// What each row of a batch needed.
struct OdeRowsSolution {
  OdeState y;             // each row at its time t
  std::vector<double> t;  // t1, or where the row ended without success
  std::vector<OdeStatus> status;
  std::vector<OdeStatistics> statistics;
};

/// dopri5 with a time, a step and an error control of its own for each row (axis 0 of every tensor
/// of the state): the result of a row is bit for bit that of the row alone. The field sees the rows
/// that are under way only. Gradients direct or checkpointed. ValueError for another solver or
/// gradient, clip = false, `times` or a trace; ShapeError for tensors that differ in rows.
OdeRowsSolution solve_ode_rows(const OdeRowField& field, OdeState y0, double t0, double t1,
                               const OdeOptions& options);

/// Raises OdeError, naming the row, unless that row's solve succeeded.
void require_success(const OdeRowsSolution& solution, size_t row);

/// The same steps for a kernel that takes them all. Nothing where there is no step (t0 = t1), the
/// solver is adaptive, or a stage reads more than the slope before it. ValueError as odeint.
std::optional<kernels::SolveSteps> solve_steps(double t0, double t1, const OdeOptions& options);

/// Every time at which odeint evaluates the field, in that order: what depends on time alone can be
/// prepared in one batch. None for an adaptive solver.
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
