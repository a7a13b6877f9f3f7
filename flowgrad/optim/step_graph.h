#pragma once

#include <functional>
#include <vector>

#include "flowgrad/core/device_graph.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Loss and gradients of a training step, captured once as a graph of the device and run as often
/// as wanted: the same kernels with the same arguments, so the same bits, without the time that
/// hundreds of launches and the tape take on the host.
class StepGraph {
 public:
  /// Captures `loss`, which must be a single number that depends on the parameters, and its
  /// gradients. Nothing runs, and `draws` stays where it is; the stored gradients are dropped.
  /// DeviceError for a loss that cannot be captured (see DeviceGraph) or parameters on the CPU;
  /// ShapeError for a loss that is not a single number.
  StepGraph(NamedTensors parameters, const std::function<Tensor()>& loss, Generator* draws);

  /// Queues a step; then the parameters have its gradients. What the loss reads beside parameters
  /// and draws must be where it was, see keep_in_place. DeviceError when a parameter has moved
  /// since.
  void run();
  /// Of the latest run.
  const Tensor& loss() const { return loss_; }

 private:
  NamedTensors parameters_;
  std::vector<const void*> addresses_;
  Tensor loss_;
  DeviceGraph graph_;
  std::vector<Tensor> gradients_;
};

/// Puts an input of a step where a graph reads it: a copy of the first one stays `kept`, and later
/// ones are copied into it. An undefined one stays undefined. ShapeError for one of another shape
/// than the first, DTypeError for another dtype.
void keep_in_place(Tensor& kept, const Tensor& fresh);

}  // namespace flowgrad
