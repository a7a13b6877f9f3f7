#include "flowgrad/optim/step_graph.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

using kernels::StepNumbers;
using kernels::StepVerdict;

Device device_of(const StepParts& parts) {
  if (!parts.optimizer || parts.optimizer->parameters().empty())
    throw ValueError("StepGraph: no parameters given");
  return parts.optimizer->parameters().front().second.device();
}

Tensor room_for(size_t bytes, Device device) {
  return Tensor::empty({static_cast<int64_t>(bytes / sizeof(double))}, DType::float64, device);
}

/// A batch has one parameter at least.
Tensor room_for_numbers(const StepParts& parts) {
  const Device device = device_of(parts);
  return room_for((parts.optimizer->parameters().size() + 1) * sizeof(StepNumbers), device);
}

}  // namespace

StepGraph::StepGraph(StepParts parts)
    : parts_(std::move(parts)),
      numbers_(room_for_numbers(parts_)),
      graph_(
          device_of(parts_), [this] { capture(); }, parts_.draws) {}

void StepGraph::capture() {
  Optimizer& optimizer = *parts_.optimizer;
  optimizer.zero_grad();
  const Tensor loss = parts_.loss();
  if (loss.numel() != 1) {
    throw ShapeError(fmt::format("StepGraph: the loss has shape {}; a single number is accepted",
                                 loss.shape().to_string()));
  }
  backward(loss, Tensor());
  loss_ = loss.detach();
  NoGrad off;
  const Device device = loss_.device();
  std::vector<kernels::View> norm_of;  // borrows from the gradients
  gradients_.reserve(optimizer.parameters().size());
  for (const auto& [name, p] : optimizer.parameters()) {
    addresses_.push_back(p.raw());
    gradients_.push_back(p.grad());
    if (p.grad().defined()) norm_of.emplace_back(gradients_.back());
  }
  batches_ = optimizer.batches();
  verdict_ = room_for(sizeof(StepVerdict), device);
  auto* const verdict = static_cast<StepVerdict*>(verdict_.raw());
  const auto* numbers = static_cast<const StepNumbers*>(numbers_.raw());
  kernels::backend(device).judge_step(loss_, norm_of, parts_.clip_norm, captured_any_index(),
                                      verdict);
  for (const auto& batch : batches_) optimizer.queue(batch, 1, {numbers++, verdict});
  if (parts_.ema && !parts_.after_update) parts_.ema->queue({numbers, verdict});
}

/// To the device, as one copy: what the captured update would otherwise have as it was.
void StepGraph::copy_numbers() {
  std::vector<StepNumbers> now;
  now.reserve(batches_.size() + 1);
  for (const auto& batch : batches_) now.push_back(parts_.optimizer->next_numbers(batch));
  now.push_back({.decay = parts_.ema ? parts_.ema->next_decay() : 0});
  device_memory(numbers_.device().kind)
      .copy_in(numbers_.raw(), now.data(), now.size() * sizeof(StepNumbers));
}

StepGraph::Result StepGraph::run() {
  if (parts_.ema) parts_.ema->check_not_swapped("StepGraph::run");
  const NamedTensors& parameters = parts_.optimizer->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, p] = parameters[i];
    if (p.raw() != addresses_[i]) {
      throw DeviceError(fmt::format(
          "StepGraph: \"{}\" has moved since the step was captured; capture it again", name));
    }
    p.set_grad(gradients_[i]);
    if (gradients_[i].defined()) gradients_[i].storage().mark_written("step graph");
  }
  copy_numbers();
  graph_.launch();
  StepVerdict verdict{};
  device_memory(verdict_.device().kind).copy_out(&verdict, verdict_.raw(), sizeof verdict);
  if (verdict.counts == 0) {
    graph_.check();
  } else {
    parts_.optimizer->count(batches_);
    if (parts_.after_update) {
      parts_.after_update();
      if (parts_.ema) parts_.ema->update();
    } else if (parts_.ema) {
      parts_.ema->count();
    }
  }
  return {verdict.loss, verdict.norm};
}

void keep_in_place(Tensor& kept, const Tensor& fresh) {
  if (!kept.defined()) {
    if (fresh.defined()) kept = clone(contiguous(fresh.detach()));
    return;
  }
  if (!fresh.defined() || fresh.shape() != kept.shape()) {
    throw ShapeError(fmt::format("keep_in_place: {} given after {}; a graph reads one shape only",
                                 fresh.defined() ? fresh.shape().to_string() : "nothing",
                                 kept.shape().to_string()));
  }
  if (fresh.dtype() != kept.dtype()) {
    throw DTypeError(fmt::format("keep_in_place: {} given after {}; a graph reads one dtype only",
                                 name_of(fresh.dtype()), name_of(kept.dtype())));
  }
  copy_(kept, fresh.detach());
}

}  // namespace flowgrad
