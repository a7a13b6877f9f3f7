#pragma once

#include "flowgrad/core/layout.h"

/// How strided operands are walked together: shared by the CPU's loops and the CUDA kernels.
namespace flowgrad::kernels {

constexpr int kMaxOperands = 5;

/// Axes of some operands of equal shape after merging: sizes without ones, innermost last, no two
/// neighbours that one axis could describe. Strides in elements.
struct Axes {
  int rank = 0, operands = 0;
  int64_t total = 1;
  int64_t size[kMaxRank] = {};
  int64_t stride[kMaxOperands][kMaxRank] = {};

  int64_t inner() const { return rank == 0 ? 1 : size[rank - 1]; }
  int64_t inner_stride(int operand) const { return rank == 0 ? 1 : stride[operand][rank - 1]; }
  /// Elements follow each other in order.
  bool is_contiguous(int operand) const {
    return rank == 0 || (rank == 1 && stride[operand][0] == 1);
  }
};
Axes merge_axes(const Shape& shape, const Strides* const* strides, int operands);

/// The batch axes of a matrix product, all but the last two, merged; operands are out, a and b.
Axes matmul_batch(const Shape& shape, const Strides& out, const Strides& a, const Strides& b);

/// Matrices on the last two axes of a shape, all others a batch.
int64_t batch_of_matrices(const Shape& shape);

/// Distinct positions have distinct addresses (true for slices and permutations, not for expanded
/// axes).
bool is_one_to_one(const Shape& shape, const Strides& strides);

}  // namespace flowgrad::kernels
