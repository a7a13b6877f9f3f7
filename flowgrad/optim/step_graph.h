#pragma once

#include <functional>
#include <vector>

#include "flowgrad/core/device_graph.h"
#include "flowgrad/core/tensor.h"
#include "flowgrad/optim/ema.h"
#include "flowgrad/optim/optimizer.h"

namespace flowgrad {

/// What a training step does. The graph borrows: everything must outlive it.
struct StepParts {
  Optimizer* optimizer = nullptr;
  /// A single number that depends on the parameters.
  std::function<Tensor()> loss;
  /// Where the loss draws its random numbers from.
  std::vector<Generator*> draws = {};
  /// Largest norm of all gradients together; 0: no clipping.
  double clip_norm = 0;
  /// Averages of the weights; may be absent.
  Ema* ema = nullptr;
  /// Called between the update and the averages; may be empty.
  std::function<void()> after_update = {};
};

/// A training step (loss, gradients, their norm, clipping, update, averages), captured once as a
/// graph of the device and run as often as wanted: the same arithmetic, so the same bits, without
/// the time that hundreds of launches and the tape take on the host. A run costs the host a copy of
/// the numbers that the step's number and the learning rate decide, a launch, and a copy of the
/// step's loss and norm.
class StepGraph {
 public:
  /// Captures the step. Nothing runs, and `draws` stay where they are; the stored gradients are
  /// dropped. `after_update` and what comes after it stay outside of the graph. DeviceError for a
  /// loss that cannot be captured (see DeviceGraph) or parameters on the CPU; ShapeError for a loss
  /// that is not a single number; ValueError for no parameters.
  explicit StepGraph(StepParts parts);

  /// What a step came to: its loss, and the norm of its gradients before clipping.
  struct Result {
    double loss, norm;
  };
  /// Runs a step. One whose loss or norm is not finite changes neither weights nor optimiser nor
  /// averages. The parameters' stored gradients are those before clipping. What the loss reads
  /// beside parameters and draws must be where it was, see keep_in_place. DeviceError when a
  /// parameter has moved since the capture, or a state was loaded whose counts of updates differ
  /// where they did not; ValueError for an index out of range, see DeviceGraph::check, after which
  /// nothing has changed either.
  Result run();

 private:
  void capture();
  void copy_numbers();

  StepParts parts_;
  std::vector<const void*> addresses_;
  std::vector<Tensor> gradients_;
  std::vector<Optimizer::Batch> batches_;
  /// On the device: kernels::StepNumbers of every batch, then of the averages. They arrive before
  /// the graph runs, so they lie outside of its memory, which is its own from its first kernel on.
  Tensor numbers_;
  /// The loss, and the kernels::StepVerdict.
  Tensor loss_, verdict_;
  DeviceGraph graph_;
};

/// Puts an input of a step where a graph reads it: a copy of the first one stays `kept`, and later
/// ones are copied into it. An undefined one stays undefined. ShapeError for one of another shape
/// than the first, DTypeError for another dtype.
void keep_in_place(Tensor& kept, const Tensor& fresh);

}  // namespace flowgrad
