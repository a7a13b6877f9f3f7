#include "flowgrad/models/score.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

ScoreModel::ScoreModel(const ScoreOptions& o, Generator& generator, DType dtype)
    : TimeNet("noise_net", o.network, generator, dtype),
      options_(o),
      path_(PathKind::vp, o.beta_min, o.beta_max) {
  if (o.end_time > 0 && o.end_time < 1) return;
  throw ValueError(
      fmt::format("ScoreModel: end_time = {} given; above 0 and below 1 is accepted", o.end_time));
}

Tensor ScoreModel::score(const Tensor& x, const Tensor& t, const Tensor& condition) {
  return convert(evaluate("score", x, t, condition), Prediction::noise, Prediction::score, x, t,
                 path_);
}

Tensor ScoreModel::velocity(const Tensor& x, const Tensor& t, const Tensor& condition) {
  return convert(evaluate("velocity", x, t, condition), Prediction::noise, Prediction::velocity, x,
                 t, path_);
}

Tensor ScoreModel::loss(const Tensor& x1, const Tensor& condition, Generator& generator,
                        const Tensor& given_noise, const Tensor& given_t) {
  check("loss", x1, condition);
  const Tensor noise =
      given_noise.defined() ? given_noise : randn(x1.shape(), generator, x1.dtype(), x1.device());
  const Tensor t = given_t.defined() ? given_t
                                     : rand({x1.size(0)}, generator, x1.dtype(), 0,
                                            options_.end_time, x1.device());
  check_draw("noise", noise, x1.shape());
  check_draw("time", t, {x1.size(0)});
  const GaussianPath::Coefficients c = path_.at(unsqueeze(t, 1));
  return mse_loss(noise_prediction(c.alpha * x1 + c.sigma * noise, t, condition), noise);
}

Tensor ScoreModel::generate(const Tensor& noise, const Tensor& given,
                            const GenerateOptions& options) {
  const Tensor condition = check("generate", noise, given);
  check_guidance(options, condition);
  NoGrad off;
  const Tensor start = state_of(*this, noise, condition);
  const auto field = [&](double time, const Tensor& x) {
    const Tensor t = full({1}, time, x.dtype(), x.device());
    const Tensor with = velocity(x, t, condition);
    if (options.guidance == 1) return with;
    // The velocity is affine in the noise: guiding one guides the other.
    const Tensor without = velocity(x, t, zeros_like(condition));
    return without + (with - without) * options.guidance;
  };
  return odeint(field, start, 0, options_.end_time, options.solver);
}

}  // namespace flowgrad
