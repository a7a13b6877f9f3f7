#pragma once

#include <span>

#include "flowgrad/core/tensor.h"
#include "flowgrad/kernels/backend.h"

/// A whole solve of a small network in one kernel, where the device has it: an operation that
/// models use and users need not know.
namespace flowgrad {

using kernels::SamplerStage;

/// kernels::SamplerNet says what is computed; H is the width, A the number of outputs.
struct SamplerNet {
  Tensor first;      // (A, H)
  Tensor times;      // (stages, H)
  Tensor condition;  // (N, H), (1, H), or undefined
  Tensor hidden;     // (3, H, H)
  Tensor bias;       // (2, H)
  Tensor last;       // (3, A, H)
  Tensor last_bias;  // (A)
  bool relu = false;
};

struct SamplerOptions {
  double guidance = 1;
  /// (rows, N, A), or undefined: draws of the streams from first_stream on.
  Tensor noise = {};
  uint64_t seed = 0, first_stream = 0;
};

/// Whether sample_net takes x (N, A) and a network of this width. Never depends on N; false within
/// FusedKernels(false).
bool has_sampler(const Tensor& x, int64_t width);

/// x (N, A) after all stages. ShapeError, DTypeError or DeviceError for tensors that do not fit
/// together; GradError where a gradient is wanted.
Tensor sample_net(const SamplerNet& net, std::span<const SamplerStage> stages, const Tensor& x,
                  const SamplerOptions& options = {});

}  // namespace flowgrad
