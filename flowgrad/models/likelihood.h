#pragma once

#include "flowgrad/models/cnf.h"
#include "flowgrad/models/flow_matching.h"

namespace flowgrad {

struct LikelihoodOptions {
  /// exact: D vector-Jacobian products an evaluation; hutchinson: one for each probe.
  Trace trace = Trace::exact;
  Probe probe = Probe::rademacher;
  int64_t n_probes = 1;
  /// Probes (n_probes, N, D) to use in place of draws.
  Tensor probes = {};
  OdeOptions solver = {.solver = "dopri5"};
  /// Time at which the rows are data: below 1 for a velocity that is not defined there, as that of
  /// a ScoreModel, whose own end_time it is then.
  double end_time = 1;
  /// Keep the graph: log_prob has gradients in x and in what the field captures.
  bool differentiable = false;
  /// Solve a second time, a tenth of the tolerances or twice the steps, for the solver's error.
  bool solver_error = true;
};

/// A log-likelihood and what is known of its error, apart for the two sources. The density itself
/// may be wrong in a third way: that of an imperfectly trained field is still its own density.
struct Likelihood {
  Tensor log_prob;  // (N), nats
  Tensor base;      // (N, D), the rows at t = 0
  /// |difference to the finer solve| with the same probes, (N); undefined unless asked for.
  Tensor solver_error;
  /// Standard error of the mean over probes, (N); 0 with the exact trace, undefined for one probe.
  Tensor probe_error;
  /// Of the field, by the first solve.
  int64_t evaluations = 0;
};

/// log p(x) of the flow of any velocity field, by the instantaneous change of variables (Chen et
/// al. 2018; Grathwohl et al. 2019): log N(x(0); 0, I) - int_0^1 tr dv/dx dt along the path that
/// ends in x. Every probe is drawn once a solve and row. ValueError for n_probes < 1 or end_time
/// outside (0, 1], and ShapeError for x or probes of another shape. OdeError where the solve does
/// not arrive.
Likelihood likelihood(const VelocityField& velocity, const Tensor& x, Generator& generator,
                      const LikelihoodOptions& options = {});

/// log p(x) (N) of a flow-matching model, differentiable in its parameters; condition as in
/// FlowMatching::velocity. The trace is exact, or with a `probe` (N, D) estimated by it.
Tensor log_prob(FlowMatching& model, const Tensor& x, const Tensor& condition, const Tensor& probe,
                const OdeOptions& solver, Generator& generator);

}  // namespace flowgrad
