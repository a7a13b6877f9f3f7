#include "flowgrad/models/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

namespace flowgrad {
namespace {

CheckError errors_of(const Tensor& got, const Tensor& wanted) {
  const std::vector<double> a = got.to_vector<double>();
  const std::vector<double> b = wanted.to_vector<double>();
  std::vector<double> errors;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(a[i] - b[i]) / (1 + std::abs(b[i]));
    // A NaN is the worst error of all; left alone it would make the order of a sort meaningless.
    errors.push_back(std::isnan(e) ? std::numeric_limits<double>::infinity() : e);
  }
  if (errors.empty()) return {};
  std::sort(errors.begin(), errors.end());
  const auto last = static_cast<double>(errors.size() - 1);
  return {errors.back(), errors[static_cast<size_t>(std::ceil(0.999 * last))]};
}

void check_grid(const GridOptions& o) {
  if (o.points >= 2 && o.half_width > 0 && o.batch >= 1) return;
  throw ValueError(fmt::format(
      "grid: {} points, half-width {}, batch {} given; at least 2, above 0 and at least 1 are "
      "accepted",
      o.points, o.half_width, o.batch));
}

}  // namespace

SampleMean sample_mean(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, std::sqrt(squares / (n - 1) / n)};
}

CheckError reconstruction_error(Flow& flow, const Tensor& x, const Tensor& condition) {
  NoGrad off;
  return errors_of(flow.forward(flow.inverse(x, condition).value, condition).value, x);
}

CheckError log_det_consistency(Flow& flow, const Tensor& z, const Tensor& condition) {
  NoGrad off;
  const Transformed x = flow.forward(z, condition);
  return errors_of(-flow.inverse(x.value, condition).log_det, x.log_det);
}

CheckError log_det_error(Flow& flow, const Tensor& z, const Tensor& condition) {
  const Tensor jacobian =
      batch_jacobian([&](const Tensor& at) { return flow.forward(at, condition).value; }, z);
  NoGrad off;
  return errors_of(flow.forward(z, condition).log_det,
                   slogdet(cast(jacobian, DType::float64)).second);
}

std::string GridOptions::to_string() const {
  const auto range = [&](size_t i) {
    return fmt::format("[{:.4g}, {:.4g}]", center[i] - half()[i], center[i] + half()[i]);
  };
  return range(0) + " x " + range(1);
}

GridOptions grid_over(const Tensor& rows, int64_t points) {
  NoGrad off;
  const auto low = min(rows, {0}).to_vector<double>(), high = max(rows, {0}).to_vector<double>();
  const auto center = [&](size_t i) { return (low[i] + high[i]) / 2; };
  const auto half = [&](size_t i) {
    return std::max(0.75 * (high[i] - low[i]), 1e-6 * (1 + std::abs(center(i))));
  };
  return {.half_width = half(0),
          .points = points,
          .half_height = half(1),
          .center = {center(0), center(1)}};
}

Tensor grid_points(const GridOptions& o, DType dtype, Device device) {
  check_grid(o);
  const auto axis = [&](size_t i) {
    return linspace(o.center[i] - o.half()[i], o.center[i] + o.half()[i], o.points, dtype, device);
  };
  const Shape square{o.points, o.points};
  const Tensor first = expand(unsqueeze(axis(0), 1), square);
  const Tensor second = expand(unsqueeze(axis(1), 0), square);
  return reshape(stack({first, second}, 2), {o.points * o.points, 2});
}

Tensor grid_log_prob(Flow& flow, const GridOptions& o) {
  check_grid(o);
  if (flow.dim() != 2) {
    throw ValueError(
        fmt::format("grid_log_prob: a flow of dimension {} given; 2 is accepted", flow.dim()));
  }
  NoGrad off;
  const Tensor points = grid_points(o, flow.dtype(), flow.device());
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < points.size(0); at += o.batch) {
    parts.push_back(flow.log_prob(slice(points, 0, at, std::min(at + o.batch, points.size(0)))));
  }
  return reshape(concat(parts, 0), {o.points, o.points});
}

GridIntegrals grid_integrals(Flow& flow, const GridOptions& o) {
  const std::vector<double> log_prob = grid_log_prob(flow, o).to_vector<double>();
  const auto n = static_cast<size_t>(o.points);
  const auto steps = static_cast<double>(o.points - 1);
  const double cell = 4 * o.half()[0] * o.half()[1] / (steps * steps);
  const auto weight = [n](size_t i) { return i == 0 || i + 1 == n ? 0.5 : 1.0; };
  GridIntegrals out;
  for (size_t i = 0; i < n; ++i) {
    double mass = 0, entropy = 0;
    for (size_t j = 0; j < n; ++j) {
      const double p = std::exp(log_prob[i * n + j]) * weight(j);
      mass += p;
      if (p > 0) entropy -= p * log_prob[i * n + j];
    }
    out.mass += mass * weight(i) * cell;
    out.entropy += entropy * weight(i) * cell;
  }
  return out;
}

std::string RefinedIntegrals::where() const {
  return fmt::format("{0} x {0} points of {1}", grid.points, grid.to_string());
}

RefinedIntegrals refined_integrals(Flow& flow, const GridOptions& first, int64_t finest,
                                   double tolerance) {
  RefinedIntegrals r{.whole = grid_integrals(flow, first), .grid = first};
  while (r.grid.points < finest && !(std::abs(r.whole.mass - 1) <= tolerance)) {
    r.grid.points = 2 * r.grid.points - 1;
    const double coarse = std::exchange(r.whole, grid_integrals(flow, r.grid)).mass;
    r.change = std::abs(r.whole.mass - coarse);
  }
  return r;
}

double density_integral(Flow& flow, const GridOptions& o) { return grid_integrals(flow, o).mass; }

}  // namespace flowgrad
