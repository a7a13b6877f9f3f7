#pragma once

#include "flowgrad/models/coupling_stack.h"
#include "flowgrad/models/layers.h"

namespace flowgrad {

struct RealNVPOptions {
  int64_t dim = 2;
  int64_t n_flows = 8;
  int64_t hidden = 256;
  /// c of s = c tanh(raw / c), the bound of the log-scale; 0 leaves it unbounded.
  double log_scale_bound = 3;
  int64_t condition_dim = 0;
  /// As in CouplingStackOptions.
  bool permute = false;
  bool actnorm = false;
  int64_t base_components = 0;
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

/// A stack of affine couplings: the model `realnvp`. Keys flows.{i}.mask (buffer),
/// flows.{i}.scale_net.{0,2,4}.*, flows.{i}.translate_net.{0,2,4}.*, and those of CouplingStack.
class RealNVP final : public CouplingStack {
 public:
  /// ValueError for dim = 1 and other values too small.
  RealNVP(const RealNVPOptions& options, Generator& generator, DType dtype = DType::float32);
};

}  // namespace flowgrad
