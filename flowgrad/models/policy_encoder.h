#pragma once

#include "flowgrad/models/module.h"

namespace flowgrad {

/// What a policy sees at N moments; parts that an encoder does not use may be undefined.
struct PolicyObservation {
  Tensor state;   ///< (N, S) features of everything, for a policy without eyes
  Tensor robot;   ///< (N, R) what the robot knows of itself
  Tensor tokens;  ///< (N, L) int64
  Tensor images;  ///< (N, 3 cameras, H, W)
};

/// Turns observations into the feature that an action head is conditioned on.
class PolicyEncoder : public Module {
 public:
  /// (N, features()). Raises ShapeError or DTypeError naming a part that is absent or does not fit.
  virtual Tensor encode(const PolicyObservation& observation) = 0;
  virtual int64_t features() const = 0;
};

}  // namespace flowgrad
