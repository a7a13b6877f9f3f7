#include <fmt/format.h>

#include <numeric>

#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/ode_step.h"

namespace flowgrad {
namespace {

using ode::rms;
using ode::RowStep;
using ode::scale_of;

Tensor column(const std::vector<double>& values, const Tensor& like) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())}, like.dtype(), like.device());
}

OdeState selected(const OdeState& y, const Tensor& index) {
  OdeState out;
  for (const Tensor& t : y) out.push_back(index_select(t, 0, index));
  return out;
}

class RowSolver {
 public:
  RowSolver(const OdeRowField& field, const OdeState& y0, double t0, double t1,
            const OdeOptions& options)
      : field_(field),
        options_(options),
        t0_(t0),
        t1_(t1),
        sign_(t1 < t0 ? -1 : 1),
        y_(y0),
        rows_(static_cast<size_t>(y0[0].size(0))) {
    for (size_t i = 0; i < rows_.size(); ++i) rows_[i].position = static_cast<int64_t>(i);
    out_.t.assign(rows_.size(), t1);
    out_.status.assign(rows_.size(), OdeStatus::success);
    out_.statistics.resize(rows_.size());
  }

  OdeRowsSolution run() {
    if (t0_ == t1_ || rows_.empty()) {
      out_.y = y_;
      return std::move(out_);
    }
    update_index();
    f_ = slope(column(std::vector<double>(rows_.size(), t0_), y_[0]), y_);
    start();
    while (!rows_.empty()) step();
    std::vector<int64_t> place(order_.size());
    for (size_t i = 0; i < order_.size(); ++i) {
      place[static_cast<size_t>(order_[i])] = static_cast<int64_t>(i);
    }
    const Tensor index =
        Tensor::from(place, {static_cast<int64_t>(place.size())}, DType::int64, y_[0].device());
    for (size_t j = 0; j < y_.size(); ++j) {
      std::vector<Tensor> parts;
      for (const OdeState& piece : pieces_) parts.push_back(piece[j]);
      out_.y.push_back(index_select(concat(parts, 0), 0, index));
    }
    return std::move(out_);
  }

 private:
  /// A row under way.
  struct Row {
    int64_t position = 0;
    double t = 0, dt = 0;
    bool finite = true;
  };
  OdeStatistics& statistics(const Row& r) {
    return out_.statistics[static_cast<size_t>(r.position)];
  }
  size_t integrals() const { return static_cast<size_t>(options_.integrals); }

  void update_index() {
    std::vector<int64_t> positions;
    for (const Row& r : rows_) positions.push_back(r.position);
    index_ = Tensor::from(positions, {static_cast<int64_t>(positions.size())}, DType::int64,
                          y_[0].device());
  }

  OdeState slope(const Tensor& t, const OdeState& y) {
    for (const Row& r : rows_) ++statistics(r).evaluations;
    OdeState f = field_(t, y, index_);
    ode::check_slopes(f, y);
    return f;
  }

