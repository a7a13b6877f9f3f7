#pragma once

#include <functional>
#include <vector>

#include "flowgrad/models/flow.h"
#include "flowgrad/models/mixture.h"

namespace flowgrad {

struct CouplingStackOptions {
  int64_t dim = 2;
  int64_t n_flows = 1;
  int64_t condition_dim = 0;
  /// A fixed random permutation of the axes after every coupling: without it two axes of one half
  /// never condition each other, which matters for dim > 2.
  bool permute = false;
  /// A trained shift and scale of every axis before each coupling.
  bool actnorm = false;
  /// Components of a trained Gaussian mixture in place of the base N(0, I); 0 keeps N(0, I).
  int64_t base_components = 0;
};

/// What RealNVP and the spline flow share: couplings whose kept half alternates, with ActNorm,
/// permutations and a mixture base on request. Keys flows.{i}.*, actnorms.{i}.*,
/// permutations.{i}.order, base.*.
class CouplingStack : public Flow {
 public:
  int64_t dim() const override { return options_.dim; }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;
  Tensor base_log_prob(const Tensor& z) override;
  Tensor base_sample(int64_t n, Generator& generator) override;
  void initialize_from(const Tensor& x, const Tensor& condition = {}) override;

 protected:
  /// Makes one coupling that keeps the even axes, or the odd ones.
  using Coupling = std::function<std::unique_ptr<Flow>(bool keep_even)>;
  /// ValueError for dim = 1, where there is nothing to condition on, and other values too small.
  CouplingStack(const char* name, const CouplingStackOptions& options, const Coupling& coupling,
                Generator& generator, DType dtype);

 private:
  const char* name_;
  CouplingStackOptions options_;
  std::vector<Flow*> steps_;  // in the order from base to data
  GaussianMixture* base_ = nullptr;
};

}  // namespace flowgrad
