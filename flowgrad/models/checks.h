#pragma once

#include <array>
#include <string>
#include <vector>

#include "flowgrad/models/flow.h"

/// Measurements that a correct flow must pass whatever it has learned. All run off the tape and
/// leave the flow as it was; one with a random log-determinant (a CNF by Hutchinson's estimate) is
/// to be given with its exact trace.
namespace flowgrad {

/// Errors over all elements, as |got - wanted| / (1 + |wanted|).
struct CheckError {
  double max = 0;
  /// 99.9 percentile: what remains when a handful of rows lie far out.
  double p999 = 0;
};

/// The mean of numbers and its standard error, NaN for one number.
struct SampleMean {
  double value, error;
};
SampleMean sample_mean(const std::vector<double>& values);

/// x -> z -> x for rows of data (N, D).
CheckError reconstruction_error(Flow& flow, const Tensor& x, const Tensor& condition = {});
/// log_det of the forward map at z plus log_det of the inverse at forward(z), which must be 0.
CheckError log_det_consistency(Flow& flow, const Tensor& z, const Tensor& condition = {});
/// log_det of the forward map against log |det| of its Jacobian by automatic differentiation, for
/// each row of z (N, D). Costs D backward passes.
CheckError log_det_error(Flow& flow, const Tensor& z, const Tensor& condition = {});

/// points x points values over a rectangle: `half_width` to both sides of `center` along the first
/// axis and `half_height`, or as much where that is 0, along the second.
struct GridOptions {
  double half_width = 8;
  int64_t points = 801;
  /// Rows evaluated at a time.
  int64_t batch = 8192;
  double half_height = 0;
  std::array<double, 2> center = {0, 0};
  std::array<double, 2> half() const {
    return {half_width, half_height > 0 ? half_height : half_width};
  }
  /// "[-2, 3] x [0, 1]"
  std::string to_string() const;
};
/// The grid over rows (N, 2) and half of their extent around it.
GridOptions grid_over(const Tensor& rows, int64_t points);

/// The points of the grid, row-major with the first coordinate slowest: (points^2, 2).
Tensor grid_points(const GridOptions& options, DType dtype = DType::float32,
                   Device device = Device::cpu());
/// log_prob at the grid's points, (points, points): a picture of a density. ValueError unless dim
/// is 2.
Tensor grid_log_prob(Flow& flow, const GridOptions& options = {});
/// Integrals of p and of -p log p (nats) by the trapezoidal rule on the grid, in float64.
struct GridIntegrals {
  double mass = 0, entropy = 0;
};
GridIntegrals grid_integrals(Flow& flow, const GridOptions& options = {});
/// The integrals on a grid that is made finer, up to `finest` points an axis, until the mass is 1
/// within `tolerance`; that grid; and by how much its mass differs from that of the one before.
struct RefinedIntegrals {
  GridIntegrals whole;
  GridOptions grid;
  double change = 0;
  /// "401 x 401 points of [-2, 3] x [0, 1]"
  std::string where() const;
};
RefinedIntegrals refined_integrals(Flow& flow, const GridOptions& first, int64_t finest,
                                   double tolerance);
/// Their mass, which must be near 1.
double density_integral(Flow& flow, const GridOptions& options = {});

}  // namespace flowgrad
