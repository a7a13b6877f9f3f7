#pragma once

#include <vector>

#include "flowgrad/models/ode.h"

namespace flowgrad {

/// Data known in part: a flow is pulled towards it while it is solved, without further training
/// (Song et al. 2023, pseudoinverse-guided diffusion; Pokle et al. 2024, for flows).
struct Inpainting {
  Tensor target = {};  ///< (N, A); undefined is no inpainting
  Tensor weight = {};  ///< (N, A) or (A), in [0, 1]: how far each number is known; 0 is not at all
  /// Most that the pull is multiplied by; 0 is none. An Euler step of 1 / n overshoots above n.
  double beta = 5;
};

/// min(beta, (1 - t) / (t r^2)), r^2 = (1 - t)^2 / (t^2 + (1 - t)^2), at flow time t in [0, 1], 0 =
/// noise. It goes to infinity at both ends, where beta holds it.
double inpainting_gain(double t, double beta);

/// v(x) + gain J^T [weight (target - x1)], x1 = x + (1 - t) v(x) being where the field sees the end
/// of the path through x, and J the Jacobian of x1 in x (Black et al. 2025, eq. 2). One evaluation
/// and one vector-Jacobian product; off the tape.
VelocityField inpainted(VelocityField field, const Inpainting& known);

/// Weights (horizon) that hold a chunk to the one that is under way (Black et al. 2025, eq. 5): 1
/// for the first `delay` actions, which are executed from there; c (e^c - 1) / (e - 1), c =
/// (horizon - execute - i) / (horizon - execute - delay + 1), for the others that both have; 0 for
/// the last `execute`, which it alone has. ValueError for negative numbers, a horizon below 1 or
/// delay + execute above the horizon.
std::vector<double> realtime_weights(int64_t horizon, int64_t delay, int64_t execute);

}  // namespace flowgrad
