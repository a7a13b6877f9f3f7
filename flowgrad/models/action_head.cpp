#include "flowgrad/models/action_head.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/rectified.h"

namespace flowgrad {
namespace {

/// Adds Linear-SiLU, two residual blocks and a Linear.
void add_trunk(Sequential& net, int64_t in, int64_t hidden, int64_t out, Generator& generator,
               DType dtype) {
  net.add<Linear>(in, hidden, generator, dtype);
  net.add<Activation>(silu);
  net.add<ResidualBlock>(hidden, generator, dtype);
  net.add<ResidualBlock>(hidden, generator, dtype);
  net.add<Linear>(hidden, out, generator, dtype);
}

class FlowHead final : public ActionHead {
 public:
  FlowHead(const ActionHeadOptions& o, Generator& generator, DType dtype)
      : ActionHead(o),
        net_(add_module("flow", std::make_unique<FlowMatching>(
                                    FlowMatchingOptions{.condition_dim = o.feature_dim,
                                                        .action_dim = o.chunk_dim,
                                                        .time_dim = o.time_dim,
                                                        .time_scale = o.time_scale,
                                                        .hidden = o.hidden,
                                                        .time_law = o.time_law},
                                    generator, dtype))) {}
  Tensor loss(const Tensor& feature, const Tensor& chunk, Generator& generator) override {
    check("loss", feature, chunk);
    return net_.loss(chunk, feature, generator);
  }
  Tensor distillation_loss(const Tensor& feature, const Tensor& noise, const Tensor& chunk,
                           int64_t steps, Generator& generator) override {
    check("distillation_loss", feature, chunk);
    const Tensor t =
        distillation_times(chunk.size(0), steps, generator, chunk.dtype(), chunk.device());
    return net_.loss(chunk, feature, generator, select(noise, 1, 0), t);
  }
  Shape noise_shape(const HeadSampling&) const override { return {1, options().chunk_dim}; }
  int64_t evaluations(const HeadSampling& s) const override {
    return s.n_steps > 0 ? s.n_steps : kSteps;
  }

 protected:
  bool is_flow() const override { return true; }
  void check_sampling(const HeadSampling& s) const override {
    if (s.n_steps >= 0) return;
    throw ValueError(fmt::format(
        "generate: {} Euler steps given; at least 1 are accepted, or 0 for {}", s.n_steps, kSteps));
  }
  Tensor compute(const Tensor& feature, const Tensor& noise, const HeadSampling& s) override {
    const OdeOptions solver{.solver = "euler", .n_steps = evaluations(s)};
    const Tensor start = select(noise, 1, 0);
    if (!s.inpainting.target.defined() || s.inpainting.beta == 0)
      return net_.generate(start, feature, {.solver = solver});
    return odeint(inpainted(velocity_field(net_, feature), s.inpainting), start, 0, 1, solver);
  }

 private:
  static constexpr int64_t kSteps = 10;
  FlowMatching& net_;
};

class DiffusionHead final : public ActionHead {
 public:
  DiffusionHead(const ActionHeadOptions& o, Generator& generator, DType dtype)
      : ActionHead(o),
        net_(add_module("diffusion", std::make_unique<DiffusionPolicy>(
                                         DiffusionOptions{.state_dim = o.feature_dim,
                                                          .action_dim = o.chunk_dim,
                                                          .n_timesteps = o.n_timesteps,
                                                          .hidden = o.hidden},
                                         generator, dtype))) {}
  Tensor loss(const Tensor& feature, const Tensor& chunk, Generator& generator) override {
    check("loss", feature, chunk);
    return net_.loss(chunk, feature, generator);
  }
  Shape noise_shape(const HeadSampling& s) const override {
    return {s.n_steps > 0 ? 1 : 1 + options().n_timesteps, options().chunk_dim};
  }
  int64_t evaluations(const HeadSampling& s) const override {
    return s.n_steps > 0 ? s.n_steps : options().n_timesteps;
  }

 protected:
  void check_sampling(const HeadSampling& s) const override {
    if (s.n_steps >= 0 && s.n_steps <= options().n_timesteps) return;
    throw ValueError(
        fmt::format("generate: {} DDIM steps given; 1 to {} are accepted, or 0 for DDPM", s.n_steps,
                    options().n_timesteps));
  }
  Tensor compute(const Tensor& feature, const Tensor& noise, const HeadSampling& s) override {
    DiffusionSampling sampling{.ddim_steps = s.n_steps, .clip = s.clip};
    if (s.n_steps == 0)
      sampling.step_noise = contiguous(transpose(slice(noise, 1, 1, noise.size(1)), 0, 1));
    Generator unused;  // all noise is given
    return net_.generate(contiguous(select(noise, 1, 0)), feature, unused, sampling);
  }

