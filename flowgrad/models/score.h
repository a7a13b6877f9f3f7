#pragma once

#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/gaussian_path.h"

namespace flowgrad {

struct ScoreOptions {
  TimeNetOptions network = {};
  /// Of the variance-preserving path (PathKind::vp).
  double beta_min = 0.1;
  double beta_max = 20;
  /// Times end here: the score of t = 1 is that of the data themselves and need not exist.
  double end_time = 0.999;
};

/// Denoising score matching (Vincent 2011) on the variance-preserving SDE of Song et al. 2021, in
/// flow time: t = 0 is noise, t = 1 data. The network predicts the noise, so that the loss is the
/// denoising one weighted by sigma^2, and score = -noise / sigma. Samples come from the probability
/// flow ODE. Keys as TimeNet, of body noise_net.
class ScoreModel final : public TimeNet {
 public:
  /// ValueError for betas that GaussianPath refuses, or end_time outside (0, 1).
  ScoreModel(const ScoreOptions& options, Generator& generator, DType dtype = DType::float32);
  const ScoreOptions& options() const { return options_; }
  const GaussianPath& path() const { return path_; }

  /// Predicted noise, score and probability-flow velocity (N, A) at x (N, A), t (N) or (1),
  /// condition (N, C) or one row of it, undefined where C = 0.
  Tensor noise_prediction(const Tensor& x, const Tensor& t, const Tensor& condition = {}) {
    return evaluate("noise_prediction", x, t, condition);
  }
  Tensor score(const Tensor& x, const Tensor& t, const Tensor& condition = {});
  Tensor velocity(const Tensor& x, const Tensor& t, const Tensor& condition = {});
  /// Mean squared error of the noise for data x1 (N, A); noise (N, A) and t (N), uniform on
  /// [0, end_time), are drawn where undefined. ShapeError for draws of another shape.
  Tensor loss(const Tensor& x1, const Tensor& condition, Generator& generator,
              const Tensor& noise = {}, const Tensor& t = {});
  /// Integrates the probability flow from noise (N, A) to end_time, off the tape. ValueError for
  /// guidance without a condition.
  Tensor generate(const Tensor& noise, const Tensor& condition = {},
                  const GenerateOptions& options = default_sampling());
  static GenerateOptions default_sampling() { return {.solver = {.solver = "rk4", .n_steps = 40}}; }

 private:
  ScoreOptions options_;
  GaussianPath path_;
};

}  // namespace flowgrad
