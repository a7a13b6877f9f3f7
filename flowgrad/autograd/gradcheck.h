#pragma once

#include <span>
#include <string>

#include "flowgrad/autograd/transforms.h"

namespace flowgrad {

struct GradcheckOptions {
  /// Orders of derivative to check: 1, 2 or 3.
  int order = 1;
  double rtol = 1e-6;
  double atol = 1e-8;
  /// Step of the 4-point stencil, relative to 1 + |x|.
  double step = 3e-4;
  uint64_t seed = 0;
};

struct GradcheckResult {
  bool passed = true;
  /// Largest |analytic - numeric| / (atol + rtol scale) seen; at most 1 when passed.
  double worst = 0;
  /// Order, input, element or direction, and both numbers of the first failure.
  std::string message;
  explicit operator bool() const { return passed; }
};

/// Compares the gradients of f, for random cotangents, with the central differences
/// (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h in float64: every element where all inputs together
/// have at most 64, else random directions. Order n checks the gradient function as a function of
/// inputs and cotangents at order n - 1. Inputs must be float64 (DTypeError otherwise); integer
/// inputs are constant. Also fails when two evaluations of f or of its gradient differ (not
/// deterministic).
GradcheckResult gradcheck(const MultiFunction& f, std::span<const Tensor> inputs,
                          const GradcheckOptions& options = {});
GradcheckResult gradcheck(const Function& f, const Tensor& input,
                          const GradcheckOptions& options = {});

}  // namespace flowgrad
