#include "flowgrad/models/diffusion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

std::vector<double> make_betas(const DiffusionOptions& o) {
  const auto n = static_cast<double>(o.n_timesteps);
  std::vector<double> betas;
  const auto alpha_bar = [](double t) {
    const double c = std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2);
    return c * c;
  };
  for (int64_t i = 0; i < o.n_timesteps; ++i) {
    const auto t = static_cast<double>(i);
    if (o.schedule == NoiseSchedule::linear) {
      betas.push_back(o.n_timesteps == 1 ? 1e-4 : 1e-4 + (0.02 - 1e-4) * t / (n - 1));
    } else {
      betas.push_back(std::min(1 - alpha_bar((t + 1) / n) / alpha_bar(t / n), 0.999));
    }
  }
  return betas;
}

}  // namespace

DiffusionPolicy::DiffusionPolicy(const DiffusionOptions& o, Generator& generator, DType dtype)
    : options_(o), denoiser_(add_module("denoiser", std::make_unique<Sequential>())) {
  beta_ = make_betas(o);
  std::vector<double> alphas;
  double product = 1;
  for (double b : beta_) {
    alphas.push_back(1 - b);
    product *= 1 - b;
    alpha_bar_.push_back(product);
  }
  betas_ = add_buffer("betas", Tensor::from(beta_, {o.n_timesteps}, dtype));
  alphas_ = add_buffer("alphas", Tensor::from(alphas, {o.n_timesteps}, dtype));
  alphas_cumprod_ = add_buffer("alphas_cumprod", Tensor::from(alpha_bar_, {o.n_timesteps}, dtype));
  denoiser_.add<Linear>(o.action_dim + o.state_dim + 1, o.hidden, generator, dtype);
  denoiser_.add<Activation>(relu);
  denoiser_.add<ResidualBlock>(o.hidden, generator, dtype);
  denoiser_.add<ResidualBlock>(o.hidden, generator, dtype);
  denoiser_.add<Linear>(o.hidden, o.action_dim, generator, dtype);
}

Tensor DiffusionPolicy::spread_state(const char* op, const Tensor& state, int64_t rows) const {
  const int64_t width = options_.state_dim;
  if (!state.defined() && width == 0) return state;
  if (state.defined() && state.rank() == 2 && state.size(1) == width &&
      (state.size(0) == rows || state.size(0) == 1)) {
    return expand(state, {rows, width});
  }
  throw ShapeError(fmt::format("{}: state {} given; ({}, {}) or (1, {}) is accepted", op,
                               state.defined() ? state.shape().to_string() : "absent", rows, width, width));
}

Tensor DiffusionPolicy::noise_prediction(const Tensor& x, const Tensor& t, const Tensor& state) {
  if (x.rank() != 2 || x.size(1) != options_.action_dim) {
    throw ShapeError(fmt::format("noise_prediction: x has shape {}; (N, {}) is accepted", x.shape().to_string(),
                                 options_.action_dim));
  }
  if (t.dtype() != DType::int64 || t.rank() != 1 || t.size(0) != x.size(0)) {
    throw ShapeError(fmt::format("noise_prediction: t is {} {}; int64 ({},) is accepted", name_of(t.dtype()),
                                 t.shape().to_string(), x.size(0)));
  }
  const Tensor s = spread_state("noise_prediction", state, x.size(0));
  const Tensor time = unsqueeze(cast(t, x.dtype()) / static_cast<double>(options_.n_timesteps), 1);
  return denoiser_(s.defined() ? concat({x, s, time}, 1) : concat({x, time}, 1));
}

Tensor DiffusionPolicy::q_sample(const Tensor& x0, const Tensor& t, const Tensor& noise) const {
  const Tensor a = unsqueeze(index_select(alphas_cumprod_, 0, t), 1);
  return sqrt(a) * x0 + sqrt(1.0 - a) * noise;
}

Tensor DiffusionPolicy::loss(const Tensor& x0, const Tensor& state, Generator& generator, const Tensor& given_t,
                             const Tensor& given_noise) {
  const Tensor t = given_t.defined() ? given_t : randint(0, options_.n_timesteps, {x0.size(0)}, generator);
  const Tensor noise = given_noise.defined() ? given_noise : randn(x0.shape(), generator, x0.dtype());
  return mse_loss(noise_prediction(q_sample(x0, t, noise), t, state), noise);
}

Tensor DiffusionPolicy::ddpm_step(const Tensor& x, const Tensor& eps, int64_t t, Generator& generator,
                                  double clip) const {
  const auto i = static_cast<size_t>(t);
  const double beta = beta_[i];
  const double bar = alpha_bar_[i];
  const double before = t > 0 ? alpha_bar_[i - 1] : 1;
  Tensor mean;
  if (clip > 0) {
    const Tensor x0 = clamp((x - eps * std::sqrt(1 - bar)) / std::sqrt(bar), -clip, clip);
    mean = x0 * (std::sqrt(before) * beta / (1 - bar)) + x * (std::sqrt(1 - beta) * (1 - before) / (1 - bar));
  } else {
    mean = (x - eps * (beta / std::sqrt(1 - bar))) / std::sqrt(1 - beta);
  }
  if (t == 0) return mean;
  const double variance = options_.variance == StepVariance::beta ? beta : beta * (1 - before) / (1 - bar);
  return mean + randn(x.shape(), generator, x.dtype()) * std::sqrt(variance);
}

Tensor DiffusionPolicy::generate(const Tensor& noise, const Tensor& state, Generator& generator,
                                 const DiffusionSampling& sampling) {
  NoGrad off;
  const int64_t n = options_.n_timesteps;
  if (sampling.ddim_steps < 0 || sampling.ddim_steps > n) {
    throw ValueError(fmt::format("generate: {} DDIM steps given; 1 to {} are accepted, or 0 for DDPM",
                                 sampling.ddim_steps, n));
  }
  const int64_t steps = sampling.ddim_steps == 0 ? n : sampling.ddim_steps;
  Tensor x = noise;
  for (int64_t k = steps; k-- > 0;) {
    // The last of `steps` equal strides over the schedule.
    const int64_t t = (k + 1) * n / steps - 1;
    const Tensor at = full({x.size(0)}, static_cast<double>(t), DType::int64);
    const Tensor eps = noise_prediction(x, at, state);
    if (sampling.ddim_steps == 0) {
      x = ddpm_step(x, eps, t, generator, sampling.clip);
      continue;
    }
    const double bar = alpha_bar_[static_cast<size_t>(t)];
    const int64_t next = k * n / steps - 1;
    const double bar_next = next >= 0 ? alpha_bar_[static_cast<size_t>(next)] : 1;
    Tensor x0 = (x - eps * std::sqrt(1 - bar)) / std::sqrt(bar);
    if (sampling.clip > 0) x0 = clamp(x0, -sampling.clip, sampling.clip);
    x = x0 * std::sqrt(bar_next) + eps * std::sqrt(1 - bar_next);
  }
  return x;
}

}  // namespace flowgrad
