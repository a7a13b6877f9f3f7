#include "flowgrad/autograd/graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "flowgrad/autograd/node.h"

namespace flowgrad {

std::vector<GraphNode> graph_of(const Tensor& output) {
  std::vector<GraphNode> found;
  if (!output.requires_grad()) return found;
  std::unordered_set<TapeNode*> seen{output.node().get()};
  std::vector<TapeNode*> stack{output.node().get()};
  while (!stack.empty()) {
    TapeNode* at = stack.back();
    stack.pop_back();
    GraphNode g;
    g.number = at->number();
    if (at->is_leaf()) {
      const auto* leaf = static_cast<Leaf*>(at);
      g.name = "leaf";
      g.shape = leaf->layout.shape.to_string();
      g.dtype = name_of(leaf->dtype);
    } else {
      const auto* node = static_cast<Node*>(at);
      g.name = node->name();
      g.shape = node->outputs[0].shape.to_string();
      g.dtype = name_of(node->outputs[0].dtype);
      g.saved_bytes = node->saved_bytes();
      for (size_t i = 0; i < node->edges.size(); ++i) {
        TapeNode* from = node->edges[i].node.get();
        g.inputs.push_back(from ? from->number() : 0);
        if (from && seen.insert(from).second) stack.push_back(from);
      }
    }
    found.push_back(std::move(g));
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
  return found;
}

std::string graph_dot(const Tensor& output) {
  std::string out = "digraph tape {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n";
  for (const GraphNode& n : graph_of(output)) {
    out += fmt::format("  n{} [label=\"{} #{}\\n{} {}\"{}];\n", n.number, n.name, n.number, n.shape,
                       n.dtype, n.name == "leaf" ? ", style=rounded" : "");
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      if (n.inputs[i]) {
        out += fmt::format("  n{} -> n{};\n", n.inputs[i], n.number);
      } else {
        out += fmt::format("  c{0}_{1} [label=\"constant\", style=dotted];\n  c{0}_{1} -> n{0};\n",
                           n.number, i);
      }
    }
  }
  return out + "}\n";
}

std::string graph_text(const Tensor& output) {
  std::string out = fmt::format("{:>6}  {:<16} {:<16} {:<8} {:>12}  inputs\n", "#", "operation",
                                "shape", "dtype", "saved bytes");
  int64_t total = 0;
  for (const GraphNode& n : graph_of(output)) {
    std::string inputs;
    for (uint64_t i : n.inputs)
      inputs += (inputs.empty() ? "" : " ") + (i ? fmt::format("#{}", i) : "constant");
    std::string line = fmt::format("{:>6}  {:<16} {:<16} {:<8} {:>12}  {}", n.number, n.name,
                                   n.shape, n.dtype, n.saved_bytes, inputs);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    total += n.saved_bytes;
  }
  return out + fmt::format(
                   "saved for the backward pass: {} bytes (a storage kept by several nodes counts "
                   "for each)\n",
                   total);
}

}  // namespace flowgrad
