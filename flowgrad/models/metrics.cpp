#include "flowgrad/models/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/transport.h"

namespace flowgrad {

double wasserstein2(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) {
    throw ShapeError(fmt::format("wasserstein2: a is {}, b is {}; equal shapes are accepted",
                                 a.shape().to_string(), b.shape().to_string()));
  }
  const Tensor cost = squared_distances(a, b);
  if (cost.numel() == 0)
    throw ValueError("wasserstein2: empty samples given; at least one row is accepted");
  const std::vector<int64_t> column = assignment(cost);
  const auto n = column.size();
  const double* c = cost.data<double>();
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += c[i * n + static_cast<size_t>(column[i])];
  return std::sqrt(sum / static_cast<double>(n));
}

namespace {

/// Sum of the kernel over all pairs; for one sample with itself over pairs of different rows.
double kernel_sum(const Tensor& a, const Tensor& b, const std::vector<double>& bandwidths,
                  bool same) {
  double sum = 0;
  const std::vector<double> d = squared_distances(a, b).to_vector<double>();
  for (const double h : bandwidths) {
    for (const double x : d) sum += std::exp(-0.5 * x / (h * h));
    if (same) sum -= static_cast<double>(a.size(0));
  }
  return sum / static_cast<double>(bandwidths.size());
}

double median_distance(const Tensor& x) {
  const std::vector<double> d = squared_distances(x, x).to_vector<double>();
  const auto n = static_cast<size_t>(x.size(0));
  std::vector<double> pairs;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < i; ++j) pairs.push_back(d[i * n + j]);
  }
  const auto middle = pairs.begin() + static_cast<std::ptrdiff_t>(pairs.size() / 2);
  std::nth_element(pairs.begin(), middle, pairs.end());
  return std::sqrt(*middle);
}

}  // namespace

double mmd_squared(const Tensor& a, const Tensor& b, std::vector<double> bandwidths) {
  if (a.rank() != 2 || b.rank() != 2 || a.size(1) != b.size(1)) {
    throw ShapeError(
        fmt::format("mmd_squared: a is {}, b is {}; matrices (N, D) and (M, D) are accepted",
                    a.shape().to_string(), b.shape().to_string()));
  }
  if (a.size(0) < 2 || b.size(0) < 2) {
    throw ValueError(fmt::format("mmd_squared: {} and {} rows given; at least 2 are accepted",
                                 a.size(0), b.size(0)));
  }
  NoGrad off;
  if (bandwidths.empty()) {
    const double median = median_distance(concat(
        {to(cast(a, DType::float64), Device::cpu()), to(cast(b, DType::float64), Device::cpu())}));
    // Of points that mostly coincide the median distance is 0; any scale tells them apart then.
    for (const double factor : {0.25, 0.5, 1.0, 2.0, 4.0})
      bandwidths.push_back(factor * (median > 0 ? median : 1));
  }
  for (const double h : bandwidths) {
    if (!(h > 0))
      throw ValueError(fmt::format("mmd_squared: bandwidth {} given; above 0 is accepted", h));
  }
  const auto n = static_cast<double>(a.size(0));
  const auto m = static_cast<double>(b.size(0));
  return kernel_sum(a, a, bandwidths, true) / (n * (n - 1)) +
         kernel_sum(b, b, bandwidths, true) / (m * (m - 1)) -
         2 * kernel_sum(a, b, bandwidths, false) / (n * m);
}

namespace {

/// Mean over the rows of int |v|^2 dt, and of |x1 - x0|^2, along paths from x0.
struct Energies {
  double path, line;
};
Energies energies(const char* op, const VelocityField& velocity, const Tensor& x0,
                  OdeOptions options) {
  if (x0.rank() != 2 || x0.size(0) == 0) {
    throw ShapeError(fmt::format("{}: x0 has shape {}; (N, D) with N >= 1 is accepted", op,
                                 x0.shape().to_string()));
  }
  NoGrad off;
  options.integrals = 1;
  const OdeState end = odeint(
      [&](double t, const OdeState& y) {
        const Tensor v = velocity(t, y[0]);
        return OdeState{v, sum(square(v), {1})};
      },
      {x0, zeros({x0.size(0)}, x0.dtype(), x0.device())}, 0, 1, options);
  const auto mean_of = [](const Tensor& rows) { return mean(cast(rows, DType::float64)).item(); };
  return {mean_of(end[1]), mean_of(sum(square(end[0] - x0), {1}))};
}

}  // namespace

double path_energy(const VelocityField& velocity, const Tensor& x0, const OdeOptions& options) {
  return energies("path_energy", velocity, x0, options).path;
}

double straightness(const VelocityField& velocity, const Tensor& x0, const OdeOptions& options) {
  const Energies e = energies("straightness", velocity, x0, options);
  return e.path - e.line;
}

double normalised_path_energy(double path_energy, double wasserstein2) {
  const double least = wasserstein2 * wasserstein2;
  if (!(least > 0)) {
    throw ValueError(fmt::format(
        "normalised_path_energy: wasserstein2 = {} given; above 0 is accepted", wasserstein2));
  }
  return std::abs(path_energy - least) / least;
}

}  // namespace flowgrad
