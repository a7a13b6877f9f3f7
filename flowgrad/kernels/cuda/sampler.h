#pragma once

#include "flowgrad/kernels/backend.h"

/// How CudaBackend::sample spreads a solve over the device. A group of blocks owns the columns of
/// the hidden layers and solves for a tile of rows, then for the next one.
namespace flowgrad::kernels::cuda {

struct SamplerPlan {
  /// Columns of a hidden layer that one of a block's 8 warps computes: 2 or 4. It sets the order of
  /// sums, so it depends on dtype and network alone.
  int columns = 0;
  /// Rows of a tile: 1, 2, 4 or 8.
  int rows = 0;
  /// Blocks of a group.
  int blocks = 0;
  /// Groups that run side by side.
  int groups = 0;
};

/// columns = 0 where the network does not fit. n_rows counts a guided row twice.
SamplerPlan plan_sampler(DType dtype, int64_t width, int64_t outputs, int64_t n_rows, bool guided);

/// As Backend::sample; plan nullptr means plan_sampler's.
void sample(const SamplerPlan* plan, const Sampler& sampler, View x, View out);

}  // namespace flowgrad::kernels::cuda
