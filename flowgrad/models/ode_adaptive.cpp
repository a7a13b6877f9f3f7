#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/ode_step.h"

namespace flowgrad::ode {
namespace {

double whole_rms(const OdeState& parts) { return rms(parts, 1)[0]; }

double error_ratio(const Attempt& a, const OdeState& y, const OdeOptions& o) {
  OdeState parts;
  for (size_t i = 0; i < y.size(); ++i) {
    parts.push_back(a.error[i] / scale_of(maximum(abs(y[i]), abs(a.y[i])), o));
  }
  return whole_rms(parts);
}

/// Coefficients of torchdiffeq's quartic (Shampine 1986) at x in [0, 1] of a step of size h.
OdeState between(double x, double h, const OdeState& y0, const OdeState& f0, const Attempt& a) {
  const double x2 = x * x, x3 = x2 * x, x4 = x2 * x2;
  OdeState out;
  for (size_t i = 0; i < y0.size(); ++i) {
    out.push_back(y0[i] * (1 - 11 * x2 + 18 * x3 - 8 * x4) + a.y[i] * (-5 * x2 + 14 * x3 - 8 * x4) +
                  a.middle[i] * (16 * x2 - 32 * x3 + 16 * x4) +
                  f0[i] * (h * (x - 4 * x2 + 5 * x3 - 2 * x4)) +
                  a.f[i] * (h * (x2 - 3 * x3 + 2 * x4)));
  }
  return out;
}

class Solver {
 public:
  Solver(const OdeField& field, double t0, double t1, const OdeOptions& options)
      : field_(field), options_(options), t0_(t0), t1_(t1), sign_(t1 < t0 ? -1 : 1) {}

  OdeSolution run(const OdeState& y0) {
    out_.y = y0;
    out_.t = t0_;
    if (t0_ == t1_) {
      out_.at.assign(options_.times.size(), y0);
      return std::move(out_);
    }
    deliver(t0_);
    OdeState f = slope(t0_, y0);
    out_.dt = sign_ * start_size(y0, f);
    if (!std::isfinite(out_.dt)) return stopped(OdeStatus::non_finite);
    while (sign_ * (t1_ - out_.t) > 0) {
      if (out_.statistics.accepted + out_.statistics.rejected >= options_.max_steps) {
        return stopped(OdeStatus::max_steps);
      }
      const Reach next = reach(out_.t, out_.dt, t1_, options_.clip);
      if (next.end == out_.t) {
        return stopped(finite_ ? OdeStatus::step_underflow : OdeStatus::non_finite);
      }
      step(next, f);
    }
    return std::move(out_);
  }

 private:
  OdeState slope(double t, const OdeState& y) {
    ++out_.statistics.evaluations;
    OdeState f = field_(t, y);
    check_slopes(f, y);
    return f;
  }

  /// NaN where the state or its slope is not finite.
  double start_size(const OdeState& y, const OdeState& f) {
    NoGrad off;
    OdeState y_scaled, f_scaled, change;
    for (size_t i = 0; i < y.size(); ++i) {
      y_scaled.push_back(y[i] / scale_of(abs(y[i]), options_));
      f_scaled.push_back(f[i] / scale_of(abs(y[i]), options_));
    }
    const double d0 = whole_rms(y_scaled), d1 = whole_rms(f_scaled);
    if (!std::isfinite(d0) || !std::isfinite(d1)) return NAN;
    if (options_.first_step > 0) return options_.first_step;
    double h0 = trial_step(d0, d1);
    if (options_.clip) h0 = std::min(h0, std::abs(t1_ - t0_));
    const OdeState f1 =
        slope(t0_ + sign_ * h0, advanced(y, {f}, {1}, sign_ * h0, y.size() - integrals()));
    for (size_t i = 0; i < y.size(); ++i) {
      change.push_back((f1[i] - f[i]) / scale_of(abs(y[i]), options_));
    }
    return ode::first_step(h0, d1, whole_rms(change) / h0);
  }

