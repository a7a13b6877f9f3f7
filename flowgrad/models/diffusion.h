#pragma once

#include <optional>
#include <vector>

#include "flowgrad/models/fused_sampler.h"
#include "flowgrad/models/layers.h"

namespace flowgrad {

/// linear: 1e-4 .. 0.02 whatever the number of steps (kept for teaching: it leaves alpha_bar =
/// 0.364 after 100). squared_cosine: Nichol & Dhariwal 2021, betas at most 0.999.
enum class NoiseSchedule { linear, squared_cosine };
/// Variance of a DDPM step: beta_t, or that of the posterior q(x_(t-1) | x_t, x_0).
enum class StepVariance { beta, posterior };

struct DiffusionOptions {
  int64_t state_dim = 0;
  int64_t action_dim = 2;
  int64_t n_timesteps = 100;
  int64_t hidden = 256;
  NoiseSchedule schedule = NoiseSchedule::squared_cosine;
  StepVariance variance = StepVariance::beta;
};

struct DiffusionSampling {
  /// DDIM (Song et al. 2021) with this many steps: the last of as many equal strides; 0 samples by
  /// DDPM over all steps.
  int64_t ddim_steps = 0;
  /// DDIM over these steps instead, falling.
  std::vector<int64_t> ddim_timesteps = {};
  /// Noise of DDIM: 0 is deterministic, 1 has the variance of the posterior.
  double eta = 0;
  /// Clip the predicted x0 to [-clip, clip]; 0 is off. Only for actions scaled to that range.
  double clip = 0;
  /// Variance of the DDPM steps in place of the model's.
  std::optional<StepVariance> variance = {};
  /// (n_timesteps, N, A): row t is the unit noise added after step t, in place of draws.
  Tensor step_noise = {};

  bool is_ddim() const { return ddim_steps > 0 || !ddim_timesteps.empty(); }
};

/// Diffusion policy baseline (Ho et al. 2020; Chi et al. 2023): denoiser
/// Linear(A + state + 1, 256)-ReLU-ResidualBlock-ResidualBlock-Linear(A) on x, state, t /
/// n_timesteps. Step t = 0 is nearly clean, n_timesteps - 1 noise. Keys denoiser.0.*,
/// denoiser.{2,3}.block.{0,2}.*, denoiser.4.*; buffers betas, alphas, alphas_cumprod.
class DiffusionPolicy final : public Module {
 public:
  DiffusionPolicy(const DiffusionOptions& options, Generator& generator,
                  DType dtype = DType::float32);
  const DiffusionOptions& options() const { return options_; }
  const Tensor& alphas_cumprod() const { return alphas_cumprod_; }

  /// Predicted noise (N, A) for x (N, A), steps t (N) int64 and state (N, S); one state row serves
  /// a batch. ValueError for a step outside 0 .. n_timesteps - 1.
  Tensor noise_prediction(const Tensor& x, const Tensor& t, const Tensor& state = {});
  /// x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise.
  Tensor q_sample(const Tensor& x0, const Tensor& t, const Tensor& noise) const;
  /// Mean squared error of the predicted noise; t (N) int64 and noise are drawn where undefined.
  Tensor loss(const Tensor& x0, const Tensor& state, Generator& generator, const Tensor& t = {},
              const Tensor& noise = {});
  /// From noise (N, A) at the last step to an action, off the tape, in one kernel where the device
  /// has it; the generator gives the noise of the steps. ValueError for bad steps, eta or clip.
  Tensor generate(const Tensor& noise, const Tensor& state, Generator& generator,
                  const DiffusionSampling& sampling = {});

 private:
  std::vector<SamplerStage> sampler_moves(const std::vector<int64_t>& steps,
                                          const DiffusionSampling& sampling) const;
  std::vector<int64_t> sampling_steps(const DiffusionSampling& sampling) const;
  void check_input(const char* op, const Tensor& x) const;
  Tensor check_steps(const char* op, const Tensor& t, int64_t rows) const;
  void check_state(const char* op, const Tensor& state, int64_t rows) const;

  DiffusionOptions options_;
  std::vector<double> beta_, alpha_bar_;  // the schedule in double
  // sqrt(alpha_bar) and sqrt(1 - alpha_bar) from the double schedule: 1 - alpha_bar in float32
  // would lose half its digits.
  Tensor signal_, noise_level_;
  Tensor alphas_cumprod_;
  Sequential& denoiser_;
  Linear* first_;  // of the denoiser
  ResidualTail tail_;
  FoldedTail folded_;
};

}  // namespace flowgrad
