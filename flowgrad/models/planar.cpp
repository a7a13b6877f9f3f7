#include "flowgrad/models/planar.h"

#include <cmath>

#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

PlanarFlow::PlanarFlow(int64_t dim, Generator& generator, DType dtype) : dim_(dim) {
  const double w = std::sqrt(2.0 / static_cast<double>(dim));
  const double u = std::sqrt(2.0);
  weight_ = add_parameter("weight", rand({dim}, generator, dtype, -w, w));
  bias_ = add_parameter("bias", zeros({1}, dtype));
  scale_ = add_parameter("scale", rand({dim}, generator, dtype, -u, u));
}

Tensor PlanarFlow::constrained_scale() const {
  const Tensor wu = sum(weight_ * scale_);
  // The tiny term keeps w = 0 finite, where u_hat = u.
  const Tensor norm = sum(square(weight_)) + 1e-12;
  return scale_ + (softplus(wu) - 1.0 - wu) / norm * weight_;
}

Transformed PlanarFlow::forward(const Tensor& z, const Tensor&) {
  check_rows("PlanarFlow", z, dim_);
  const Tensor u = constrained_scale();
  const Tensor h = tanh(matmul(z, unsqueeze(weight_, 1)) + bias_);  // (N, 1)
  const Tensor k = sum(weight_ * u);
  const Tensor log_det = log1p((1.0 - square(h)) * k);
  return {z + h * u, squeeze(log_det, 1)};
}

Transformed PlanarFlow::inverse(const Tensor& x, const Tensor&) {
  check_rows("PlanarFlow", x, dim_);
  const Tensor u = constrained_scale();
  const Tensor k = sum(weight_ * u);
  const Tensor c = matmul(x, unsqueeze(weight_, 1)) + bias_;  // (N, 1)
  Tensor s = planar_root(c.detach(), k.item());
  if (recording(c, k)) {
    // One Newton step from the root has the root's first derivative, and each further step doubles the
    // order that is exact.
    for (int step = 0; step < 2; ++step) {
      const Tensor h = tanh(s);
      s = s - (s + k * h - c) / ((1.0 - square(h)) * k + 1.0);
    }
  }
  const Tensor h = tanh(s);
  const Tensor log_det = log1p((1.0 - square(h)) * k);
  return {x - h * u, squeeze(-log_det, 1)};
}

Tensor planar_root(const Tensor& c, double k) {
  const std::vector<double> target = c.to_vector<double>();
  std::vector<double> roots(target.size());
  for (size_t i = 0; i < target.size(); ++i) {
    const double t = target[i];
    double s = k > 0 ? 0 : t + std::copysign(std::abs(k), t);
    // The residual's own rounding ends the iteration; 60 steps are far beyond the slowest case.
    for (int step = 0; step < 60; ++step) {
      const double h = std::tanh(s);
      const double residual = s + k * h - t;
      if (std::abs(residual) <= 2 * 2.3e-16 * (std::abs(s) + std::abs(k * h) + std::abs(t))) break;
      s -= residual / (1 + k * (1 - h * h));
    }
    roots[i] = s;
  }
  return Tensor::from(roots, c.shape(), c.dtype());
}

NormalizingFlow::NormalizingFlow(int64_t dim, int64_t n_flows, Generator& generator, DType dtype) : dim_(dim) {
  for (int64_t i = 0; i < n_flows; ++i) {
    flows_.push_back(&add_module("flows." + std::to_string(i), std::make_unique<PlanarFlow>(dim, generator, dtype)));
  }
}

Transformed NormalizingFlow::forward(const Tensor& z, const Tensor&) {
  Transformed out{z, {}};
  for (PlanarFlow* flow : flows_) {
    const Transformed next = flow->forward(out.value);
    out = {next.value, out.log_det.defined() ? out.log_det + next.log_det : next.log_det};
  }
  return out;
}

Transformed NormalizingFlow::inverse(const Tensor& x, const Tensor&) {
  Transformed out{x, {}};
  for (size_t i = flows_.size(); i-- > 0;) {
    const Transformed next = flows_[i]->inverse(out.value);
    out = {next.value, out.log_det.defined() ? out.log_det + next.log_det : next.log_det};
  }
  return out;
}

}  // namespace flowgrad