  void start() {
    NoGrad off;
    const auto n = static_cast<int64_t>(rows_.size());
    const auto scaled = [&](const OdeState& x) {
      OdeState out;
      for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] / scale_of(abs(y_[i]), options_));
      return rms(out, n);
    };
    const std::vector<double> d0 = scaled(y_), d1 = scaled(f_);
    std::vector<double> h0(rows_.size(), options_.first_step), d2, t(rows_.size());
    if (options_.first_step == 0) {
      std::vector<double> signed_h0;
      for (size_t i = 0; i < rows_.size(); ++i) {
        const bool finite = std::isfinite(d0[i]) && std::isfinite(d1[i]);
        h0[i] = finite ? std::min(ode::trial_step(d0[i], d1[i]), std::abs(t1_ - t0_)) : 0;
        signed_h0.push_back(sign_ * h0[i]);
        t[i] = t0_ + signed_h0[i];
      }
      const RowStep h{column(signed_h0, y_[0])};
      OdeState change =
          slope(column(t, y_[0]), ode::advanced(y_, {f_}, {1}, h, y_.size() - integrals()));
      for (size_t i = 0; i < change.size(); ++i) change[i] = change[i] - f_[i];
      d2 = scaled(change);
    }
    std::vector<OdeStatus> ended(rows_.size(), OdeStatus::success);
    for (size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].t = t0_;
      const double size = d2.empty() ? h0[i] : ode::first_step(h0[i], d1[i], d2[i] / h0[i]);
      rows_[i].dt = sign_ * size;
      if (!std::isfinite(d0[i]) || !std::isfinite(d1[i]) || !std::isfinite(size)) {
        ended[i] = OdeStatus::non_finite;
      }
    }
    const NoGrad as_before(!recording_);
    retire(ended);
  }

  /// Takes out the rows that are at the end, or whose status says that they stop.
  void retire(const std::vector<OdeStatus>& status) {
    std::vector<int64_t> done, left;
    std::vector<Row> rest;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      const bool ends = status[i] != OdeStatus::success || r.t == t1_;
      (ends ? done : left).push_back(static_cast<int64_t>(i));
      if (!ends) {
        rest.push_back(r);
        continue;
      }
      order_.push_back(r.position);
      out_.t[static_cast<size_t>(r.position)] = r.t;
      out_.status[static_cast<size_t>(r.position)] = status[i];
    }
    if (done.empty()) return;
    const auto tensor_of = [&](const std::vector<int64_t>& v) {
      return Tensor::from(v, {static_cast<int64_t>(v.size())}, DType::int64, y_[0].device());
    };
    pieces_.push_back(left.empty() ? y_ : selected(y_, tensor_of(done)));
    rows_ = std::move(rest);
    if (rows_.empty()) return;
    y_ = selected(y_, tensor_of(left));
    f_ = selected(f_, tensor_of(left));
    update_index();
  }

  ode::Attempt take(const std::vector<double>& h, const std::vector<double>& end) {
    std::vector<double> t;
    for (const Row& r : rows_) t.push_back(r.t);
    const auto body = [field = field_, t, h, end, rows = index_, integrals = integrals()](
                          const OdeState& y, const OdeState& k) {
      const auto at = [&](double c) {
        std::vector<double> time = end;
        for (size_t i = 0; c != 1 && i < t.size(); ++i) time[i] = t[i] + c * h[i];
        return column(time, y[0]);
      };
      const auto checked = [&](const Tensor& time, const OdeState& state) {
        OdeState out = field(time, state, rows);
        ode::check_slopes(out, state);
        return out;
      };
      return ode::attempt(checked, at, RowStep{column(h, y[0])}, y, k, integrals, false);
    };
    if (options_.gradient != OdeGradient::checkpointed) return body(y_, f_);
    const auto n = static_cast<std::ptrdiff_t>(y_.size());
    std::vector<Tensor> inputs = y_;
    inputs.insert(inputs.end(), f_.begin(), f_.end());
    const std::vector<Tensor> flat = checkpoint(
        [body, n](std::span<const Tensor> in) {
          const ode::Attempt a =
              body(OdeState(in.begin(), in.begin() + n), OdeState(in.begin() + n, in.end()));
          std::vector<Tensor> all = a.y;
          for (const OdeState* part : {&a.f, &a.error})
            all.insert(all.end(), part->begin(), part->end());
          return all;
        },
        inputs);
    return {OdeState(flat.begin(), flat.begin() + n),
            OdeState(flat.begin() + n, flat.begin() + 2 * n),
            OdeState(flat.begin() + 2 * n, flat.end()),
            {}};
  }

  std::vector<double> error_ratios(const ode::Attempt& a) const {
    NoGrad off;
    OdeState parts;
    for (size_t i = 0; i < y_.size(); ++i) {
      parts.push_back(a.error[i] / scale_of(maximum(abs(y_[i]), abs(a.y[i])), options_));
    }
    return rms(parts, static_cast<int64_t>(rows_.size()));
  }

  void step() {
    std::vector<OdeStatus> ended(rows_.size(), OdeStatus::success);
    std::vector<double> h, end;
    bool stops = false;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      const ode::Reach next = ode::reach(r.t, r.dt, t1_, true);
      h.push_back(next.h);
      end.push_back(next.end);
      const OdeStatistics& s = statistics(r);
      if (s.accepted + s.rejected >= options_.max_steps) {
        ended[i] = OdeStatus::max_steps;
      } else if (next.end == r.t) {
        ended[i] = r.finite ? OdeStatus::step_underflow : OdeStatus::non_finite;
      }
      stops = stops || ended[i] != OdeStatus::success;
    }
    if (stops) return retire(ended);
    const ode::Attempt a = take(h, end);
    const std::vector<double> ratio = error_ratios(a);
    const bool all_finite =
        std::all_of(ratio.begin(), ratio.end(), [](double r) { return std::isfinite(r); });
    // On the tape a value that is not finite, though never used, makes its row's gradient NaN: such
    // a row tries again alone, and the others take this step with it then.
    const bool again = !all_finite && recording_;
    std::vector<uint8_t> taken(rows_.size());
    for (size_t i = 0; i < rows_.size(); ++i) {
      Row& r = rows_[i];
      if (again && std::isfinite(ratio[i])) continue;
      OdeStatistics& s = statistics(r);
      s.evaluations += 6;
      taken[i] = ratio[i] <= 1;
      ++(taken[i] ? s.accepted : s.rejected);
      r.finite = std::isfinite(ratio[i]);
      r.dt = h[i] * ode::next_factor(ratio[i]);
      if (taken[i]) r.t = end[i];
    }
    if (again) return;
    merge(taken, a);
    retire(ended);
  }

  /// The attempt's end for the rows that took it.
  void merge(const std::vector<uint8_t>& taken, const ode::Attempt& a) {
    const auto count = std::accumulate(taken.begin(), taken.end(), size_t{0});
    if (count == 0) return;
    if (count == taken.size()) {
      y_ = a.y;
      f_ = a.f;
      return;
    }
    const std::vector<double> one(taken.begin(), taken.end());
    const auto chosen = [&](const Tensor& yes, const Tensor& no) {
      Shape shape{static_cast<int64_t>(one.size())};
      for (int i = 1; i < yes.rank(); ++i) shape.push_back(1);
      return where(greater(reshape(column(one, yes), shape), 0.5), yes, no);
    };
    for (size_t j = 0; j < y_.size(); ++j) {
      y_[j] = chosen(a.y[j], y_[j]);
      f_[j] = chosen(a.f[j], f_[j]);
    }
  }

  const OdeRowField& field_;
  const OdeOptions& options_;
  double t0_, t1_, sign_;
  bool recording_ = mode().recording;
  OdeState y_, f_;
  std::vector<Row> rows_;
  Tensor index_;
  std::vector<OdeState> pieces_;  // of rows that ended, and
  std::vector<int64_t> order_;    // their positions
  OdeRowsSolution out_;
};

}  // namespace

