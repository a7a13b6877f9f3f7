#pragma once

#include <vector>

#include "flowgrad/autograd/transforms.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

/// The tensors of a continuous flow's field with a trace, as kernels::CnfField has them: exact, or
/// left and right, or neither.
struct CnfTensors {
  Tensor x, t, bias;           // (H, D), (H), (H)
  Tensor middle, middle_bias;  // (H, H), (H)
  Tensor out, out_bias;        // (D, H), (D)
  Tensor left{}, right{};      // (N, H)
  Tensor exact{};              // (H, H)

  /// y0 and the tensors, in the order above; undefined ones too.
  std::vector<Tensor> with(const Tensor& y0) const;
  /// The tensors of such a list.
  static CnfTensors from(std::span<const Tensor> inputs);
  bool has_trace() const { return exact.defined() || left.defined(); }
};

/// A solve from y0 (N, D) to {y (N, D), integral of the trace (N)}, or {y} without a trace: by one
/// kernel where the device has one for these sizes (Hairer, Norsett & Wanner 1993, II.1, for the
/// steps), else by `twin`, which computes the same from field.with(y0). Differentiable to any
/// order: the first derivative is a kernel too (the adjoint of the steps as they were taken), a
/// graph of it is the twin's. ShapeError for tensors of other shapes, on any path.
std::vector<Tensor> cnf_solve(const Tensor& y0, const CnfTensors& field,
                              const kernels::SolveSteps& steps, const MultiFunction& twin);

}  // namespace flowgrad
