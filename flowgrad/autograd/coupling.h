#pragma once

#include <array>
#include <utility>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

struct CouplingOptions {
  /// c of s = c tanh(scale / c); 0 leaves the log-scale unbounded, s = scale.
  double bound = 0;
  /// (z - shift) exp(-s) and the sum of -s instead.
  bool inverse = false;

  /// ValueError, in the name of `op`, for a bound that is negative or not finite.
  void check(const char* op) const;
};

/// An affine coupling (Dinh et al. 2017, eq. 7 and 8): {x (N, D), log_det (N)} from z, scale and
/// shift (N, D) and a constant mask (D). Where mask is 0, x = z exp(s) + shift; elsewhere x = z,
/// and no value or gradient of scale or shift there, not even NaN, ever shows. log_det is the row's
/// sum of s. One kernel each for the value and the first derivative; higher ones in operations, as
/// all of them within FusedKernels(false). ShapeError, DTypeError, DeviceError for tensors that do
/// not fit together, ValueError for a bound that is negative or not finite.
std::pair<Tensor, Tensor> affine_coupling(const Tensor& z, const Tensor& scale, const Tensor& shift,
                                          const Tensor& mask, const CouplingOptions& options = {});

/// A net of a coupling, weight[2] relu(weight[1] relu(weight[0] x + bias[0]) + bias[1]) + bias[2].
struct CouplingNet {
  std::array<Tensor, 3> weight;  // (H, D + C), (H, H), (D, H)
  std::array<Tensor, 3> bias;    // (H), (H), (D)
};

/// affine_coupling whose scale and shift are two nets of mask z, 0 where mask is 0, beside
/// condition (N, C), which may be undefined: by one kernel for the value and one for the first
/// derivative where the device has them, else, and for higher derivatives, in operations.
/// ShapeError, DTypeError, DeviceError, ValueError as there.
std::pair<Tensor, Tensor> mlp_coupling(const Tensor& z, const Tensor& condition, const Tensor& mask,
                                       const CouplingNet& scale, const CouplingNet& shift,
                                       const CouplingOptions& options = {});

}  // namespace flowgrad
