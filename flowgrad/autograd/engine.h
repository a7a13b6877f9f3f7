#pragma once

#include <span>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

struct GradOptions {
  /// Record the computation of the gradients, so that they can be differentiated again.
  bool create_graph = false;
  /// Keep saved values for another pass; create_graph implies it.
  bool retain_graph = false;
  /// Give an undefined tensor, not an error, for an input that the outputs do not depend on.
  bool allow_unused = false;
};

/// Gradients of outputs (with cotangents of their shapes; ones for scalars when none are given)
/// with respect to inputs, which may be leaves or intermediate tensors. Stores nothing in the
/// leaves. Raises GradError for an output without history, an unused input, freed or overwritten
/// saved values.
std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                         std::span<const Tensor> cotangents = {}, const GradOptions& options = {});
std::vector<Tensor> grad(const Tensor& output, std::initializer_list<Tensor> inputs,
                         const GradOptions& options = {});
std::vector<Tensor> grad(const Tensor& output, const std::vector<Tensor>& inputs,
                         const GradOptions& options = {});
/// With respect to the parameters of a module, in their order.
std::vector<Tensor> grad(const Tensor& output, const NamedTensors& inputs,
                         const GradOptions& options = {});
Tensor grad(const Tensor& output, const Tensor& input, const GradOptions& options = {});

/// Adds the gradients of `output` to the `grad()` of every leaf it depends on, in the leaf's own
/// buffer. The stored gradients are detached: use grad() with create_graph for higher orders.
void backward(const Tensor& output, const Tensor& cotangent = {}, bool retain_graph = false);
void backward(std::span<const Tensor> outputs, std::span<const Tensor> cotangents,
              bool retain_graph = false);

/// Makes backward() store the gradient of a non-leaf, readable through its grad(). Idempotent.
void retain_grad(const Tensor& x);

}  // namespace flowgrad
