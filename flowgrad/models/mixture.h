#pragma once

#include "flowgrad/models/module.h"

namespace flowgrad {

/// A trained mixture of K Gaussians with diagonal covariance over D axes:
/// p(z) = sum_k softmax(logits)_k prod_d N(z_d; means_kd, exp(2 log_scales_kd)).
/// Keys logits (K), means (K, D), log_scales (K, D). Starts with equal weights, unit scales and
/// means drawn from N(0, I), so that components differ.
class GaussianMixture final : public Module {
 public:
  /// ValueError unless components and dim are at least 1.
  GaussianMixture(int64_t components, int64_t dim, Generator& generator,
                  DType dtype = DType::float32);
  /// (N, D) to (N), by log-sum-exp over the components.
  Tensor log_prob(const Tensor& z) const;
  /// n draws (n, D): one stream of the generator for the components, the next for the normals.
  Tensor sample(int64_t n, Generator& generator) const;
  /// The same draws on the tape, through means and scales. Which component a row comes from has no
  /// derivative: a gradient in the logits of several raises GradError.
  Tensor rsample(int64_t n, Generator& generator) const;

 private:
  Tensor logits_, means_, log_scales_;
};

}  // namespace flowgrad
