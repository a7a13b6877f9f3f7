#pragma once

#include <span>

#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/transforms.h"

namespace flowgrad {

/// Inside a rule: sets the gradients that are asked for to those of `twin`, which computes the
/// recorded outputs from `inputs` in operations, as a graph that can be differentiated again.
/// Undefined inputs are handed to the twin as they are.
void set_by_twin(Backward& rule, std::span<const Tensor> inputs, const MultiFunction& twin);

/// Whether all defined tensors share the first one's device and dtype.
bool alike(std::span<const Tensor> tensors);

}  // namespace flowgrad
