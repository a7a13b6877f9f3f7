#pragma once

#include <vector>

#include "flowgrad/autograd/planar.h"
#include "flowgrad/models/flow.h"

namespace flowgrad {

/// One planar layer (Rezende & Mohamed 2015): x = z + u_hat tanh(w.z + b), with
/// u_hat = u + (softplus(w.u) - 1 - w.u) w / |w|^2, which keeps w.u_hat > -1 and the map
/// invertible. Its determinant is computed from 1 + w.u_hat = softplus(w.u) itself: u_hat's
/// rounding would lose it below w.u = -14 in float32.
/// Parameters: weight w (D), bias b (1), scale u (D).
class PlanarFlow final : public Flow {
 public:
  PlanarFlow(int64_t dim, Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return dim_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  /// Solves s + (w.u_hat) tanh(s) = w.x + b by Newton's iteration; see planar_stack.
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

  const Tensor& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }
  const Tensor& scale() const { return scale_; }

 private:
  int64_t dim_;
  Tensor weight_, bias_, scale_;
};

/// A stack of planar layers: the model `planar`. Keys flows.{i}.weight, .bias, .scale.
class NormalizingFlow final : public Flow {
 public:
  NormalizingFlow(int64_t dim, int64_t n_flows, Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return dim_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  int64_t dim_;
  std::vector<const PlanarFlow*> flows_;
};

}  // namespace flowgrad
