#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/inpainting.h"

namespace flowgrad {

/// How a chunk of actions is read off a feature. flow: conditional flow matching. diffusion:
/// denoising diffusion (Chi et al. 2023). regression: the conditional mean. cvae: a conditional VAE
/// (Kingma & Welling 2014; Zhao et al. 2023, ACT). mip: regression in two steps (arXiv 2512.01809).
enum class HeadKind { flow, diffusion, regression, cvae, mip };
/// "flow", "diffusion", "regression", "cvae", "mip": in the order of HeadKind.
const std::vector<std::string>& head_names();

struct ActionHeadOptions {
  int64_t feature_dim = 1;
  int64_t chunk_dim = 2;  ///< horizon times action_dim
  int64_t hidden = 512;
  /// Of flow and mip, see TimeNetOptions.
  int64_t time_dim = 128;
  double time_scale = 1000;
  TimeLaw time_law = TimeLaw::uniform;  ///< of flow
  int64_t n_timesteps = 100;            ///< of diffusion
  int64_t latent_dim = 8;               ///< of cvae
  double kl_weight = 1e-2;              ///< of cvae, on the KL divergence summed over the latent
  double anchor = 0.9;                  ///< of mip: the time of its second step, in (0, 1)
};

/// How a decision is made.
struct HeadSampling {
  /// Euler steps of flow, steps of DDIM for diffusion; 0 is 10 and all steps of DDPM. The other
  /// heads take no steps and accept 0 alone.
  int64_t n_steps = 0;
  /// Largest |x0| that diffusion predicts on its way; 0 is no limit. The other heads predict none,
  /// and ignore it.
  double clip = 0;
  /// What a chunk (C) should agree with; flow alone accepts it.
  Inpainting inpainting = {};
};

/// A conditional generator of action chunks, all normalised by whoever owns the head.
///
/// Steps behind the end of an episode count in the loss as what the chunk says there, which is its
/// last action repeated: so a policy learns to stay where it has arrived (as diffusion policy
/// does).
class ActionHead : public Module {
 public:
  /// Mean squared errors, see HeadKind, for features (N, F) and chunks (N, C): a scalar. Raises
  /// ShapeError for others.
  virtual Tensor loss(const Tensor& feature, const Tensor& chunk, Generator& generator) = 0;
  /// Mean squared error of reaching chunks (N, C) from standard normals `noise` (N, 1, C) in
  /// `steps` equal Euler steps: the noise belongs to the chunks, as what a teacher made of it
  /// (distillation, see rectified.h). ShapeError for others, ValueError for steps below 1 and for
  /// heads that solve no flow.
  virtual Tensor distillation_loss(const Tensor& feature, const Tensor& noise, const Tensor& chunk,
                                   int64_t steps, Generator& generator);
  /// Chunks (N, C), off the tape, a function of features (N, F) and standard normals `noise` (N,
  /// draws, width): row i depends on row i alone. Raises ShapeError for others, ValueError for
  /// options that the head does not have.
  Tensor generate(const Tensor& feature, const Tensor& noise, const HeadSampling& sampling = {});
  /// (draws, width) of the noise that generate takes for a row.
  virtual Shape noise_shape(const HeadSampling& sampling = {}) const = 0;
  /// How often a decision evaluates the network.
  virtual int64_t evaluations(const HeadSampling&) const { return 1; }
  /// Numbers worth a look beside the loss, by name: of cvae "kl_per_dim" (latent_dim), the KL
  /// divergence to the prior of each latent in nats; near 0 in all of them is posterior collapse.
  virtual NamedTensors diagnostics(const Tensor&, const Tensor&) { return {}; }
  const ActionHeadOptions& options() const { return options_; }

 protected:
  explicit ActionHead(const ActionHeadOptions& options) : options_(options) {}
  /// Shapes are right and steps accepted.
  virtual Tensor compute(const Tensor& feature, const Tensor& noise,
                         const HeadSampling& sampling) = 0;
  virtual void check_sampling(const HeadSampling& sampling) const;
  virtual bool is_flow() const { return false; }
  void check_feature(const char* op, const Tensor& feature) const;
  void check(const char* op, const Tensor& feature, const Tensor& chunk) const;

 private:
  void check_inpainting(const Inpainting& known, const Shape& chunks) const;
  ActionHeadOptions options_;
};

/// All heads have the same trunk: Linear - activation - two residual blocks - Linear of width
/// `hidden`. Keys as in FlowMatching (flow), DiffusionPolicy (diffusion), trunk.* (regression),
/// encoder.*, decoder.* (cvae), time_embed.*, trunk.* (mip). ValueError for an option out of range.
std::unique_ptr<ActionHead> make_action_head(HeadKind kind, const ActionHeadOptions& options,
                                             Generator& generator, DType dtype = DType::float32);

}  // namespace flowgrad
