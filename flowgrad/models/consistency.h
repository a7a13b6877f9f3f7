#pragma once

#include "flowgrad/models/flow_matching.h"
#include "flowgrad/optim/ema.h"

namespace flowgrad {

struct ConsistencyOptions {
  TimeNetOptions network = {};
  /// Times 0, 1/scales, ..., 1 between whose neighbours the loss asks for consistency.
  int64_t scales = 32;
  /// How the loss pairs the noise it draws with data, as FlowMatchingOptions::coupling.
  Coupling coupling = Coupling::independent;
};

/// How a consistency loss finds the next point of a path and judges it.
struct ConsistencyStep {
  /// Distillation along this flow, by a step of Heun; without it training on the data's own
  /// straight paths.
  FlowMatching* teacher = nullptr;
  /// The target network: averages of the model's parameters, which the caller updates after every
  /// optimiser step. Without it the model itself off the tape (decay 0; Song & Dhariwal 2024).
  Ema* target = nullptr;
  /// Replaces the option of that name where above 0: a curriculum over the training.
  int64_t scales = 0;
};

/// Consistency model (Song et al. 2023) in flow time, 0 = noise and 1 = data: f(x_t, t) is the end
/// at t = 1 of the path through x_t. f = c_skip x + c_out F(x, t) with c_skip = 1 and c_out = 1 -
/// t, so that f(x, 1) = x exactly and F is the mean velocity from t to the end: a trained
/// FlowMatching's weights are a start (the keys are the same, as TimeNet's of body velocity_net).
class Consistency final : public TimeNet {
 public:
  /// ValueError for scales below 1.
  Consistency(const ConsistencyOptions& options, Generator& generator,
              DType dtype = DType::float32);
  const ConsistencyOptions& options() const { return options_; }

  /// f (N, A) at x (N, A), t (N) or (1), condition (N, C), one row of it, or undefined where C = 0.
  Tensor end_point(const Tensor& x, const Tensor& t, const Tensor& condition = {});
  /// Mean squared |f(x_s, s) - f_target(x_r, r)|^2 over elements, r = s + 1/scales, for data x1
  /// (N, A). Noise x0 (N, A) and s (N), uniform over the scales, are drawn where undefined.
  /// ShapeError for draws of another shape.
  Tensor loss(const Tensor& x1, const Tensor& condition, Generator& generator,
              const ConsistencyStep& step = {}, const Tensor& x0 = {}, const Tensor& s = {});
  /// Data from noise (N, A), off the tape: one evaluation a step. Step k of n ends at f from time
  /// k/n, where the point so far is mixed with fresh noise (Song et al. 2023, algorithm 1); one
  /// step reads no generator. ValueError for n_steps < 1.
  Tensor generate(const Tensor& noise, const Tensor& condition, Generator& generator,
                  int64_t n_steps = 1);

 private:
  ConsistencyOptions options_;
};

}  // namespace flowgrad
