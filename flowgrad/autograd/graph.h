#pragma once

#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"

/// The recorded graph, to look at.
namespace flowgrad {

struct GraphNode {
  uint64_t number = 0;
  /// Operation name; "leaf" for a tensor that asks for gradients.
  std::string name;
  std::string shape;
  std::string dtype;
  /// Bytes of the storages that the node's saved values keep alive.
  int64_t saved_bytes = 0;
  /// Numbers of the nodes that produced its inputs; 0 for a constant.
  std::vector<uint64_t> inputs;
};

/// Every node that `output` depends on, in the order of evaluation.
std::vector<GraphNode> graph_of(const Tensor& output);
/// Graphviz source.
std::string graph_dot(const Tensor& output);
/// A table: number, operation, shape, dtype, bytes kept for the backward pass, inputs.
std::string graph_text(const Tensor& output);

}  // namespace flowgrad
