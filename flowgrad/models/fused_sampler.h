#pragma once

#include <cstdint>
#include <vector>

#include "flowgrad/autograd/sampler.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"

namespace flowgrad {

/// What follows the first activation of the networks that have a sampler kernel.
struct ResidualTail {
  const ResidualBlock *one, *two;
  const Linear* last;
};

/// Whether a solve from x (N, A), with a condition or undefined, can run in one kernel: the device
/// has it, and all is on that device and of one dtype.
bool can_fuse(const ResidualTail& tail, const Tensor& x, const Tensor& condition);

/// The tail's layers as a sampler kernel reads them. Between two activations lie only linear maps,
/// so their products are made once: an evaluation then multiplies three matrices of (H, H) instead
/// of four, and its hidden layers hand over one value and not three. They are kept until a weight
/// is written or another takes its place.
class FoldedTail {
 public:
  /// The network from the weights of x in its first layer (H, A), and the rows (stages, H) and
  /// (N, H) that times and condition add there; condition may be undefined.
  SamplerNet with(const ResidualTail& tail, const Tensor& w_x, const Tensor& times,
                  const Tensor& condition, bool relu);

 private:
  SamplerNet made_;
  std::vector<Tensor> from_;
  std::vector<uint64_t> versions_;
};

/// The stages of odeint's solver, from slope to slope.
std::vector<SamplerStage> sampler_stages(const std::vector<SolverStage>& stages);

}  // namespace flowgrad
