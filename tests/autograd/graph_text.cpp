#include "autograd/conformance.h"
#include "flowgrad/autograd/graph.h"

/// The recorded graph as Graphviz source and as a table.
namespace flowgrad::conformance {
namespace {

/// Node numbers are counted over the whole process: "@k" stands for the k-th from the leaf.
std::string numbered(std::string text, const Tensor& first) {
  for (size_t at = text.find('@'); at != std::string::npos; at = text.find('@', at)) {
    const size_t end = text.find_first_not_of("0123456789", at + 1);
    const uint64_t k = std::stoull(text.substr(at + 1, end - at - 1));
    text.replace(at, end - at, std::to_string(first.node()->number() + k));
  }
  return text;
}

TEST_CASE("the text and the drawing of a small expression", "[graph_text]") {
  const Tensor x = fill({2, 3}).requires_grad_();
  const Tensor constant = fill({3}, 1);
  const Tensor y = sum(tanh(x) * constant);
  const std::string dot = R"(digraph tape {
  rankdir=LR;
  node [shape=box, fontname="sans-serif"];
  n@0 [label="leaf #@0\n(2, 3) float64", style=rounded];
  n@1 [label="tanh #@1\n(2, 3) float64"];
  n@0 -> n@1;
  n@2 [label="mul #@2\n(2, 3) float64"];
  n@1 -> n@2;
  c@2_1 [label="constant", style=dotted];
  c@2_1 -> n@2;
  n@3 [label="sum #@3\n() float64"];
  n@2 -> n@3;
}
)";
  CHECK(graph_dot(y) == numbered(dot, x));
  const auto line = [&](int k, const std::string& rest) {
    const std::string n = std::to_string(x.node()->number() + static_cast<uint64_t>(k));
    return std::string(n.size() < 6 ? 6 - n.size() : 0, ' ') + n + "  " + numbered(rest, x) + "\n";
  };
  std::string text = "     #  operation        shape            dtype     saved bytes  inputs\n";
  text += line(0, "leaf             (2, 3)           float64             0");
  text += line(1, "tanh             (2, 3)           float64            48  #@0");
  text += line(2, "mul              (2, 3)           float64            24  #@1 constant");
  text += line(3, "sum              ()               float64             0  #@2");
  text +=
      "saved for the backward pass: 72 bytes (a storage kept by several nodes counts for each)\n";
  CHECK(graph_text(y) == text);
}

TEST_CASE("the nodes of a graph: order, inputs, bytes", "[graph_text]") {
  const Tensor x = fill({4}).requires_grad_();
  const auto parts = chunk(exp(x), 2);
  const Tensor y = parts[0] * parts[1] + parts[0];
  const auto nodes = graph_of(y);
  REQUIRE(nodes.size() == 5);
  const char* names[] = {"leaf", "exp", nodes[2].name.c_str(), "mul", "add"};
  for (size_t i = 0; i < 5; ++i) {
    CHECK(nodes[i].name == names[i]);
    if (i) CHECK(nodes[i].number > nodes[i - 1].number);
  }
  CHECK(nodes[3].inputs == std::vector<uint64_t>{nodes[2].number, nodes[2].number});
  CHECK(nodes[4].inputs == std::vector<uint64_t>{nodes[3].number, nodes[2].number});
  CHECK(nodes[1].saved_bytes == 32);
  // After a pass nothing is kept; inside a checkpoint nothing ever is.
  grads(y, {x}, ones64({2}));
  for (const GraphNode& n : graph_of(y)) CHECK(n.saved_bytes == 0);
  for (const GraphNode& n : graph_of(checkpoint([](const Tensor& t) { return exp(sin(t)); }, x)))
    CHECK(n.saved_bytes == 0);
}

TEST_CASE("the graph of a gradient, and of no graph", "[graph_text]") {
  const Tensor x = fill({3}).requires_grad_();
  const Tensor g = grad(sum(sin(x)), x, {.create_graph = true});
  bool cosine = false;
  for (const GraphNode& n : graph_of(g)) cosine = cosine || n.name == "cos";
  CHECK(cosine);
  CHECK(graph_of(x).size() == 1);
  CHECK(graph_of(x.detach()).empty());
  CHECK(graph_dot(x.detach()) ==
        "digraph tape {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n}\n");
  CHECK(graph_text(x.detach()).find("saved for the backward pass: 0 bytes") != std::string::npos);
}

}  // namespace
}  // namespace flowgrad::conformance
