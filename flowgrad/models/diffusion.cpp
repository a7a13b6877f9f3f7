#include "flowgrad/models/diffusion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowgrad/autograd/indices.h"
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
  if (o.state_dim < 0) {
    throw ValueError(
        fmt::format("DiffusionPolicy: state_dim = {} given; at least 0 is accepted", o.state_dim));
  }
  if (o.n_timesteps < 1) {
    throw ValueError(fmt::format("DiffusionPolicy: n_timesteps = {} given; at least 1 is accepted",
                                 o.n_timesteps));
  }
  beta_ = make_betas(o);
  std::vector<double> alphas, signal, noise_level;
  double product = 1;
  for (double b : beta_) {
    alphas.push_back(1 - b);
    product *= 1 - b;
    alpha_bar_.push_back(product);
    signal.push_back(std::sqrt(product));
    noise_level.push_back(std::sqrt(1 - product));
  }
  const Shape shape{o.n_timesteps};
  add_buffer("betas", Tensor::from(beta_, shape, dtype));
  add_buffer("alphas", Tensor::from(alphas, shape, dtype));
  alphas_cumprod_ = add_buffer("alphas_cumprod", Tensor::from(alpha_bar_, shape, dtype));
  signal_ = add_constant(Tensor::from(signal, shape, dtype));
  noise_level_ = add_constant(Tensor::from(noise_level, shape, dtype));
  first_ = &denoiser_.add<Linear>(o.action_dim + o.state_dim + 1, o.hidden, generator, dtype);
  denoiser_.add<Activation>(relu);
  tail_.one = &denoiser_.add<ResidualBlock>(o.hidden, generator, dtype);
  tail_.two = &denoiser_.add<ResidualBlock>(o.hidden, generator, dtype);
  tail_.last = &denoiser_.add<Linear>(o.hidden, o.action_dim, generator, dtype);
}

void DiffusionPolicy::check_input(const char* op, const Tensor& x) const {
  if (x.rank() == 2 && x.size(1) == options_.action_dim) return;
  throw ShapeError(fmt::format("{}: x has shape {}; (N, {}) is accepted", op, x.shape().to_string(),
                               options_.action_dim));
}

Tensor DiffusionPolicy::check_steps(const char* op, const Tensor& t, int64_t rows) const {
  if (t.dtype() != DType::int64 || t.rank() != 1 || t.size(0) != rows) {
    throw ShapeError(fmt::format("{}: t is {} {}; int64 ({},) is accepted", op, name_of(t.dtype()),
                                 t.shape().to_string(), rows));
  }
  return check_indices(
      t, options_.n_timesteps, [op, last = options_.n_timesteps - 1](int64_t step, int64_t) {
        return fmt::format("{}: step {} given in time; 0 to {} are accepted", op, step, last);
      });
}

void DiffusionPolicy::check_state(const char* op, const Tensor& state, int64_t rows) const {
  const int64_t width = options_.state_dim;
  if (!state.defined() && width == 0) return;
  if (width > 0 && state.defined() && state.rank() == 2 && state.size(1) == width &&
      (state.size(0) == rows || state.size(0) == 1)) {
    return;
  }
  const std::string given = state.defined() ? state.shape().to_string() : "absent";
  const std::string wanted =
      width == 0 ? "none is accepted by a model with state_dim = 0"
                 : fmt::format("({}, {}) or (1, {}) is accepted", rows, width, width);
  throw ShapeError(fmt::format("{}: state {} given; {}", op, given, wanted));
}

Tensor DiffusionPolicy::noise_prediction(const Tensor& x, const Tensor& steps,
                                         const Tensor& state) {
  check_input("noise_prediction", x);
  check_state("noise_prediction", state, x.size(0));
  const Tensor t = check_steps("noise_prediction", steps, x.size(0));
  const Tensor time = unsqueeze(cast(t, x.dtype()) / static_cast<double>(options_.n_timesteps), 1);
  if (!state.defined()) return denoiser_(concat({x, time}, 1));
  return denoiser_(concat({x, expand(state, {x.size(0), options_.state_dim}), time}, 1));
}

Tensor DiffusionPolicy::q_sample(const Tensor& x0, const Tensor& steps, const Tensor& noise) const {
  check_input("q_sample", x0);
  const Tensor t = check_steps("q_sample", steps, x0.size(0));
  if (noise.shape() != x0.shape()) {
    throw ShapeError(fmt::format("q_sample: noise of shape {} given; {} is accepted",
                                 noise.shape().to_string(), x0.shape().to_string()));
  }
  return unsqueeze(index_select(signal_, 0, t), 1) * x0 +
         unsqueeze(index_select(noise_level_, 0, t), 1) * noise;
}

