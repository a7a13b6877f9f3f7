#pragma once

#include <memory>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Parameters that share settings. The learning rate of a step is the schedule's times `lr_factor`.
struct ParameterGroup {
  NamedTensors parameters;
  double lr_factor = 1;
  double weight_decay = 0;
};

/// Updates leaves from their stored gradients, outside the tape. Parameters without a gradient are left
/// alone. State is kept per parameter name.
class Optimizer {
 public:
  /// Raises GradError for a tensor that is not a leaf asking for gradients, ValueError for a name that
  /// appears twice or a negative setting.
  explicit Optimizer(std::vector<ParameterGroup> groups);
  virtual ~Optimizer() = default;

  void set_learning_rate(double lr);
  double learning_rate() const { return lr_; }
  int64_t steps_done() const { return steps_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }
  /// All parameters, group after group.
  NamedTensors parameters() const;
  void zero_grad() const;
  void step();

  /// Moments as "<parameter>.<moment>" and the step count as "step" (int64).
  NamedTensors state_dict() const;
  /// Raises IoError for a missing or extra entry, a wrong shape or a step below 0; then nothing changes.
  void load_state_dict(const NamedTensors& state);

 protected:
  /// One moment buffer for every parameter, zero at first, in the order of the groups.
  std::vector<Tensor>& add_moment(const char* name);
  /// Updates group `g`; `first` is the position of its first parameter in the moment lists.
  virtual void update_group(const ParameterGroup& group, size_t first, double lr) = 0;
  int64_t current_step() const { return steps_ + 1; }

 private:
  struct Moment {
    const char* name;
    std::unique_ptr<std::vector<Tensor>> values;
  };
  std::vector<ParameterGroup> groups_;
  std::vector<Moment> moments_;
  double lr_ = 1e-3;
  int64_t steps_ = 0;
};

struct SgdOptions {
  double lr = 1e-2;
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
};

/// Stochastic gradient descent as torch.optim.SGD: weight decay is L2 in the gradient.
class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<ParameterGroup> groups, const SgdOptions& options = {});

 protected:
  void update_group(const ParameterGroup& group, size_t first, double lr) override;

 private:
  SgdOptions options_;
  std::vector<Tensor>* momentum_ = nullptr;
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
  Adam(std::vector<ParameterGroup> groups, const AdamOptions& options = {});

 protected:
  void update_group(const ParameterGroup& group, size_t first, double lr) override;

 private:
  AdamOptions options_;
  std::vector<Tensor>* exp_avg_;
  std::vector<Tensor>* exp_avg_sq_;
};

/// Norm of all stored gradients together; parameters without one count as 0.
double gradient_norm(const NamedTensors& parameters);

/// Scales the stored gradients so that their norm is at most `max_norm`, and returns the norm before.
/// A norm that is not finite changes nothing: the caller must not step (it is returned as it is).
double clip_grad_norm(const NamedTensors& parameters, double max_norm);

}  // namespace flowgrad
