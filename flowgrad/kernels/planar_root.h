#pragma once

#include <cmath>

#include "flowgrad/core/host_device.h"

namespace flowgrad::kernels {

/// The root s of s + k tanh(s) = c for k > -1. From s = 0 for k > 0, else from c + sign(c) |k|,
/// Newton's steps approach it from one side only, so no bracket is needed: 4 to 9 steps for k in
/// [-0.99, 300], 19 for k = -0.999999.
FLOWGRAD_HOST_DEVICE inline double planar_root(double c, double k) {
  if (!(c - c == 0) || c == 0) return c;  // infinite or NaN; and 0, slowly approached where k is -1
  double s = k > 0 ? 0 : c + std::copysign(std::abs(k), c);
  // The residual's own rounding ends the iteration; 60 steps are far beyond the slowest case.
  for (int step = 0; step < 60; ++step) {
    const double h = std::tanh(s);
    const double residual = s + k * h - c;
    const double rounding = 0x1p-52 * (std::abs(s) + std::abs(k * h) + std::abs(c));
    if (!(std::abs(residual) > rounding)) break;
    const double slope = 1 + k * (1 - h * h);
    if (!(slope > 0)) break;
    s -= residual / slope;
  }
  return s;
}

}  // namespace flowgrad::kernels