Tensor DiffusionPolicy::loss(const Tensor& x0, const Tensor& state, Generator& generator,
                             const Tensor& given_t, const Tensor& given_noise) {
  check_input("loss", x0);
  const Tensor t = given_t.defined()
                       ? given_t
                       : randint(0, options_.n_timesteps, {x0.size(0)}, generator, x0.device());
  const Tensor noise =
      given_noise.defined() ? given_noise : randn(x0.shape(), generator, x0.dtype(), x0.device());
  return mse_loss(noise_prediction(q_sample(x0, t, noise), t, state), noise);
}

namespace {

/// How a step moves x, given the predicted noise v: bar is alpha_bar at the step, before at the one
/// it leads to. The step's own noise is left to the caller.
struct Step {
  double bar, before;

  /// x and v make x0, clipped.
  void set_clean(SamplerStage& s, double clip) const {
    s.clean_x = 1 / std::sqrt(bar);
    s.clean_v = -std::sqrt(1 - bar) / std::sqrt(bar);
    s.clip = clip;
  }
  /// Mean of q(x_before | x, x0), with beta = 1 - bar / before (Ho et al. 2020, equations 7 and
  /// 11).
  SamplerStage ddpm_mean(double beta, double clip) const {
    SamplerStage s;
    if (clip <= 0) {
      s.x_x = 1 / std::sqrt(1 - beta);
      s.x_v = -beta / std::sqrt(1 - bar) / std::sqrt(1 - beta);
      return s;
    }
    set_clean(s, clip);
    s.x_clean = std::sqrt(before) * beta / (1 - bar);
    s.x_x = std::sqrt(1 - beta) * (1 - before) / (1 - bar);
    return s;
  }
  double posterior_variance(double beta) const { return beta * (1 - before) / (1 - bar); }
  /// Song et al. 2021, equations 12 and 16.
  double ddim_sigma(double eta) const {
    return eta * std::sqrt((1 - before) / (1 - bar)) * std::sqrt(1 - bar / before);
  }
  SamplerStage ddim_mean(double sigma, double clip) const {
    SamplerStage s;
    set_clean(s, clip);
    s.x_clean = std::sqrt(before);
    s.x_v = std::sqrt(std::max(0.0, 1 - before - sigma * sigma));
    return s;
  }
};

/// x after a stage, but for its noise.
Tensor moved(const SamplerStage& s, const Tensor& x, const Tensor& v) {
  Tensor out;
  const auto add = [&](const Tensor& t, double factor) {
    if (factor != 0) out = out.defined() ? out + t * factor : t * factor;
  };
  if (s.x_clean != 0) {
    const Tensor clean = x * s.clean_x + v * s.clean_v;
    add(s.clip > 0 ? clamp(clean, -s.clip, s.clip) : clean, s.x_clean);
  }
  add(x, s.x_x);
  add(v, s.x_v);
  return out;
}

}  // namespace

std::vector<SamplerStage> DiffusionPolicy::sampler_moves(const std::vector<int64_t>& steps,
                                                         const DiffusionSampling& s) const {
  const bool ddim = s.is_ddim();
  const StepVariance variance = s.variance.value_or(options_.variance);
  std::vector<SamplerStage> moves;
  int64_t draws = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool last = i + 1 == steps.size();
    const Step step{alpha_bar_[static_cast<size_t>(steps[i])],
                    last ? 1 : alpha_bar_[static_cast<size_t>(steps[i + 1])]};
    const double beta = beta_[static_cast<size_t>(steps[i])];
    double sigma = 0;
    if (ddim) {
      sigma = step.ddim_sigma(s.eta);
      moves.push_back(step.ddim_mean(sigma, s.clip));
    } else {
      if (!last)
        sigma = std::sqrt(variance == StepVariance::beta ? beta : step.posterior_variance(beta));
      moves.push_back(step.ddpm_mean(beta, s.clip));
    }
    moves.back().x_noise = sigma;
    if (sigma != 0) moves.back().noise = s.step_noise.defined() ? steps[i] : draws++;
  }
  return moves;
}

