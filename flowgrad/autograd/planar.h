#pragma once

#include <utility>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// K planar layers (Rezende & Mohamed 2015, eq. 10): {x (N, D), log_det (N)} from z (N, D), w and u
/// (K, D) and b (K). Layer 0 comes first: x = x + u tanh(w.x + b), with log-determinant
/// log(1 + (1 - tanh^2) w.u). Inverse, the layers' inverses from the last to the first; they need
/// w.u > -1. `margin` (K) is 1 + w.u, from w and u where it is not given: who knows it better than
/// u's rounding does gives it, and its gradient is then apart from theirs. One kernel each for all
/// layers' values and first derivatives where the backend has them for these sizes; else, and for
/// higher orders, and within FusedKernels(false), operations. ShapeError, DTypeError or DeviceError
/// for tensors that do not fit together.
std::pair<Tensor, Tensor> planar_stack(const Tensor& z, const Tensor& w, const Tensor& b,
                                       const Tensor& u, bool inverse = false,
                                       const Tensor& margin = {});

/// The root s of s + k tanh(s) = c for each element of c, with k > -1 of one element, by Newton's
/// iteration of kernels/planar_root.h. Solved in float64 whatever the dtype, and on the host:
/// values on a device are copied there and back. Differentiable to any order in c and k by the
/// implicit equation.
Tensor planar_root(const Tensor& c, const Tensor& k);

}  // namespace flowgrad