 private:
  DiffusionPolicy& net_;
};

class RegressionHead final : public ActionHead {
 public:
  RegressionHead(const ActionHeadOptions& o, Generator& generator, DType dtype)
      : ActionHead(o), trunk_(add_module("trunk", std::make_unique<Sequential>())) {
    add_trunk(trunk_, o.feature_dim, o.hidden, o.chunk_dim, generator, dtype);
  }
  Tensor loss(const Tensor& feature, const Tensor& chunk, Generator&) override {
    check("loss", feature, chunk);
    return mse_loss(trunk_(feature), chunk);
  }
  Shape noise_shape(const HeadSampling&) const override { return {0, 0}; }

 protected:
  Tensor compute(const Tensor& feature, const Tensor&, const HeadSampling&) override {
    return trunk_(feature);
  }

 private:
  Sequential& trunk_;
};

/// Posterior q(z | chunk, feature) = N(mean, exp(log_variance)), prior N(0, I), likelihood a normal
/// around the decoder's value. A decision draws z from the prior.
class CvaeHead final : public ActionHead {
 public:
  CvaeHead(const ActionHeadOptions& o, Generator& generator, DType dtype)
      : ActionHead(o),
        encoder_(add_module("encoder", std::make_unique<Sequential>())),
        decoder_(add_module("decoder", std::make_unique<Sequential>())) {
    if (o.latent_dim < 1 || !(o.kl_weight >= 0)) {
      throw ValueError(
          fmt::format("ActionHead: latent_dim = {}, kl_weight = {} given; at least 1 and at least "
                      "0 are accepted",
                      o.latent_dim, o.kl_weight));
    }
    add_trunk(encoder_, o.chunk_dim + o.feature_dim, o.hidden, 2 * o.latent_dim, generator, dtype);
    add_trunk(decoder_, o.latent_dim + o.feature_dim, o.hidden, o.chunk_dim, generator, dtype);
  }
  Tensor loss(const Tensor& feature, const Tensor& chunk, Generator& generator) override {
    check("loss", feature, chunk);
    const Posterior q = posterior(feature, chunk);
    const Tensor noise = randn(q.mean.shape(), generator, chunk.dtype(), chunk.device());
    const Tensor z = q.mean + exp(q.log_variance * 0.5) * noise;
    return mse_loss(decoder_(concat({z, feature}, 1)), chunk) +
           sum(mean(q.kl(), {0})) * options().kl_weight;
  }
  Shape noise_shape(const HeadSampling&) const override { return {1, options().latent_dim}; }
  NamedTensors diagnostics(const Tensor& feature, const Tensor& chunk) override {
    check("diagnostics", feature, chunk);
    NoGrad off;
    return {{"kl_per_dim", mean(posterior(feature, chunk).kl(), {0})}};
  }

 protected:
  Tensor compute(const Tensor& feature, const Tensor& noise, const HeadSampling&) override {
    return decoder_(concat({select(noise, 1, 0), feature}, 1));
  }

 private:
  struct Posterior {
    Tensor mean, log_variance;  // (N, latent)
    /// Of each row and latent to N(0, 1).
    Tensor kl() const { return (square(mean) + exp(log_variance) - log_variance - 1.0) * 0.5; }
  };
  Posterior posterior(const Tensor& feature, const Tensor& chunk) {
    const Tensor out = encoder_(concat({chunk, feature}, 1));
    const int64_t n = options().latent_dim;
    return {slice(out, 1, 0, n), slice(out, 1, n, 2 * n)};
  }

  Sequential& encoder_;
  Sequential& decoder_;
};

/// One network f(x, t): f(0, 0) regresses the chunk, and f(x, anchor) regresses it again from x =
/// anchor * chunk + (1 - anchor) * noise. A decision is f(anchor * f(0, 0), anchor): deterministic.
class MipNet final : public TimeNet {
 public:
  MipNet(const ActionHeadOptions& o, Generator& generator, DType dtype)
      : TimeNet("trunk",
                {.condition_dim = o.feature_dim,
                 .action_dim = o.chunk_dim,
                 .time_dim = o.time_dim,
                 .time_scale = o.time_scale,
                 .hidden = o.hidden},
                generator, dtype) {}
  Tensor operator()(const Tensor& x, double t, const Tensor& feature) {
    return evaluate("mip", x, full({1}, t, x.dtype(), x.device()), feature);
  }
};

class MipHead final : public ActionHead {
 public:
  MipHead(const ActionHeadOptions& o, Generator& generator, DType dtype)
      : ActionHead(o), net_(add_module("mip", std::make_unique<MipNet>(o, generator, dtype))) {
    if (!(o.anchor > 0 && o.anchor < 1)) {
      throw ValueError(fmt::format(
          "ActionHead: anchor = {} given; numbers between 0 and 1 are accepted", o.anchor));
    }
  }
  Tensor loss(const Tensor& feature, const Tensor& chunk, Generator& generator) override {
    check("loss", feature, chunk);
    const double a = options().anchor;
    const Tensor noise = randn(chunk.shape(), generator, chunk.dtype(), chunk.device());
    return mse_loss(net_(zeros_like(chunk), 0, feature), chunk) +
           mse_loss(net_(chunk * a + noise * (1 - a), a, feature), chunk);
  }
  Shape noise_shape(const HeadSampling&) const override { return {0, 0}; }
  int64_t evaluations(const HeadSampling&) const override { return 2; }