std::vector<int64_t> DiffusionPolicy::sampling_steps(const DiffusionSampling& s) const {
  const int64_t n = options_.n_timesteps;
  if (s.ddim_steps < 0 || s.ddim_steps > n) {
    throw ValueError(fmt::format(
        "generate: {} DDIM steps given; 1 to {} are accepted, or 0 for DDPM", s.ddim_steps, n));
  }
  if (!(s.eta >= 0 && s.eta <= 1))
    throw ValueError(fmt::format("generate: eta = {} given; 0 to 1 is accepted", s.eta));
  if (!(s.clip >= 0))
    throw ValueError(fmt::format("generate: clip = {} given; at least 0 is accepted", s.clip));
  if (!s.is_ddim() && s.eta != 0)
    throw ValueError(fmt::format("generate: eta = {} given for DDPM; 0 is accepted", s.eta));
  if (s.is_ddim() && s.variance)
    throw ValueError("generate: variance given for DDIM, whose noise is eta; none is accepted");
  if (s.ddim_steps > 0 && !s.ddim_timesteps.empty()) {
    throw ValueError(
        fmt::format("generate: ddim_steps = {} given with ddim_timesteps; one of them is accepted",
                    s.ddim_steps));
  }
  for (size_t i = 0; i < s.ddim_timesteps.size(); ++i) {
    const int64_t limit = i == 0 ? n : s.ddim_timesteps[i - 1];
    if (s.ddim_timesteps[i] >= 0 && s.ddim_timesteps[i] < limit) continue;
    throw ValueError(fmt::format(
        "generate: DDIM step {} given at position {}; falling steps from {} to 0 are accepted",
        s.ddim_timesteps[i], i, n - 1));
  }
  if (!s.ddim_timesteps.empty()) return s.ddim_timesteps;
  const int64_t strides = s.ddim_steps == 0 ? n : s.ddim_steps;
  std::vector<int64_t> steps;
  for (int64_t k = strides; k > 0; --k) steps.push_back(k * n / strides - 1);
  return steps;
}

Tensor DiffusionPolicy::generate(const Tensor& noise, const Tensor& state, Generator& generator,
                                 const DiffusionSampling& s) {
  check_input("generate", noise);
  check_state("generate", state, noise.size(0));
  const std::vector<int64_t> steps = sampling_steps(s);
  const Shape noise_shape{options_.n_timesteps, noise.size(0), options_.action_dim};
  if (s.step_noise.defined() && s.step_noise.shape() != noise_shape) {
    throw ShapeError(fmt::format("generate: step_noise of shape {} given; {} is accepted",
                                 s.step_noise.shape().to_string(), noise_shape.to_string()));
  }
  NoGrad off;
  const std::vector<SamplerStage> moves = sampler_moves(steps, s);
  // The first layer reads x, state and time: the state's product is made once, the time's is one
  // column.
  const int64_t a = options_.action_dim;
  const Tensor& w = first_->weight();
  const Tensor w_x = contiguous(slice(w, 1, 0, a));
  const Tensor w_time = contiguous(select(w, 1, a + options_.state_dim));
  const Tensor from_state = state.defined()
                                ? linear(state, contiguous(slice(w, 1, a, a + options_.state_dim)))
                                : Tensor();
  std::vector<double> times;
  for (const int64_t t : steps)
    times.push_back(static_cast<double>(t) / static_cast<double>(options_.n_timesteps));
  if (can_fuse(tail_, noise, from_state) && can_fuse(tail_, noise, s.step_noise)) {
    const Tensor t =
        Tensor::from(times, {static_cast<int64_t>(times.size()), 1}, noise.dtype(), noise.device());
    const Tensor rows = linear(t, unsqueeze(w_time, 1), first_->bias());
    const SamplerOptions options{
        .noise = s.step_noise, .seed = generator.seed(), .first_stream = generator.stream()};
    for (const SamplerStage& move : moves) {
      if (move.x_noise != 0 && !s.step_noise.defined()) generator.next_stream();
    }
    return sample_net(folded_.with(tail_, w_x, rows, from_state, true), moves, noise, options);
  }
  Tensor x = noise;
  for (size_t i = 0; i < steps.size(); ++i) {
    Tensor in = linear(x, w_x, w_time * times[i] + first_->bias());
    if (from_state.defined()) in = in + from_state;
    x = moved(moves[i], x, denoiser_.forward_from(1, in));
    if (moves[i].x_noise == 0) continue;
    const Tensor unit = s.step_noise.defined() ? select(s.step_noise, 0, steps[i])
                                               : randn(x.shape(), generator, x.dtype(), x.device());
    x = x + unit * moves[i].x_noise;
  }
  return x;
}

}  // namespace flowgrad
