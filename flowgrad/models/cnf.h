#pragma once

#include "flowgrad/autograd/cnf_solve.h"
#include "flowgrad/models/flow.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"

namespace flowgrad {

enum class Trace { exact, hutchinson };
enum class Probe { rademacher, gaussian };

/// Velocity field Linear(D + C + 1)-Tanh-Linear-Tanh-Linear(D); the input columns are x, the
/// condition and, last, time. Keys net.{0,2,4}.weight|bias.
class ODEFunc final : public Module {
 public:
  ODEFunc(int64_t dim, int64_t condition_dim, int64_t hidden, Generator& generator, DType dtype);
  /// v(t, x) for x (N, D) and condition (N, C), undefined where C = 0.
  Tensor velocity(double t, const Tensor& x, const Tensor& condition = {}) const;

  /// The parameters, the first layer split into its columns for x and for t: x W_x^T + (t w_t + b)
  /// needs no column of times. Made once a solve; without the trace's tensors.
  CnfTensors weights() const;
  /// What the condition adds in the first layer, (N, H); undefined for an undefined condition.
  Tensor from_condition(const Tensor& condition) const;

 private:
  int64_t dim_, condition_dim_;
  MLP& net_;
};

struct CNFOptions {
  int64_t dim = 2;
  int64_t hidden = 64;
  int64_t condition_dim = 0;
  Trace trace = Trace::hutchinson;
  Probe probe = Probe::rademacher;
  OdeOptions solver = {.solver = "dopri5"};
  /// dopri5 gives every row steps of its own (solve_ode_rows): a row's result is then that of the
  /// row alone, bit for bit. Equal steps do so in any case.
  bool per_row = false;
  /// Weights of the two regularisers in loss() (Finlay et al. 2020, RNODE).
  double kinetic = 0;
  double jacobian_norm = 0;
  /// A counter-example for teaching: a new probe in every evaluation of the field. The solver then
  /// integrates white noise: the log-determinant converges with order 1/2 whatever the method, and
  /// no adaptive solver can meet its tolerance. Direct gradients and trace hutchinson only.
  bool redraw_probe = false;
};

/// A solve with its regularisers, per row: the kinetic energy int |v|^2 dt, and int |J|_F^2 dt,
/// exact or estimated by |probe^T J|^2 with the trace's probe.
struct RegularizedPath {
  Transformed end;
  Tensor kinetic, jacobian_norm;  // (N), not negative in either direction
};

/// Continuous normalizing flow (Chen et al. 2018; FFJORD, Grathwohl et al. 2019): dx/dt = v(t, x)
/// from t = 0 (base) to 1 (data), d log_det/dt = trace of dv/dx, exact or estimated with one probe
/// a solve and row. Everything is differentiable to any order, the trace included. Keys
/// ode_func.net.{0,2,4}.*.
///
/// With v = W3 tanh(W2 tanh(W1 x + ..)), and d1, d2 the derivatives of the two tanh, the Jacobian
/// is W3 diag(d2) W2 diag(d1) W1. Written out, each trace costs one product more than the velocity:
/// probe^T J probe = sum(((probe W3) d2) W2 * d1 * (probe W1^T)) and
/// tr J = sum(d2 * (d1 M^T)) with M = W2 * (W1 W3)^T elementwise. A CUDA device takes a whole solve
/// of a fixed-step method as one kernel, and its gradient as another, where the weights fit into a
/// block's shared memory; see FusedKernels in autograd/mode.h. A solve with a condition, with
/// regularisers, a redrawn probe, a trace of its steps or another kind of gradient runs operation
/// by operation.
class ContinuousNormalizingFlow final : public Flow {
 public:
  /// ValueError for redraw_probe with an exact trace, with steps per row, or with gradients that
  /// are not direct; and for steps per row with the adjoint or a trace of the steps.
  ContinuousNormalizingFlow(const CNFOptions& options, Generator& generator,
                            DType dtype = DType::float32);
  int64_t dim() const override { return options_.dim; }
  const CNFOptions& options() const { return options_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;
  /// Draws without the log-determinant.
  Tensor sample(int64_t n, Generator& generator, const Tensor& condition = {}) override;
  Tensor velocity(double t, const Tensor& x, const Tensor& condition = {}) const {
    return ode_func_.velocity(t, x, condition);
  }

  /// One solve with a given probe (N, D), or one drawn from the model's own generator when
  /// undefined. ShapeError for a probe of another shape.
  Transformed integrate(const Tensor& y0, double t0, double t1, const Tensor& probe = {},
                        const Tensor& condition = {});
  /// The same with both regularisers.
  RegularizedPath integrate_regularized(const Tensor& y0, double t0, double t1,
                                        const Tensor& probe = {}, const Tensor& condition = {});
  /// The training loss: -mean log_prob + kinetic mean int |v|^2 + jacobian_norm mean int |J|_F^2.
  /// NaN for a batch or weights that are not finite, where a solve raises: whoever trains skips
  /// such a step by its loss.
  Tensor loss(const Tensor& x, const Tensor& condition = {}, const Tensor& probe = {});

  /// Solver of the following solves. ValueError as for the constructor.
  void set_solver(const OdeOptions& solver);
  /// Source of the probes of the following solves.
  Generator& probe_generator() { return probes_; }
  /// Evaluations of the field and steps of the last solve; with steps per row, of the row that took
  /// most.
  const OdeStatistics& statistics() const { return *statistics_; }
  int64_t evaluations() const { return statistics_->evaluations; }

 private:
  Tensor draw_probe(const Tensor& like);
  void check_solver(const OdeOptions& solver) const;
  OdeState solve(const Tensor& rows, double t0, double t1, const Tensor& probe,
                 const Tensor& condition, bool trace, bool regularizers);

  CNFOptions options_;
  ODEFunc& ode_func_;
  Generator probes_;
  /// Shared with the graph, which may run a solve again after the flow is gone.
  std::shared_ptr<OdeStatistics> statistics_ = std::make_shared<OdeStatistics>();
};

}  // namespace flowgrad
