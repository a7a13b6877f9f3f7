#pragma once

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// linear: alpha = t, sigma = 1 - t (flow matching, rectified flow). cosine: alpha = sin(pi t / 2),
/// sigma = cos(pi t / 2). vp: the variance-preserving SDE of Song et al. 2021 run backwards, with
/// diffusion time 1 - t and beta linear from beta_min to beta_max.
enum class PathKind { linear, cosine, vp };

/// A Gaussian path x_t = alpha(t) x1 + sigma(t) eps from noise (t = 0) to data (t = 1), eps ~ N(0,
/// I).
class GaussianPath {
 public:
  /// ValueError unless 0 < beta_min < beta_max (read by vp alone).
  explicit GaussianPath(PathKind kind = PathKind::linear, double beta_min = 0.1,
                        double beta_max = 20);

  /// Values and time derivatives, of t's shape.
  struct Coefficients {
    Tensor alpha, sigma, d_alpha, d_sigma;
  };
  Coefficients at(const Tensor& t) const;
  /// Signal-to-noise ratio alpha^2 / sigma^2, rising in t, and the t that has it.
  Tensor snr(const Tensor& t) const;
  Tensor snr_inverse(const Tensor& snr) const;

 private:
  PathKind kind_;
  double beta_min_, beta_max_;
};

/// What a network may predict at x_t: the score grad log p_t(x), the velocity of the probability
/// flow, the noise eps, or the data x1.
enum class Prediction { score, velocity, noise, data };

/// One prediction (N, D) at x (N, D) and times t (N), or (1) for all rows, as another: they are
/// linear in each other given x, because score = -eps / sigma and velocity = d_alpha x1 + d_sigma
/// eps. Not finite where the formula divides by alpha = 0 or sigma = 0: use times inside (0, 1).
/// ShapeError for arrays that do not fit.
Tensor convert(const Tensor& prediction, Prediction from, Prediction to, const Tensor& x,
               const Tensor& t, const GaussianPath& path);

}  // namespace flowgrad