std::vector<double> ode::rms(const OdeState& parts, int64_t rows) {
  Tensor total;
  double count = 0;
  for (const Tensor& p : parts) {
    const Tensor flat = reshape(p, {rows, rows == 0 ? 1 : p.numel() / rows});
    const Tensor one = sum(square(flat), {1});
    total = total.defined() ? total + one : one;
    count += static_cast<double>(flat.size(1));
  }
  std::vector<double> out =
      total.defined() ? total.to_vector<double>() : std::vector<double>(static_cast<size_t>(rows));
  for (double& v : out) v = count == 0 ? 0 : std::sqrt(v / count);
  return out;
}

OdeRowsSolution solve_ode_rows(const OdeRowField& field, OdeState y0, double t0, double t1,
                               const OdeOptions& options) {
  ode::check_options(options, y0, t0, t1);
  const auto refuse = [](const std::string& given, const char* accepted) {
    throw ValueError(fmt::format("solve_ode_rows: {} given; {}", given, accepted));
  };
  if (!is_adaptive(options))
    refuse(fmt::format("solver \"{}\"", options.solver), "dopri5 is accepted");
  if (options.gradient == OdeGradient::adjoint)
    refuse("gradient adjoint", "direct and checkpointed are accepted");
  if (!options.clip) refuse("clip = false", "true is accepted");
  if (!options.times.empty()) refuse("times", "none are accepted");
  if (options.trace) refuse("a trace", "none is accepted");
  if (y0.empty()) refuse("a state without tensors", "at least one is accepted");
  for (const Tensor& t : y0) {
    if (t.rank() > 0 && y0[0].rank() > 0 && t.size(0) == y0[0].size(0)) continue;
    throw ShapeError(fmt::format(
        "solve_ode_rows: the state has tensors {} and {}; the same number of rows is accepted",
        y0[0].shape().to_string(), t.shape().to_string()));
  }
  return RowSolver(field, y0, t0, t1, options).run();
}

}  // namespace flowgrad
