#pragma once

#include <span>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {
namespace kernels {
struct AdamParams;
struct CapturedStep;
struct OptimizerSlot;
struct SgdParams;
struct StepNumbers;
}  // namespace kernels

/// Parameters that share settings. The learning rate of a step is the schedule's times `lr_factor`.
struct ParameterGroup {
  NamedTensors parameters;
  double lr_factor = 1;
  double weight_decay = 0;
};

/// Updates leaves from their stored gradients, outside the tape. Parameters without a gradient are
/// left alone and age by nothing, as in PyTorch. State is kept per parameter name.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// ValueError unless finite and at least 0.
  void set_learning_rate(double lr);
  double learning_rate() const { return lr_; }
  /// Calls of step().
  int64_t steps_done() const { return steps_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }
  /// All parameters, group after group.
  const NamedTensors& parameters() const { return all_; }
  /// Drops the stored gradients.
  void zero_grad() const;
  /// One update, as if every gradient was `gradient_factor` times what is stored; it must be finite
  /// and at least 0 (ValueError).
  void step(double gradient_factor = 1);
  /// clip_grad_norm and step in one pass over gradients and parameters: the stored gradients stay
  /// as they are. Returns the norm; one that is not finite changes nothing.
  double clipped_step(double max_norm);

  /// Moments as "<parameter>.<moment>", updates of each parameter as "<parameter>.step" and calls
  /// of step() as "step" (int64). The tensors are the optimiser's own, not copies.
  NamedTensors state_dict() const;
  /// Raises IoError for a missing or extra entry, a wrong shape or dtype, or a count below 0; then
  /// nothing changes. The learning rate is not part of the state.
  void load_state_dict(const NamedTensors& state);

 protected:
  /// `moments` names up to two buffers per parameter, zero at first. Raises GradError for a tensor
  /// that is not a leaf asking for gradients, ShapeError for one that is not contiguous, ValueError
  /// for a name that appears twice or a negative setting.
  Optimizer(std::vector<ParameterGroup> groups, double lr, std::vector<const char*> moments);
  /// Updates parameters of one group whose gradients are here; it is the `count`-th update of each.
  virtual void update(std::span<const kernels::OptimizerSlot> slots, const ParameterGroup& group,
                      int64_t count, double lr, double gradient_factor,
                      const kernels::CapturedStep& captured) = 0;
  /// What of that update a captured one reads from the device.
  virtual kernels::StepNumbers numbers(const ParameterGroup& group, int64_t count,
                                       double lr) const = 0;

 private:
  friend class StepGraph;
  struct State {
    std::vector<Tensor> moments;
    int64_t updates = 0;
  };
  /// Parameters of one group and one age, by their places in parameters(): one call of the kernels.
  struct Batch {
    size_t group;
    std::vector<size_t> members;
  };
  /// Of all parameters that have a gradient.
  std::vector<Batch> batches() const;
  /// The number of the batch's next update. DeviceError where its members differ in age by now.
  int64_t next_update(const Batch& batch) const;
  void queue(const Batch& batch, double gradient_factor, const kernels::CapturedStep& captured);
  /// Notes that all batches were updated.
  void count(const std::vector<Batch>& batches);
  kernels::StepNumbers next_numbers(const Batch& batch) const;

  std::vector<ParameterGroup> groups_;
  std::vector<const char*> moment_names_;
  /// In the order of parameters(), as are states.
  NamedTensors all_;
  std::vector<State> states_;
  /// Where parameters and state are.
  Device device_;
  double lr_ = 0;
  int64_t steps_ = 0;
};

struct SgdOptions {
  double lr = 1e-2;
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
};

/// Stochastic gradient descent as torch.optim.SGD: weight decay is L2 in the gradient; moment
/// momentum_buffer where there is momentum. Nesterov needs a momentum above 0 and no dampening.
class Sgd final : public Optimizer {
 public:
  explicit Sgd(std::vector<ParameterGroup> groups, const SgdOptions& options = {});

 protected:
  void update(std::span<const kernels::OptimizerSlot> slots, const ParameterGroup& group,
              int64_t count, double lr, double gradient_factor,
              const kernels::CapturedStep& captured) override;
  kernels::StepNumbers numbers(const ParameterGroup& group, int64_t count,
                               double lr) const override;

 private:
  kernels::SgdParams params(const ParameterGroup& group, int64_t count, double lr) const;
  SgdOptions options_;
};

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  /// True: AdamW's decay of the parameter (Loshchilov & Hutter 2019). False: L2 in the gradient.
  bool decoupled = true;
};

/// Adam (Kingma & Ba 2015) and AdamW; moments exp_avg and exp_avg_sq.
class Adam final : public Optimizer {
 public:
  explicit Adam(std::vector<ParameterGroup> groups, const AdamOptions& options = {});

 protected:
  void update(std::span<const kernels::OptimizerSlot> slots, const ParameterGroup& group,
              int64_t count, double lr, double gradient_factor,
              const kernels::CapturedStep& captured) override;
  kernels::StepNumbers numbers(const ParameterGroup& group, int64_t count,
                               double lr) const override;

 private:
  kernels::AdamParams params(const ParameterGroup& group, int64_t count, double lr) const;
  AdamOptions options_;
};

/// Norm of all stored gradients together; parameters without one count as 0.
double gradient_norm(const NamedTensors& parameters);

/// What gradients of this norm are multiplied by to have at most `max_norm`, as PyTorch computes
/// it: max_norm / (norm + 1e-6), or 1 where that is more or the norm is not finite.
double clip_factor(double norm, double max_norm);

/// Scales the stored gradients so that their norm is at most `max_norm`, and returns the norm
/// before. A norm that is not finite changes nothing: the caller must not step (it is returned as
/// it is).
double clip_grad_norm(const NamedTensors& parameters, double max_norm);

}  // namespace flowgrad
