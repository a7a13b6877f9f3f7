#include "flowgrad/autograd/record.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/core/device_graph.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

Mode& mode() {
  thread_local Mode current;
  return current;
}

CheckpointScope*& checkpoint_scope() {
  thread_local CheckpointScope* scope = nullptr;
  return scope;
}

namespace {

/// What the first run will draw, once it gets there.
Generator draw_ahead(CheckpointScope& scope, Generator& generator) {
  for (auto& [of, at] : scope.ahead) {
    if (of != &generator) continue;
    at.next_stream();
    return at;
  }
  return scope.ahead.emplace_back(&generator, generator).second;
}

/// In a checkpoint's second run every tensor is as it was in the first, captured ones too.
void check_reads(CheckpointScope& scope, const Node& node, std::span<const Tensor> inputs) {
  std::vector<uint64_t>& reads = scope.frame->reads;
  for (const Tensor& t : inputs) {
    const uint64_t version = t.defined() ? t.storage().version() : 0;
    if (!scope.refill) {
      reads.push_back(version);
      continue;
    }
    const size_t at = scope.reads_position++;
    if (at >= reads.size() || version == reads[at]) continue;
    throw GradError(fmt::format("checkpoint: {} read or saved {} {}; modified in place since by {}",
                                node.name(), t.shape().to_string(), name_of(t.dtype()),
                                t.storage().last_writer()));
  }
}

}  // namespace

Generator next_draw(const char* op, Generator& generator) {
  CheckpointScope* const scope = checkpoint_scope();
  if (scope && scope->refill) {
    const std::vector<Generator>& draws = scope->frame->draws;
    if (scope->draws_position >= draws.size()) {
      if (!scope->frame->finished) return draw_ahead(*scope, generator);
      throw GradError(
          fmt::format("checkpoint: the function drew more when it was run again, by {}", op));
    }
    return draws[scope->draws_position++];
  }
  check_captured_draw(op, generator);
  const Generator draw = generator;
  generator.next_stream();
  if (scope) scope->frame->draws.push_back(draw);
  return draw;
}

bool recording(std::span<const Tensor> inputs) {
  if (!mode().recording) return false;
  for (const Tensor& t : inputs) {
    if (t.requires_grad()) return true;
  }
  return false;
}

namespace {

Saved keep(const Tensor& value, int32_t own_output) {
  Saved s;
  CheckpointScope* scope = checkpoint_scope();
  if (scope && scope->refill) {
    scope->frame->values.push_back(own_output >= 0 ? value : value.detach());
    scope->frame->versions.push_back(value.storage().version());
  } else if (scope) {
    s.frame = scope->frame;
    s.frame_index = scope->position++;
    s.version = value.storage().version();
    s.own_output = own_output;
    if (own_output < 0 && value.requires_grad())
      s.frame_edge = {value.node(), value.output_number()};
    return s;
  }
  s.value = value;
  s.version = value.storage().version();
  s.own_output = own_output;
  return s;
}

}  // namespace

Saved save(const Tensor& input, bool needed) {
  if (!needed || !input.defined()) return {};
  return keep(input, -1);
}

Saved save_output(const Tensor& output, uint32_t number) {
  return keep(output.detach(), static_cast<int32_t>(number));
}

void link(Node& node, const Tensor* inputs, size_t n_inputs) {
  if (CheckpointScope* const scope = checkpoint_scope())
    check_reads(*scope, node, {inputs, n_inputs});
  for (size_t i = 0; i < n_inputs; ++i) {
    node.edges.push_back(
        inputs[i].requires_grad() ? Edge{inputs[i].node(), inputs[i].output_number()} : Edge{});
  }
}

void check_anomaly(const Tensor& t, const std::string& where) {
  if (!t.defined() || (t.dtype() != DType::float32 && t.dtype() != DType::float64)) return;
  const bool nan_only = mode().anomaly == AnomalyCheck::nan;
  int64_t at = 0;
  for (double v : t.to_vector<double>()) {
    if (nan_only ? std::isnan(v) : !std::isfinite(v)) {
      throw GradError(fmt::format("anomaly: {} has {} at element {} of shape {}", where, v, at,
                                  t.shape().to_string()));
    }
    ++at;
  }
}

void finish_record(Ref<Node> node, std::span<const Tensor> outputs) {
  if (mode().anomaly != AnomalyCheck::off) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      check_anomaly(outputs[i], fmt::format("the value of {} (output {})", node->label(), i));
    }
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& out = outputs[i];
    node->outputs.push_back({out.shape(), out.dtype(), out.device()});
    if (is_floating(out.dtype())) out.attach(node, static_cast<uint32_t>(i));
  }
}

std::string Node::label() const { return fmt::format("{} #{}", name_, number()); }

void Node::release_saved() {
  if (saved.empty()) return;
  saved.clear();
  released_ = true;
}

int64_t Node::saved_bytes() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < saved.size(); ++i) {
    if (saved[i].value.defined()) bytes += static_cast<int64_t>(saved[i].value.storage().bytes());
  }
  return bytes;
}

Tensor Backward::grad_or_zeros(int output) const {
  const Tensor& g = grad(output);
  if (g.defined()) return g;
  const Node::OutputInfo& info = node_->outputs[static_cast<size_t>(output)];
  Tensor zero = Tensor::empty(info.shape, info.dtype, info.device);
  kernels::backend(info.device).fill(zero, 0);
  return zero;
}

Tensor Backward::saved(int i) const {
  if (node_->was_released()) {
    throw GradError("backward: the saved values of " + node_->label() +
                    " were freed by an earlier pass; ask for retain_graph there to pass twice");
  }
  const Saved& s = node_->saved[static_cast<size_t>(i)];
  Tensor value = s.value;
  Edge edge = s.frame_edge;
  if (s.frame) {
    if (!s.frame->filled) s.frame->recompute();
    if (s.frame_index >= s.frame->values.size()) {
      throw GradError("checkpoint: the function did other work when it was run again for " +
                      node_->label());
    }
    value = s.frame->values[s.frame_index];
  }
  // A value that the re-run provided has been written if it, or what it was computed from, was.
  if (value.storage().version() != s.version ||
      (s.frame && s.frame->versions[s.frame_index] != s.version)) {
    throw GradError(fmt::format("backward: {} saved {} {}; modified in place since by {}",
                                node_->label(), value.shape().to_string(), name_of(value.dtype()),
                                value.storage().last_writer()));
  }
  const bool has_place = s.own_output >= 0 || edge.node;
  if (!has_place || (!mode().recording && !s.frame)) return value;
  if (s.own_output >= 0) edge = {node_, static_cast<uint32_t>(s.own_output)};
  value = value.detach();
  if (mode().recording && is_floating(value.dtype())) value.attach(edge.node, edge.output);
  return value;
}

Tensor Backward::sum_so_far(int input, const Shape& shape, DType dtype) const {
  const Tensor* const slot = slots[static_cast<size_t>(input)];
  if (slot == nullptr || mode().recording || mode().anomaly != AnomalyCheck::off) return {};
  const bool own = slot->is_sole_owner() && slot->is_contiguous();
  return own && slot->shape() == shape && slot->dtype() == dtype ? *slot : Tensor();
}

Tensor Backward::memory_of_grad() const {
  const Tensor& g = grad();
  const bool own = is_last_reader && g.is_sole_owner() && g.is_contiguous();
  return own ? g : Tensor::empty(g.shape(), g.dtype(), g.device());
}

}  // namespace flowgrad
