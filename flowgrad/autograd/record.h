#pragma once

#include <initializer_list>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/node.h"

/// The one gate between arithmetic and the tape. An operation computes its value and then writes
///
///     if (recording(a, b)) {
///       record("mul", out, {a, b}, {save(a), save(b)}, [](Backward& r) {
///         if (r.needs(0)) r.set(0, r.grad() * r.saved(1));
///         if (r.needs(1)) r.set(1, r.grad() * r.saved(0));
///       });
///     }
///
/// Rules are written in operations of ops.h, so their results can be differentiated again.
namespace flowgrad {

template <class... Tensors>
bool recording(const Tensors&... inputs) {
  return mode().recording && (inputs.requires_grad() || ...);
}
bool recording(std::span<const Tensor> inputs);

/// Keeps an input for the rule; `needed` false keeps nothing in its place.
Saved save(const Tensor& input, bool needed = true);
/// Keeps an output of the operation being recorded.
Saved save_output(const Tensor& output, uint32_t number = 0);

void link(Node& node, const Tensor* inputs, size_t n_inputs);
void finish_record(Ref<Node> node, std::span<const Tensor> outputs);

template <class Rule>
void record(const char* name, std::span<const Tensor> outputs, std::span<const Tensor> inputs,
            std::span<const Saved> saved, Rule rule) {
  Ref<Node> node(new RuleNode<Rule>(name, std::move(rule)));
  link(*node, inputs.data(), inputs.size());
  for (const Saved& s : saved) node->saved.push_back(s);
  finish_record(std::move(node), outputs);
}

/// Records an operation of one output. `out` must be a new tensor, not an input's handle.
template <class Rule>
void record(const char* name, const Tensor& out, std::initializer_list<Tensor> inputs,
            std::initializer_list<Saved> saved, Rule rule) {
  record(name, std::span(&out, 1), std::span(inputs.begin(), inputs.size()),
         std::span(saved.begin(), saved.size()), std::move(rule));
}

/// The frame that save() registers with on this thread, or null. `refill` true: save() fills values
/// instead of registering.
struct CheckpointScope {
  Ref<CheckpointFrame> frame;
  bool refill = false;
  size_t position = 0;
  size_t draws_position = 0;
  size_t reads_position = 0;
  /// Generators from which an unfinished first run has yet to draw, as the second one goes on.
  std::vector<std::pair<Generator*, Generator>> ahead = {};
};
CheckpointScope*& checkpoint_scope();

/// What a draw by `op` takes of a generator, which goes on to its next stream. In a checkpoint's
/// second run, what that draw took in the first, and the generator stays.
Generator next_draw(const char* op, Generator& generator);

}  // namespace flowgrad
