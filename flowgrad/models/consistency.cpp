#include "flowgrad/models/consistency.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

Consistency::Consistency(const ConsistencyOptions& o, Generator& generator, DType dtype)
    : TimeNet("velocity_net", o.network, generator, dtype), options_(o) {
  if (o.scales < 1)
    throw ValueError(
        fmt::format("Consistency: scales = {} given; at least 1 is accepted", o.scales));
}

Tensor Consistency::end_point(const Tensor& x, const Tensor& t, const Tensor& condition) {
  return x + unsqueeze(1.0 - t, 1) * evaluate("end_point", x, t, condition);
}

Tensor Consistency::loss(const Tensor& x1, const Tensor& condition, Generator& generator,
                         const ConsistencyStep& step, const Tensor& given_x0,
                         const Tensor& given_s) {
  check("loss", x1, condition);
  const int64_t n = x1.size(0);
  const int64_t scales = step.scales > 0 ? step.scales : options_.scales;
  const double h = 1 / static_cast<double>(scales);
  Tensor x0 = given_x0.defined() ? given_x0 : randn(x1.shape(), generator, x1.dtype(), x1.device());
  const Tensor s = given_s.defined()
                       ? given_s
                       : cast(randint(0, scales, {n}, generator, x1.device()), x1.dtype()) * h;
  check_draw("noise", x0, x1.shape());
  check_draw("time", s, {n});
  if (!given_x0.defined()) x0 = couple(x0, x1, options_.coupling, generator);
  const Tensor velocity = x1 - x0;
  const Tensor x = x0 + unsqueeze(s, 1) * velocity;
  Tensor target;
  {
    NoGrad off;
    const EmaScope averages(step.target);
    // The last time is 1 however s + h rounds: there f is the identity.
    const Tensor later = s + h;
    const Tensor r = where(greater(later, 1 - h / 2), ones_like(s), later);
    const Tensor width = unsqueeze(r - s, 1);
    Tensor slope = velocity;
    if (step.teacher) {
      const Tensor v = step.teacher->velocity(x, s, condition);
      slope = (v + step.teacher->velocity(x + width * v, r, condition)) * 0.5;
    }
    target = end_point(x + width * slope, r, condition);
  }
  return mse_loss(end_point(x, s, condition), target);
}

Tensor Consistency::generate(const Tensor& noise, const Tensor& given, Generator& generator,
                             int64_t n_steps) {
  const Tensor condition = check("generate", noise, given);
  if (n_steps < 1)
    throw ValueError(fmt::format("generate: n_steps = {} given; at least 1 is accepted", n_steps));
  NoGrad off;
  Tensor x = noise;
  for (int64_t k = 0; k < n_steps; ++k) {
    const double t = static_cast<double>(k) / static_cast<double>(n_steps);
    if (k > 0) x = randn(x.shape(), generator, x.dtype(), x.device()) * (1 - t) + x * t;
    x = end_point(x, full({1}, t, x.dtype(), x.device()), condition);
  }
  return x;
}

}  // namespace flowgrad
