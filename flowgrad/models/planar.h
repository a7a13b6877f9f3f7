#pragma once

#include <vector>

#include "flowgrad/models/flow.h"

namespace flowgrad {

/// One planar layer (Rezende & Mohamed 2015): x = z + u_hat tanh(w.z + b), with
/// u_hat = u + (softplus(w.u) - 1 - w.u) w / |w|^2, which keeps w.u_hat > -1 and the map
/// invertible. Parameters: weight w (D), bias b (1), scale u (D).
class PlanarFlow final : public Flow {
 public:
  PlanarFlow(int64_t dim, Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return dim_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  /// Solves s + (w.u_hat) tanh(s) = w.x + b by Newton's iteration; see planar_root.
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

/// The root s of s + k tanh(s) = c for each element of c, with k > -1 of one element. From s = 0
/// for k > 0, else from c + sign(c) |k|, Newton's steps approach the root from one side only, so no
/// bracket is needed (4 to 9 steps for k in [-0.99, 300]). Solved in float64 whatever the dtype,
/// and on the host: values on a device are copied there and back. Differentiable to any order in c
/// and k by the implicit equation.
Tensor planar_root(const Tensor& c, const Tensor& k);

}  // namespace flowgrad
