#include "flowgrad/models/registry_entry.h"

#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/likelihood.h"

namespace flowgrad::registry {
namespace {

class FlowMatchingModel final : public Model {
 public:
  FlowMatchingModel(const ConfigReader& config, const FlowMatchingOptions& options,
                    Generator& generator, DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  std::vector<std::string> quantities() const override {
    return {"velocity", "loss", "log_prob", "generate", "sample"};
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    if (q == "velocity") {
      return net_.velocity(need(*this, q, "input", in.input), need(*this, q, "time", in.time),
                           in.condition);
    }
    if (q == "loss") {
      return net_.loss(need(*this, q, "input", in.input), in.condition, generator, in.noise,
                       in.time);
    }
    if (q == "log_prob") {
      return log_prob(net_, need(*this, q, "input", in.input), in.condition, in.probe_noise,
                      solver_for({.solver = "dopri5"}, o), generator);
    }
    const Tensor noise = in.noise.defined() ? in.noise
                                            : randn({rows_of(in, o), net_.options().action_dim},
                                                    generator, dtype_of(*this), net_.device());
    GenerateOptions options;
    options.guidance = o.guidance;
    if (o.n_steps > 0) options.solver.n_steps = o.n_steps;
    if (!o.solver.empty()) options.solver.solver = o.solver;
    return net_.generate(noise, in.condition, options);
  }

 private:
  FlowMatching net_;
};

class DiffusionModel final : public Model {
 public:
  DiffusionModel(const ConfigReader& config, const DiffusionOptions& options, Generator& generator,
                 DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  std::vector<std::string> quantities() const override {
    return {"noise_prediction", "loss", "generate", "sample"};
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    if (q == "noise_prediction") {
      return net_.noise_prediction(need(*this, q, "input", in.input),
                                   need(*this, q, "time", in.time), in.condition);
    }
    if (q == "loss") {
      return net_.loss(need(*this, q, "input", in.input), in.condition, generator, in.time,
                       in.noise);
    }
    refuse_guidance(*this, o);
    DiffusionSampling sampling;
    sampling.step_noise = in.step_noise;
    if (o.solver == "ddim") {
      sampling.ddim_steps = o.n_steps > 0 ? o.n_steps : net_.options().n_timesteps;
    } else if (!o.solver.empty() && o.solver != "ddpm") {
      throw ValueError(fmt::format("model {}: solver \"{}\" given; ddpm and ddim are accepted",
                                   name(), o.solver));
    } else if (o.n_steps > 0 && o.n_steps != net_.options().n_timesteps) {
      throw ValueError(
          fmt::format("model {}: {} steps given; ddpm takes all {}, solver ddim takes fewer",
                      name(), o.n_steps, net_.options().n_timesteps));
    }
    const Tensor noise = in.noise.defined() ? in.noise
                                            : randn({rows_of(in, o), net_.options().action_dim},
                                                    generator, dtype_of(*this), net_.device());
    return net_.generate(noise, in.condition, generator, sampling);
  }

 private:
  DiffusionPolicy net_;
};

std::unique_ptr<Model> make_flow_matching(const ConfigReader& c, Generator& g, DType dtype) {
  FlowMatchingOptions o;
  o.condition_dim = c.integer("condition_dim", 0);
  o.action_dim = c.integer("action_dim", 1);
  o.time_dim = c.integer("time_dim", 4);
  o.time_scale = c.real("time_scale", 1e-6);
  o.hidden = c.integer("hidden", 1);
  o.time_law = c.choice("time_law", {"uniform", "beta"}) == 0 ? TimeLaw::uniform : TimeLaw::beta;
  return std::make_unique<FlowMatchingModel>(c, o, g, dtype);
}

std::unique_ptr<Model> make_diffusion(const ConfigReader& c, Generator& g, DType dtype) {
  DiffusionOptions o;
  o.state_dim = c.integer("state_dim", 0);
  o.action_dim = c.integer("action_dim", 1);
  o.n_timesteps = c.integer("n_timesteps", 1);
  o.hidden = c.integer("hidden", 1);
  o.schedule = c.choice("schedule", {"squared_cosine", "linear"}) == 0
                   ? NoiseSchedule::squared_cosine
                   : NoiseSchedule::linear;
  o.variance = c.choice("variance", {"beta", "posterior"}) == 0 ? StepVariance::beta
                                                                : StepVariance::posterior;
  return std::make_unique<DiffusionModel>(c, o, g, dtype);
}

}  // namespace

std::vector<Entry> generator_entries() {
  return {
      {"flow_matching",
       {{"condition_dim", "0", "width of the condition; 0 = unconditional"},
        {"action_dim", "2", "dimension of the data"},
        {"time_dim", "128", "width of the time embedding, even"},
        {"time_scale", "1000", "factor on the time before its embedding"},
        {"hidden", "512", "width of the velocity net"},
        {"time_law", "uniform", "law of the training time: uniform or beta"}},
       make_flow_matching},
      {"diffusion",
       {{"state_dim", "0", "width of the state that conditions; 0 = unconditional"},
        {"action_dim", "2", "dimension of the data"},
        {"n_timesteps", "100", "steps of the noise schedule"},
        {"hidden", "256", "width of the denoiser"},
        {"schedule", "squared_cosine", "noise schedule: squared_cosine or linear"},
        {"variance", "beta", "variance of a DDPM step: beta or posterior"}},
       make_diffusion},
  };
}

}  // namespace flowgrad::registry
