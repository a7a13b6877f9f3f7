#pragma once

#include <string>
#include <utility>

#include "flowgrad/core/inline_vector.h"
#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Where a cotangent goes: output number `output` of `node`. No node: nobody asks.
struct Edge {
  Ref<TapeNode> node;
  uint32_t output = 0;
};

/// Stands in for the values that the operations inside a checkpoint would have saved.
class CheckpointFrame : public RefCounted {
 public:
  /// Called once, on the first read: runs the function again and fills `values`.
  virtual void recompute() = 0;

  std::vector<Tensor> values;
  /// Version of each value's storage when it was saved.
  std::vector<uint64_t> versions;
  /// What each draw of the first run took of its generator.
  std::vector<Generator> draws;
  /// Version of the storage of every tensor that a recorded operation of the first run read.
  std::vector<uint64_t> reads;
  /// Whether the first run has ended: a rule may ask earlier, where f itself takes gradients.
  bool finished = false;
  bool filled = false;
};

/// A tensor kept for a backward rule. An input keeps its place on the tape. An output is kept
/// without it (it would own its own node: a cycle) and is put back when read. Inside a checkpoint
/// nothing is kept but the position in the list of values that the re-run will provide.
struct Saved {
  Tensor value;
  uint64_t version = 0;
  int32_t own_output = -1;  // >= 0: this is that output of the node itself
  Ref<CheckpointFrame> frame;
  size_t frame_index = 0;
  Edge frame_edge;
};

class Backward;

/// One recorded operation: how the cotangents of its outputs become cotangents of its inputs.
class Node : public TapeNode {
 public:
  struct OutputInfo {
    Shape shape;
    DType dtype = DType::float32;
    Device device;
  };

  explicit Node(const char* name) : TapeNode(false), name_(name) {}

  /// "tanh #41"
  std::string label() const;
  const char* name() const { return name_; }
  virtual void run(Backward& backward) const = 0;
  /// Drops the saved values; a later run raises GradError if there were any.
  void release_saved();
  bool was_released() const { return released_; }
  /// Bytes of storage kept alive by this node's saved values.
  int64_t saved_bytes() const;

  InlineVector<Edge, 3> edges;
  InlineVector<OutputInfo, 1> outputs;
  InlineVector<Saved, 3> saved;
  /// Slots of outputs marked by retain_grad.
  std::vector<std::pair<uint32_t, Ref<Leaf>>> retained;

 private:
  const char* name_;
  bool released_ = false;
};

/// What a backward rule sees and fills in.
class Backward {
 public:
  Backward(const Ref<Node>& node, Tensor* cotangents) : node_(node), cotangents_(cotangents) {
    results.resize(node->edges.size());
    slots.resize(node->edges.size());
  }
  const Node& node() const { return *node_; }
  /// Cotangent of an output; undefined when nothing downstream used that output.
  const Tensor& grad(int output = 0) const { return cotangents_[output]; }
  /// As grad, with zeros for an unused output.
  Tensor grad_or_zeros(int output) const;
  /// The i-th saved tensor. Raises GradError when it was freed or has been overwritten since.
  Tensor saved(int i) const;
  /// True when the gradient of this input is asked for.
  bool needs(int input) const {
    return static_cast<bool>(node_->edges[static_cast<size_t>(input)].node);
  }
  /// Gradient of an input. It may still be of the broadcast shape: the engine sums it.
  void set(int input, Tensor gradient) {
    results[static_cast<size_t>(input)] = std::move(gradient);
  }

  /// What others gave to this input so far, where a rule may add its own share to it in place of
  /// `set`: undefined where it must not, as when the gradient is recorded or somebody holds the
  /// sum.
  Tensor sum_so_far(int input, const Shape& shape, DType dtype) const;
  /// Where a rule may write a gradient of the shape and dtype of grad(), off the tape: over grad()
  /// itself if nobody reads that after this rule. Asked for once, for the last kernel that reads
  /// grad().
  Tensor memory_of_grad() const;

  InlineVector<Tensor, 3> results;
  /// Where the engine collects the gradient of each input; null where nobody asks.
  InlineVector<Tensor*, 3> slots;
  /// Nobody asked for the cotangents themselves.
  bool is_last_reader = false;

 private:
  const Ref<Node>& node_;
  Tensor* cotangents_;
};

template <class Rule>
class RuleNode final : public Node {
 public:
  RuleNode(const char* name, Rule rule) : Node(name), rule_(std::move(rule)) {}
  void run(Backward& backward) const override { rule_(backward); }

 private:
  Rule rule_;
};

}  // namespace flowgrad
