#pragma once

#include "flowgrad/autograd/cnf_solve.h"
#include "flowgrad/models/flow.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"

namespace flowgrad {

enum class Trace { exact, hutchinson };
enum class Probe { rademacher, gaussian };

/// Velocity field Linear(D + 1)-Tanh-Linear-Tanh-Linear(D); time is the last input column. Keys
/// net.{0,2,4}.weight|bias.
class ODEFunc final : public Module {
 public:
  ODEFunc(int64_t dim, int64_t hidden, Generator& generator, DType dtype);
  /// v(t, x) for x (N, D).
  Tensor velocity(double t, const Tensor& x) const;

  /// The parameters, the first layer split into its columns for x and for t: x W_x^T + (t w_t + b)
  /// needs no column of times. Made once a solve; without the trace's tensors.
  CnfTensors weights() const;

 private:
  MLP& net_;
};

struct CNFOptions {
  int64_t dim = 2;
  int64_t hidden = 64;
  Trace trace = Trace::hutchinson;
  Probe probe = Probe::rademacher;
  OdeOptions solver;
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
/// as one kernel, and its gradient as another, where the weights fit into a block's shared memory;
/// see FusedKernels in autograd/mode.h.
class ContinuousNormalizingFlow final : public Flow {
 public:
  ContinuousNormalizingFlow(const CNFOptions& options, Generator& generator,
                            DType dtype = DType::float32);
  int64_t dim() const override { return options_.dim; }
  const CNFOptions& options() const { return options_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;
  /// Draws without the log-determinant.
  Tensor sample(int64_t n, Generator& generator, const Tensor& condition = {}) override;
  Tensor velocity(double t, const Tensor& x) const { return ode_func_.velocity(t, x); }

  /// One solve with a given probe (N, D), or one drawn from the model's own generator when
  /// undefined. ShapeError for a probe of another shape.
  Transformed integrate(const Tensor& y0, double t0, double t1, const Tensor& probe = {});
  /// Solver of the following solves.
  void set_solver(const OdeOptions& solver) { options_.solver = solver; }
  /// Source of the probes of the following solves.
  Generator& probe_generator() { return probes_; }

 private:
  Tensor draw_probe(const Tensor& like);

  CNFOptions options_;
  ODEFunc& ode_func_;
  Generator probes_;
};

}  // namespace flowgrad
