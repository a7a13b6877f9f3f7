#include "flowgrad/models/inpainting.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

double inpainting_gain(double t, double beta) {
  if (t <= 0 || t >= 1) return beta;
  return std::min(beta, (t * t + (1 - t) * (1 - t)) / (t * (1 - t)));
}

VelocityField inpainted(VelocityField field, const Inpainting& known) {
  return [field = std::move(field), known](double t, const Tensor& x) {
    EnableGrad on;
    const Tensor at = x.detach().requires_grad_();
    const Tensor v = field(t, at);
    const Tensor end = at + v * (1 - t);
    const Tensor missing = (known.target - end.detach()) * known.weight;
    const Tensor pull = grad(std::span(&end, 1), std::span(&at, 1), std::span(&missing, 1))[0];
    return (v.detach() + pull * inpainting_gain(t, known.beta)).detach();
  };
}

std::vector<double> realtime_weights(int64_t horizon, int64_t delay, int64_t execute) {
  const int64_t shared = horizon - execute;
  if (horizon < 1 || delay < 0 || execute < 0 || delay > shared) {
    throw ValueError(
        fmt::format("realtime_weights: horizon = {}, delay = {}, execute = {} given; delay and "
                    "execute from 0, together up to a horizon of at least 1, are accepted",
                    horizon, delay, execute));
  }
  std::vector<double> weights(static_cast<size_t>(horizon), 0.0);
  for (int64_t i = 0; i < shared; ++i) {
    const double c = static_cast<double>(shared - i) / static_cast<double>(shared - delay + 1);
    weights[static_cast<size_t>(i)] = i < delay ? 1.0 : c * std::expm1(c) / std::expm1(1.0);
  }
  return weights;
}

}  // namespace flowgrad
