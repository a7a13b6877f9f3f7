#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/consistency.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/flow_vla.h"
#include "flowgrad/models/score.h"
#include "flowgrad/models/verify_subject.h"

// The checks of models that turn noise into data without a density: 14, 17, 18 and 20.
namespace flowgrad::verification {
namespace {

constexpr int64_t kSubjectRows = 64;

/// The loss from its formula: the velocity at (1 - t) x0 + t x1 against x1 - x0.
void check_path(Subject& s) {
  NoGrad off;
  QuantityInputs in = s.inputs(kSubjectRows, DType::float64);
  Generator draws = s.generator(14);
  in.noise = randn({kSubjectRows, s.dim}, draws, DType::float64, s.device);
  Generator unused = s.generator(15);
  const double loss = s.wide->evaluate("loss", in, {}, unused).item();
  QuantityInputs at = in;
  const Tensor t = unsqueeze(in.time, 1);
  at.input = in.noise * (1.0 - t) + in.input * t;
  const Tensor v = s.wide->evaluate("velocity", at, {}, unused);
  s.judge(14, "loss against its formula",
          std::abs(mean(square(v - (in.input - in.noise))).item() - loss) / (1 + loss), 1e-12,
          "velocity at (1 - t) x0 + t x1 against x1 - x0");
}

/// The same of a score model: the noise predicted at alpha x1 + sigma noise against the noise.
void check_denoising(Subject& s, const GaussianPath& path) {
  NoGrad off;
  QuantityInputs in = s.inputs(kSubjectRows, DType::float64);
  Generator draws = s.generator(14);
  in.noise = randn({kSubjectRows, s.dim}, draws, DType::float64, s.device);
  const double loss = s.wide->evaluate("loss", in, {}, draws).item();
  const auto c = path.at(unsqueeze(in.time, 1));
  QuantityInputs at = in;
  at.input = c.alpha * in.input + c.sigma * in.noise;
  const Tensor predicted = s.wide->evaluate("noise_prediction", at, {}, draws);
  s.judge(14, "loss against its formula",
          std::abs(mean(square(predicted - in.noise)).item() - loss) / (1 + loss), 1e-12,
          "noise at alpha x1 + sigma noise against the noise");
}

/// Data N(2, 1/4) has the exact denoiser in closed form, linear in x: one DDPM pass moves mean and
/// variance linearly, so where the schedule leads is known without a sample.
void check_schedule(Subject& s, DiffusionPolicy& model) {
  const auto bar = cast(model.alphas_cumprod(), DType::float64).to_vector<double>();
  const double mu = 2, variance = 0.25;
  double at = 0, spread = 1;  // of x at the last step
  for (size_t t = bar.size(); t-- > 0;) {
    const double alpha = bar[t] / (t > 0 ? bar[t - 1] : 1), beta = 1 - alpha;
    const double total = bar[t] * variance + 1 - bar[t];
    // noise(x) = sqrt(1 - bar) (x - sqrt(bar) mu) / total
    const double slope = (1 - beta / total) / std::sqrt(alpha);
    const double shift = beta * std::sqrt(bar[t]) * mu / total / std::sqrt(alpha);
    at = slope * at + shift;
    spread = slope * slope * spread + (t > 0 ? beta : 0);
  }
  s.judge(17, "mean of N(2, 1/4) through the schedule", std::abs(at - mu), 0.02,
          fmt::format("{:.3f} and deviation {:.3f} by DDPM with the exact denoiser", at,
                      std::sqrt(spread)));
  s.judge(17, "signal left at the last step", std::sqrt(bar.back()), 0.05,
          "sqrt of alpha_bar; sampling starts from noise alone");

  NoGrad off;
  QuantityInputs in = s.inputs(kSubjectRows, DType::float64);
  Generator draws = s.generator(16);
  const Tensor noise = randn({kSubjectRows, s.dim}, draws, DType::float64, s.device);
  auto& wide = dynamic_cast<DiffusionPolicy&>(s.wide->module());
  const Tensor x = wide.q_sample(in.input, in.time, noise);
  const Tensor signal =
      unsqueeze(index_select(cast(wide.alphas_cumprod(), DType::float64), 0, in.time), 1);
  // Noise back from x and x0, and x0 back from x and noise.
  const Tensor noise_back = (x - sqrt(signal) * in.input) / sqrt(1.0 - signal);
  const Tensor data_back = (x - sqrt(1.0 - signal) * noise) / sqrt(signal);
  s.judge(18, "noise from x and x0", error_of(noise_back, noise), 1e-9, "q_sample and back");
  s.judge(18, "x0 from x and noise", error_of(data_back * sqrt(signal), in.input * sqrt(signal)),
          1e-12, "q_sample and back, times sqrt(alpha_bar)");
}

/// The velocity of the probability flow is linear in the predicted noise.
void check_score(Subject& s, ScoreModel& model) {
  NoGrad off;
  const QuantityInputs in = s.inputs(kSubjectRows, DType::float64);
  const Tensor t = in.time * 0.98 + 0.01;  // a path has no inverse at its ends
  const Tensor noise = model.noise_prediction(in.input, t, in.condition);
  const Tensor velocity = model.velocity(in.input, t, in.condition);
  const GaussianPath& path = model.path();
  s.judge(18, "velocity from the noise and back",
          error_of(convert(velocity, Prediction::velocity, Prediction::noise, in.input, t, path),
                   noise),
          1e-10, "through the path's coefficients");
  double worst = 0;
  for (const Prediction via : {Prediction::score, Prediction::data, Prediction::velocity}) {
    const Tensor there = convert(noise, Prediction::noise, via, in.input, t, path);
    worst =
        std::max(worst, error_of(convert(there, via, Prediction::noise, in.input, t, path), noise));
  }
  s.judge(18, "noise by way of score, data and velocity", worst, 1e-10, "largest error");
  s.judge(18, "time from the signal-to-noise ratio", error_of(path.snr_inverse(path.snr(t)), t),
          1e-10, "snr_inverse(snr(t))");
}

void check_boundary(Subject& s, Consistency& model) {
  NoGrad off;
  const QuantityInputs in = s.inputs(kSubjectRows, DType::float64);
  const Tensor end = ones({kSubjectRows}, DType::float64, s.device);
  s.judge(20, "boundary of the consistency function",
          difference(model.end_point(in.input, end, in.condition), in.input), 0,
          "f(x, 1) = x; equal bits");
}

}  // namespace

void check_generator(Subject& s) {
  Module& module = s.wide->module();
  const auto* flow = dynamic_cast<FlowMatching*>(&module);
  const auto* vla = dynamic_cast<FlowVLA*>(&module);
  if (const auto* score = dynamic_cast<ScoreModel*>(&module)) {
    check_denoising(s, score->path());
  } else if ((flow && flow->options().sigma == 0) || (vla && vla->options().auxiliary == 0)) {
    check_path(s);
  } else {
    s.skip(14, "flow matching",
           flow  ? "noise on the path is drawn anew"
           : vla ? "the loss has an auxiliary regression beside it"
                 : "no flow matching alone");
  }
  if (auto* diffusion = dynamic_cast<DiffusionPolicy*>(&module)) {
    check_schedule(s, *diffusion);
  } else {
    s.skip(17, "noise schedule", "no diffusion model");
  }
  if (auto* score = dynamic_cast<ScoreModel*>(&module)) check_score(s, *score);
  if (auto* consistency = dynamic_cast<Consistency*>(&module)) check_boundary(s, *consistency);
}

}  // namespace flowgrad::verification
