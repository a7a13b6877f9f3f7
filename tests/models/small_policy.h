#pragma once

#include "flowgrad/models/robot_policy.h"

namespace flowgrad::testing {

/// A policy on 4 numbers of state that trains in no time.
inline RobotPolicyOptions small_policy(HeadKind head = HeadKind::flow, int64_t horizon = 3) {
  RobotPolicyOptions o;
  o.state_dim = 4;
  o.horizon = horizon;
  o.head = head;
  o.head_options.hidden = 16;
  o.head_options.time_dim = 8;
  o.head_options.n_timesteps = 6;
  return o;
}

}  // namespace flowgrad::testing
