#include "flowgrad/optim/step_graph.h"

#include <fmt/format.h>

#include <utility>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

void drop_gradients(const NamedTensors& parameters) {
  for (const auto& [name, p] : parameters) p.zero_grad();
}

Device device_of(const NamedTensors& parameters) {
  if (parameters.empty()) throw ValueError("StepGraph: no parameters given");
  return parameters.front().second.device();
}

}  // namespace

StepGraph::StepGraph(NamedTensors parameters, const std::function<Tensor()>& loss, Generator* draws)
    : parameters_(std::move(parameters)),
      graph_(
          device_of(parameters_),
          [&] {
            drop_gradients(parameters_);
            const Tensor value = loss();
            if (value.numel() != 1) {
              throw ShapeError(
                  fmt::format("StepGraph: the loss has shape {}; a single number is accepted",
                              value.shape().to_string()));
            }
            backward(value, Tensor());
            loss_ = value.detach();
          },
          draws) {
  for (const auto& [name, p] : parameters_) {
    addresses_.push_back(p.raw());
    gradients_.push_back(p.grad());
  }
}

void StepGraph::run() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, p] = parameters_[i];
    if (p.raw() != addresses_[i]) {
      throw DeviceError(fmt::format(
          "StepGraph: \"{}\" has moved since the step was captured; capture it again", name));
    }
    p.set_grad(gradients_[i]);
    if (gradients_[i].defined()) gradients_[i].storage().mark_written("step graph");
  }
  loss_.storage().mark_written("step graph");
  graph_.launch();
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
