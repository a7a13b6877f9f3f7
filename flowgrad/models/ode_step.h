#pragma once

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/ode.h"
#include "flowgrad/models/ode_tableau.h"

/// What the solvers of ode.h share: one step, and the control of its size. A step's size h is a
/// number, or RowStep where every row has its own.
namespace flowgrad::ode {

/// A size for each of M rows.
struct RowStep {
  Tensor h;  // (M)
  /// weight h, shaped to multiply a state tensor.
  Tensor times(double weight, const Tensor& like) const {
    Shape shape = h.shape();
    for (int i = 1; i < like.rank(); ++i) shape.push_back(1);
    return reshape(h * weight, shape);
  }
};

inline Tensor scaled(const Tensor& slope, double h, double weight) { return slope * (h * weight); }
inline Tensor scaled(const Tensor& slope, const RowStep& h, double weight) {
  return slope * h.times(weight, slope);
}

/// y + h sum_i w_i k_i for the first `n` tensors; y may be undefined tensors, for the sum alone.
/// Slopes of equal weight are added before they are scaled: fewer operations.
template <class Step>
OdeState advanced(const OdeState& y, const std::vector<OdeState>& k,
                  const std::vector<double>& weights, const Step& h, size_t n) {
  OdeState out = y;
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto same = std::find(weights.begin(), weights.end(), weights[i]);
    if (weights[i] == 0 || same != weights.begin() + static_cast<std::ptrdiff_t>(i)) continue;
    for (size_t j = 0; j < n; ++j) {
      Tensor slope = k[i][j];
      for (size_t l = i + 1; l < weights.size(); ++l) {
        if (weights[l] == weights[i]) slope = slope + k[l][j];
      }
      const Tensor part = scaled(slope, h, weights[i]);
      out[j] = out[j].defined() ? out[j] + part : part;
    }
  }
  return out;
}

/// An attempted step of dopri5: state and slope at its end, the error's estimate off the tape, and
/// the state at its middle where asked for.
struct Attempt {
  OdeState y, f, error, middle;
};

/// From y with slope f; `at` gives the field's time of a stage from its c, and `field` is called
/// with that. The last stage is the slope at the end.
template <class Step, class Field, class Clock>
Attempt attempt(const Field& field, const Clock& at, const Step& h, const OdeState& y,
                const OdeState& f, size_t integrals, bool middle) {
  const DormandPrince& pair = dormand_prince();
  const size_t last = pair.c.size() - 1;
  std::vector<OdeState> k = {f};
  for (size_t i = 1; i < last; ++i) {
    k.push_back(field(at(pair.c[i]), advanced(y, k, pair.a[i], h, y.size() - integrals)));
  }
  Attempt out;
  out.y = advanced(y, k, pair.a[last], h, y.size());
  out.f = field(at(1), out.y);
  k.push_back(out.f);
  if (middle) out.middle = advanced(y, k, pair.middle, h, y.size());
  NoGrad off;
  out.error = advanced(OdeState(y.size()), k, pair.error, h, y.size());
  return out;
}

/// What an error of a tensor of this absolute size is measured against.
inline Tensor scale_of(const Tensor& size, const OdeOptions& o) { return size * o.rtol + o.atol; }

/// Root of the mean square over all tensors of each of `rows` rows; 1 row takes all elements.
std::vector<double> rms(const OdeState& parts, int64_t rows);

/// Factor from a step's size to the next one's, for an error ratio: at most 10, at least 0.2, no
/// shrinking after an accepted step, safety 0.9. A ratio that is not finite shrinks.
inline double next_factor(double ratio) {
  if (ratio == 0) return 10;
  if (!std::isfinite(ratio)) return 0.2;
  return std::clamp(0.9 / std::pow(ratio, 1 / DormandPrince::kOrder), ratio < 1 ? 1 : 0.2, 10.0);
}

/// The step of Hairer, Norsett & Wanner (1993, II.4): a trial Euler step from the scaled norms of
/// the state and its slope, and what its second derivative allows, for the scaled norms d0, d1 and
/// (f1 - f0) / h0.
inline double trial_step(double d0, double d1) {
  return d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1;
}
inline double first_step(double h0, double d1, double d2) {
  const double h1 = d1 <= 1e-15 && d2 <= 1e-15
                        ? std::max(1e-6, h0 * 1e-3)
                        : std::pow(0.01 / std::max(d1, d2), 1 / DormandPrince::kOrder);
  return std::min(100 * h0, h1);
}

/// Size and end of the next step from t: the end itself where the step would reach it up to
/// rounding.
struct Reach {
  double h, end;
};
inline Reach reach(double t, double dt, double t1, bool clip) {
  if (clip && std::abs(dt) >= std::abs(t1 - t) * (1 - 1e-9)) return {t1 - t, t1};
  return {dt, t + dt};
}

/// ShapeError unless the slopes have the shapes and dtypes of the state.
void check_slopes(const OdeState& slopes, const OdeState& y);
/// ValueError for options that no solve accepts.
void check_options(const OdeOptions& options, const OdeState& y0, double t0, double t1);

/// dopri5 with one step for the whole state; direct or checkpointed.
OdeSolution solve_adaptive(const OdeField& field, const OdeState& y0, double t0, double t1,
                           const OdeOptions& options);
/// Any solver, differentiated by the continuous adjoint.
OdeSolution solve_adjoint(const OdeParameterField& field, const OdeState& y0,
                          std::span<const Tensor> parameters, double t0, double t1,
                          const OdeOptions& options);

}  // namespace flowgrad::ode