 protected:
  Tensor compute(const Tensor& feature, const Tensor&, const HeadSampling&) override {
    const double a = options().anchor;
    const Tensor zero =
        zeros({feature.size(0), options().chunk_dim}, feature.dtype(), feature.device());
    return net_(net_(zero, 0, feature) * a, a, feature);
  }

 private:
  MipNet& net_;
};

}  // namespace

const std::vector<std::string>& head_names() {
  static const std::vector<std::string> names = {"flow", "diffusion", "regression", "cvae", "mip"};
  return names;
}

void ActionHead::check_feature(const char* op, const Tensor& feature) const {
  if (feature.rank() == 2 && feature.size(1) == options_.feature_dim) return;
  throw ShapeError(fmt::format("{}: feature has shape {}; (N, {}) is accepted", op,
                               feature.shape().to_string(), options_.feature_dim));
}

void ActionHead::check(const char* op, const Tensor& feature, const Tensor& chunk) const {
  check_feature(op, feature);
  const Shape wanted{feature.size(0), options_.chunk_dim};
  if (chunk.shape() == wanted) return;
  throw ShapeError(fmt::format("{}: chunk has shape {}; {} is accepted", op,
                               chunk.shape().to_string(), wanted.to_string()));
}

void ActionHead::check_sampling(const HeadSampling& s) const {
  if (s.n_steps == 0) return;
  throw ValueError(
      fmt::format("generate: {} steps given to a head that takes none; 0 is accepted", s.n_steps));
}

Tensor ActionHead::distillation_loss(const Tensor&, const Tensor&, const Tensor&, int64_t,
                                     Generator&) {
  throw ValueError(
      "distillation_loss: given to a head that solves no flow; the flow head accepts it");
}

void ActionHead::check_inpainting(const Inpainting& known, const Shape& chunks) const {
  if (!is_flow()) {
    throw ValueError(
        "generate: inpainting given to a head that solves no flow; the flow head accepts it");
  }
  if (known.target.shape() != chunks) {
    throw ShapeError(fmt::format("generate: inpainting.target has shape {}; {} is accepted",
                                 known.target.shape().to_string(), chunks.to_string()));
  }
  const Shape row{options_.chunk_dim};
  if (!known.weight.defined() || (known.weight.shape() != chunks && known.weight.shape() != row)) {
    throw ShapeError(
        fmt::format("generate: inpainting.weight {} given; {} or {} is accepted",
                    known.weight.defined() ? known.weight.shape().to_string() : "absent",
                    chunks.to_string(), row.to_string()));
  }
  if (std::isfinite(known.beta) && known.beta >= 0) return;
  throw ValueError(fmt::format(
      "generate: inpainting.beta = {} given; finite numbers from 0 are accepted", known.beta));
}

Tensor ActionHead::generate(const Tensor& feature, const Tensor& noise, const HeadSampling& s) {
  check_feature("generate", feature);
  check_sampling(s);
  const Shape row = noise_shape(s);
  const Shape wanted{feature.size(0), row[0], row[1]};
  if (noise.shape() != wanted) {
    throw ShapeError(fmt::format("generate: noise has shape {}; {} is accepted",
                                 noise.shape().to_string(), wanted.to_string()));
  }
  if (s.inpainting.target.defined())
    check_inpainting(s.inpainting, {feature.size(0), options_.chunk_dim});
  NoGrad off;
  return compute(feature, noise, s);
}

std::unique_ptr<ActionHead> make_action_head(HeadKind kind, const ActionHeadOptions& o,
                                             Generator& generator, DType dtype) {
  switch (kind) {
    case HeadKind::flow: return std::make_unique<FlowHead>(o, generator, dtype);
    case HeadKind::diffusion: return std::make_unique<DiffusionHead>(o, generator, dtype);
    case HeadKind::regression: return std::make_unique<RegressionHead>(o, generator, dtype);
    case HeadKind::cvae: return std::make_unique<CvaeHead>(o, generator, dtype);
    case HeadKind::mip: break;
  }
  return std::make_unique<MipHead>(o, generator, dtype);
}

}  // namespace flowgrad
