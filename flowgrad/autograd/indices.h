#pragma once

#include "flowgrad/core/device_graph.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// For lookups with an error text of their own: index, all of whose elements are in [0, size);
/// ValueError with message(index, element) for the first that is not, elements counted in C-order.
/// While a graph is captured, a copy in which 0 stands for those that are not, and the error is
/// DeviceGraph::check's. DTypeError unless index is int64.
Tensor check_indices(const Tensor& index, int64_t size, const IndexMessage& message);

}  // namespace flowgrad
