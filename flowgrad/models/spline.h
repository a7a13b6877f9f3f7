#pragma once

#include "flowgrad/models/coupling_stack.h"
#include "flowgrad/models/layers.h"

namespace flowgrad {

/// Monotone rational-quadratic splines of K bins (Durkan et al. 2019, "Neural spline flows"):
/// ascending knots (x_k, y_k) with positive slopes, (..., K + 1) each.
struct SplineKnots {
  Tensor x, y, slope;
};

/// Values and log-derivatives, elementwise.
struct SplineValue {
  Tensor value, log_slope;
};

/// Knots on [-tail, tail] from 3 K - 1 unconstrained numbers (..., 3 K - 1): K widths, K heights,
/// K - 1 inner slopes. As in the authors' code (nflows): bins are 2 tail (m + (1 - K m) softmax)
/// with m = 1e-3, inner slopes 1e-3 + softplus(raw + c), slopes at the ends 1; c is their boundary
/// constant, by which zeros give the identity. ValueError unless 1 <= K < 1000 and tail > 0;
/// ShapeError for a last axis of another size.
SplineKnots spline_knots(const Tensor& raw, int64_t bins, double tail);
/// The spline at x (...), whose shape broadcasts with the knots' leading axes; the identity with
/// log-slope 0 outside of [x_0, x_K]. NaN stays NaN. Differentiable to any order.
SplineValue spline(const Tensor& x, const SplineKnots& knots);
/// Its inverse at y: the root of the quadratic, written as sums of terms of one sign, so that
/// nothing cancels however steep or flat a bin is. log_slope is that of the inverse.
SplineValue spline_inverse(const Tensor& y, const SplineKnots& knots);

struct SplineFlowOptions {
  int64_t dim = 2;
  int64_t n_flows = 4;
  int64_t bins = 8;
  /// Splines act on [-tail, tail]; outside they are the identity.
  double tail = 3;
  int64_t hidden = 64;
  int64_t condition_dim = 0;
  /// As in CouplingStackOptions.
  bool permute = false;
  bool actnorm = false;
  int64_t base_components = 0;
};

/// Spline coupling (Durkan et al. 2019, section 3.1). Data to base (the direction of training) is
/// z = spline(x) on every axis: on half of the axes with trained numbers (`kept_spline`), on the
/// others with numbers from a net that sees the first half of x and the condition. Base to data
/// inverts the first half, then the second. Keys kept_spline, net.{0,2,4}.*.
class SplineCoupling final : public Flow {
 public:
  SplineCoupling(const SplineFlowOptions& options, bool keep_even, Generator& generator,
                 DType dtype);
  int64_t dim() const override { return options_.dim; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  /// Knots of the moved axes given the kept ones of the data.
  SplineKnots moved_knots(const Tensor& kept, const Tensor& condition);
  SplineKnots kept_knots() const;
  /// The rows whose kept and moved axes are given.
  Transformed join(const SplineValue& kept, const SplineValue& moved) const;

  SplineFlowOptions options_;
  int64_t first_kept_, first_moved_;  // 0 and 1, or 1 and 0
  Tensor kept_spline_;
  MLP& net_;
};

/// A stack of spline couplings (RQ-NSF (C)): the model `spline`. Keys flows.{i}.kept_spline,
/// flows.{i}.net.{0,2,4}.*, and those of CouplingStack. A fresh flow is the identity.
class SplineFlow final : public CouplingStack {
 public:
  /// ValueError for dim = 1 and other values too small.
  SplineFlow(const SplineFlowOptions& options, Generator& generator, DType dtype = DType::float32);
};

}  // namespace flowgrad
