#pragma once

#include <functional>
#include <vector>

#include "flowgrad/models/ode.h"

/// How near a sample is to data, and how straight a flow. Off the tape; the distances run on the
/// host in float64.
namespace flowgrad {

/// Wasserstein-2 distance of two samples (N, D) of equal size, exact: the root of the mean squared
/// distance under the optimal assignment. About a second for 2000 points of a plane. ShapeError for
/// other shapes, ValueError for empty ones.
double wasserstein2(const Tensor& a, const Tensor& b);

/// Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, equation 3) of
/// samples (N, D) and (M, D), which may come out below 0. The kernel is the mean over the
/// bandwidths h of exp(-|x - y|^2 / 2h^2); where none are given, h is the median distance of the
/// joint sample times 1/4, 1/2, 1, 2 and 4. ShapeError for other shapes, ValueError for fewer than
/// two rows or a bandwidth that is not above 0.
double mmd_squared(const Tensor& a, const Tensor& b, std::vector<double> bandwidths = {});

/// Kinetic energy of a flow, int_0^1 E |v(x_t, t)|^2 dt over paths from the rows of x0 (N, D), by
/// the solver's own steps. ShapeError unless x0 has rows.
double path_energy(const VelocityField& velocity, const Tensor& x0,
                   const OdeOptions& options = {.solver = "euler", .n_steps = 100});

/// How far paths are from straight lines (Liu et al. 2023): int_0^1 E |x_1 - x_0 - v(x_t, t)|^2 dt,
/// which is path_energy less E |x_1 - x_0|^2. At 0 one Euler step is exact.
double straightness(const VelocityField& velocity, const Tensor& x0,
                    const OdeOptions& options = {.solver = "euler", .n_steps = 100});

/// Normalised path energy |PE - W2^2| / W2^2 (Tong et al. 2024): 0 for the dynamic optimal
/// transport. W2 is between samples of the flow's two ends.
double normalised_path_energy(double path_energy, double wasserstein2);

}  // namespace flowgrad
