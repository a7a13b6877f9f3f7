#pragma once

#include <vector>

#include "flowgrad/models/flow.h"
#include "flowgrad/models/layers.h"

namespace flowgrad {

struct RealNVPOptions {
  int64_t dim = 2;
  int64_t n_flows = 8;
  int64_t hidden = 256;
  /// c of s = c tanh(raw / c), the bound of the log-scale; 0 leaves it unbounded.
  double log_scale_bound = 3;
  int64_t condition_dim = 0;
  /// A fixed random permutation of the axes after every coupling.
  bool permute = false;
  /// A trained shift and scale of every axis before each coupling (Glow's ActNorm, without
  /// data-dependent start).
  bool actnorm = false;
};

/// Affine coupling (Dinh et al. 2017): where mask is 1 the input passes; elsewhere
/// x = z exp(s) + t with s and t from nets that see the masked input and the condition.
class CouplingLayer final : public Flow {
 public:
  CouplingLayer(const RealNVPOptions& options, bool keep_even, Generator& generator, DType dtype);
  int64_t dim() const override { return options_.dim; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  Transformed move(const Tensor& x, const Tensor& condition, bool inverse);

  RealNVPOptions options_;
  Tensor mask_;  // (D): 1 = passed through
  MLP& scale_net_;
  MLP& translate_net_;
};

/// x = z exp(log_scale) + shift on every axis; keys log_scale, shift (D).
class ActNorm final : public Flow {
 public:
  ActNorm(int64_t dim, DType dtype);
  int64_t dim() const override { return dim_; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  int64_t dim_;
  Tensor log_scale_, shift_;
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

/// A stack of couplings with alternating masks: the model `realnvp`. Keys flows.{i}.mask (buffer),
/// flows.{i}.scale_net.{0,2,4}.*, flows.{i}.translate_net.{0,2,4}.*; ActNorm and permutations under
/// actnorms.{i} and permutations.{i}. ValueError for dim = 1: there is nothing to condition on.
class RealNVP final : public Flow {
 public:
  RealNVP(const RealNVPOptions& options, Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return options_.dim; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  RealNVPOptions options_;
  std::vector<Flow*> steps_;  // in the order from base to data
};

}  // namespace flowgrad
