#include "flowgrad/models/gaussian_path.h"

#include <fmt/format.h>

#include <numbers>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {

GaussianPath::GaussianPath(PathKind kind, double beta_min, double beta_max)
    : kind_(kind), beta_min_(beta_min), beta_max_(beta_max) {
  if (beta_min > 0 && beta_max > beta_min) return;
  throw ValueError(fmt::format(
      "GaussianPath: beta_min = {}, beta_max = {} given; 0 < beta_min < beta_max is accepted",
      beta_min, beta_max));
}

GaussianPath::Coefficients GaussianPath::at(const Tensor& t) const {
  if (kind_ == PathKind::linear) return {t, 1.0 - t, ones_like(t), ones_like(t) * -1.0};
  if (kind_ == PathKind::cosine) {
    constexpr double rate = std::numbers::pi / 2;
    const Tensor alpha = sin(t * rate), sigma = cos(t * rate);
    return {alpha, sigma, sigma * rate, alpha * -rate};
  }
  // alpha = exp(-l) with l = 1/2 int beta; expm1 keeps sigma near the data.
  const Tensor tau = 1.0 - t;
  const Tensor half_beta = (tau * (beta_max_ - beta_min_) + beta_min_) * 0.5;
  const Tensor l = tau * (half_beta + 0.5 * beta_min_) * 0.5;
  const Tensor alpha = exp(-l);
  const Tensor sigma = sqrt(-expm1(l * -2.0));
  return {alpha, sigma, alpha * half_beta, -square(alpha) * half_beta / sigma};
}

Tensor GaussianPath::snr(const Tensor& t) const {
  const Coefficients c = at(t);
  return square(c.alpha / c.sigma);
}

Tensor GaussianPath::snr_inverse(const Tensor& snr) const {
  if (kind_ == PathKind::vp) {
    const Tensor l = log1p(1.0 / snr) * 0.5;
    const double b = beta_min_ / 2;
    return 1.0 - l * 2.0 / (sqrt(l * (beta_max_ - beta_min_) + b * b) + b);
  }
  const Tensor ratio = sqrt(snr);
  if (kind_ == PathKind::linear) return ratio / (ratio + 1.0);
  return atan2(ratio, ones_like(ratio)) * (2 / std::numbers::pi);
}

Tensor convert(const Tensor& prediction, Prediction from, Prediction to, const Tensor& x,
               const Tensor& t, const GaussianPath& path) {
  if (x.rank() != 2 || prediction.shape() != x.shape() ||
      (t.shape() != Shape{x.size(0)} && t.shape() != Shape{1})) {
    throw ShapeError(fmt::format(
        "convert: prediction is {}, x is {}, t is {}; (N, D), (N, D) and (N) or (1) are accepted",
        prediction.shape().to_string(), x.shape().to_string(), t.shape().to_string()));
  }
  if (from == to) return prediction;
  const GaussianPath::Coefficients c = path.at(unsqueeze(t, 1));
  Tensor data, noise;
  switch (from) {
    case Prediction::score: noise = -c.sigma * prediction; break;
    case Prediction::noise: noise = prediction; break;
    case Prediction::data: data = prediction; break;
    case Prediction::velocity: {
      const Tensor determinant = c.alpha * c.d_sigma - c.sigma * c.d_alpha;
      data = (c.d_sigma * x - c.sigma * prediction) / determinant;
      noise = (c.alpha * prediction - c.d_alpha * x) / determinant;
      break;
    }
  }
  if (!noise.defined()) noise = (x - c.alpha * data) / c.sigma;
  if (to == Prediction::noise) return noise;
  if (to == Prediction::score) return -noise / c.sigma;
  if (!data.defined()) data = (x - c.sigma * noise) / c.alpha;
  return to == Prediction::data ? data : c.d_alpha * data + c.d_sigma * noise;
}

}  // namespace flowgrad
