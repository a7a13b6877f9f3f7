#pragma once

#include "flowgrad/models/fused_sampler.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"

namespace flowgrad {

/// Law of the training time: uniform on [0, 1), or pi0's beta: t = 0.999 (1 - u) with u = v^(2/3),
/// that is u ~ Beta(1.5, 1), which favours the noise end.
enum class TimeLaw { uniform, beta };

struct FlowMatchingOptions {
  int64_t condition_dim = 0;
  int64_t action_dim = 2;
  int64_t time_dim = 128;
  /// Factor on the time before its embedding; 1 reproduces the tutorial, 1000 lets most channels
  /// move.
  double time_scale = 1000;
  int64_t hidden = 512;
  TimeLaw time_law = TimeLaw::uniform;
};

struct GenerateOptions {
  OdeOptions solver{.solver = "euler", .n_steps = 100};
  /// v = v_without + guidance (v_with - v_without), where "without" is a zero condition (Ho &
  /// Salimans 2022); 1 is off.
  double guidance = 1;
};

/// Conditional flow matching (Lipman et al. 2023) on the straight path x_t = (1 - t) x0 + t x1 with
/// target x1 - x0; t = 0 is noise, t = 1 data. Keys time_embed.{1,3}.*, velocity_net.0.*,
/// velocity_net.{2,3}.block.{0,2}.*, velocity_net.4.*; input order x, condition, time embedding.
class FlowMatching final : public Module {
 public:
  FlowMatching(const FlowMatchingOptions& options, Generator& generator,
               DType dtype = DType::float32);
  const FlowMatchingOptions& options() const { return options_; }

  /// Velocity (N, A) at x (N, A), t (N), condition (N, C), one row of it for all, or undefined
  /// where C = 0.
  Tensor velocity(const Tensor& x, const Tensor& t, const Tensor& condition = {});
  /// Mean squared error of the velocity for data x1 (N, A); noise x0 (N, A) and t (N) are drawn
  /// where undefined. ShapeError for draws of another shape.
  Tensor loss(const Tensor& x1, const Tensor& condition, Generator& generator,
              const Tensor& x0 = {}, const Tensor& t = {});
  /// Integrates from noise (N, A) to data, off the tape; in one kernel where the device has it.
  /// ValueError for guidance without a condition.
  Tensor generate(const Tensor& noise, const Tensor& condition = {},
                  const GenerateOptions& options = {});
  /// n training times.
  Tensor draw_times(int64_t n, Generator& generator, DType dtype = DType::float32,
                    Device device = Device::cpu()) const;

 private:
  Tensor check(const char* op, const Tensor& x, const Tensor& condition) const;

  FlowMatchingOptions options_;
  Sequential& time_embed_;
  Sequential& velocity_net_;
  Linear* first_;  // of the velocity net
  ResidualTail tail_;
};

/// The condition with whole rows set to zero with probability p: training for guidance.
Tensor drop_condition(const Tensor& condition, double p, Generator& generator);

}  // namespace flowgrad
