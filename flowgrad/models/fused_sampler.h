#pragma once

#include <functional>

#include "flowgrad/autograd/sampler.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"

namespace flowgrad {

/// What follows the first activation of the networks that have a sampler kernel.
struct ResidualTail {
  const ResidualBlock *one, *two;
  const Linear* last;
};

/// A weight (out, in) whose inputs lie apart and outputs side by side. Products with few rows read
/// it where it lies; the usual order is rearranged by every one of a sampler's evaluations.
Tensor by_columns(const Tensor& weight);

/// The network behind its first layer (N, H), activation included, with such copies of its weights,
/// for a sampler that has no kernel: equal bits, sooner from about four evaluations on.
std::function<Tensor(const Tensor&)> unfused(const ResidualTail& tail, bool relu);

/// Whether a solve from x (N, A), with a condition or undefined, can run in one kernel: the device
/// has it, and all is on that device and of one dtype.
bool can_fuse(const ResidualTail& tail, const Tensor& x, const Tensor& condition);

/// The network from the weights of x in its first layer (H, A), and the rows (stages, H) and (N, H)
/// that times and condition add there. Between two activations lie only linear maps, so their
/// products are made once: an evaluation then multiplies three matrices of (H, H) instead of four,
/// and its hidden layers hand over one value and not three.
SamplerNet folded(const ResidualTail& tail, const Tensor& w_x, const Tensor& times,
                  const Tensor& condition, bool relu);

/// The stages of odeint's solver, from slope to slope.
std::vector<SamplerStage> sampler_stages(const std::vector<SolverStage>& stages);

}  // namespace flowgrad
