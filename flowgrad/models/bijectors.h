#pragma once

#include "flowgrad/models/flow.h"

/// Invertible layers that several models share.
namespace flowgrad {

/// x = z exp(log_scale) + shift for every channel (Kingma & Dhariwal 2018): keys log_scale, shift
/// (C) and the buffer `initialized`. Rows hold C channels of `positions` values each, in C-order.
/// initialize_from makes the inverse of the first batch zero-mean with unit variance in every
/// channel; weights without the buffer count as initialized.
class ActNorm final : public Flow {
 public:
  ActNorm(int64_t channels, DType dtype, int64_t positions = 1);
  int64_t dim() const override { return channels_ * positions_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;
  /// ValueError for a batch that has fewer than 2 values a channel or one that is not finite.
  void initialize_from(const Tensor& x, const Tensor& condition = {}) override;

 private:
  int64_t channels_, positions_;
  Tensor log_scale_, shift_, initialized_;
};

/// The axes in another order, random but fixed by `number`; buffer `order` (D) int64.
class Permutation final : public Flow {
 public:
  Permutation(int64_t dim, int64_t number);
  int64_t dim() const override { return dim_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  int64_t dim_;
  Tensor order_, back_;
};

}  // namespace flowgrad