  size_t integrals() const { return static_cast<size_t>(options_.integrals); }

  /// Whether a state inside the step is wanted.
  bool wants_inside(double end) const {
    if (sign_ * (end - t1_) > 0) return true;
    const size_t next = out_.at.size();
    return next < options_.times.size() && sign_ * (end - options_.times[next]) > 0;
  }

  void deliver(double t) {
    while (out_.at.size() < options_.times.size() && options_.times[out_.at.size()] == t) {
      out_.at.push_back(out_.y);
    }
  }

  Attempt take(const Reach& next, const OdeState& f, bool middle) {
    const size_t n = out_.y.size();
    const auto body = [field = field_, t = out_.t, next, integrals = integrals(), middle](
                          const OdeState& y, const OdeState& k) {
      // The end as it is, so that no rounding takes the field beyond it.
      const auto at = [&](double c) { return c == 1 ? next.end : t + c * next.h; };
      const auto checked = [&](double time, const OdeState& state) {
        OdeState out = field(time, state);
        check_slopes(out, state);
        return out;
      };
      return attempt(checked, at, next.h, y, k, integrals, middle);
    };
    out_.statistics.evaluations += 6;
    if (options_.gradient != OdeGradient::checkpointed) return body(out_.y, f);
    std::vector<Tensor> inputs = out_.y;
    inputs.insert(inputs.end(), f.begin(), f.end());
    std::vector<Tensor> flat = checkpoint(
        [body, n](std::span<const Tensor> in) {
          const Attempt a = body(OdeState(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(n)),
                                 OdeState(in.begin() + static_cast<std::ptrdiff_t>(n), in.end()));
          std::vector<Tensor> all = a.y;
          for (const OdeState* part : {&a.f, &a.error, &a.middle})
            all.insert(all.end(), part->begin(), part->end());
          return all;
        },
        inputs);
    Attempt a;
    size_t i = 0;
    for (OdeState* part : {&a.y, &a.f, &a.error, &a.middle}) {
      for (size_t j = 0; j < n && i < flat.size(); ++j) part->push_back(flat[i++]);
    }
    return a;
  }

  void step(const Reach& next, OdeState& f) {
    const bool inside = wants_inside(next.end);
    const Attempt a = take(next, f, inside);
    double ratio;
    {
      NoGrad off;
      ratio = error_ratio(a, out_.y, options_);
    }
    finite_ = std::isfinite(ratio);
    const bool accepted = ratio <= 1;
    ++(accepted ? out_.statistics.accepted : out_.statistics.rejected);
    if (options_.trace) {
      options_.trace({out_.t, next.h, ratio, accepted, out_.statistics.evaluations});
    }
    out_.dt = next.h * next_factor(ratio);
    if (!accepted) return;
    const auto at = [&](double t) {
      return between((t - out_.t) / (next.end - out_.t), next.h, out_.y, f, a);
    };
    while (out_.at.size() < options_.times.size() &&
           sign_ * (next.end - options_.times[out_.at.size()]) > 0) {
      out_.at.push_back(at(options_.times[out_.at.size()]));
    }
    const bool past = sign_ * (next.end - t1_) > 0;
    out_.y = past ? at(t1_) : a.y;
    out_.t = past ? t1_ : next.end;
    f = a.f;
    deliver(out_.t);
  }

  OdeSolution stopped(OdeStatus status) {
    out_.status = status;
    return std::move(out_);
  }

  const OdeField& field_;
  const OdeOptions& options_;
  double t0_, t1_, sign_;
  bool finite_ = true;
  OdeSolution out_;
};

}  // namespace

OdeSolution solve_adaptive(const OdeField& field, const OdeState& y0, double t0, double t1,
                           const OdeOptions& options) {
  return Solver(field, t0, t1, options).run(y0);
}

}  // namespace flowgrad::ode
