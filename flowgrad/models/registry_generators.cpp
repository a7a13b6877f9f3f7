#include "flowgrad/models/registry_entry.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/consistency.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/likelihood.h"
#include "flowgrad/models/score.h"

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
    const Tensor noise = noise_of(*this, in, o, generator);
    return net_.generate(noise, in.condition, sampling_for({}, o));
  }

 private:
  FlowMatching net_;
};

class ConsistencyModel final : public Model {
 public:
  ConsistencyModel(const ConfigReader& config, const ConsistencyOptions& options,
                   Generator& generator, DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  std::vector<std::string> quantities() const override {
    return {"end_point", "loss", "generate", "sample"};
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    if (q == "end_point") {
      return net_.end_point(need(*this, q, "input", in.input), need(*this, q, "time", in.time),
                            in.condition);
    }
    if (q == "loss") {
      return net_.loss(need(*this, q, "input", in.input), in.condition, generator, {}, in.noise,
                       in.time);
    }
    refuse_guidance(*this, o);
    if (!o.solver.empty())
      refuse_option(*this, "solver", fmt::format("\"{}\"", o.solver), "none is accepted");
    const Tensor noise = noise_of(*this, in, o, generator);
    return net_.generate(noise, in.condition, generator, std::max<int64_t>(o.n_steps, 1));
  }

 private:
  Consistency net_;
};

class ScoreGenerator final : public Model {
 public:
  ScoreGenerator(const ConfigReader& config, const ScoreOptions& options, Generator& generator,
                 DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  std::vector<std::string> quantities() const override {
    return {"velocity", "noise_prediction", "loss", "generate", "sample"};
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    if (q == "velocity" || q == "noise_prediction") {
      const Tensor& x = need(*this, q, "input", in.input);
      const Tensor& t = need(*this, q, "time", in.time);
      return q == "velocity" ? net_.velocity(x, t, in.condition)
                             : net_.noise_prediction(x, t, in.condition);
    }
    if (q == "loss") {
      return net_.loss(need(*this, q, "input", in.input), in.condition, generator, in.noise,
                       in.time);
    }
    const Tensor noise = noise_of(*this, in, o, generator);
    return net_.generate(noise, in.condition, sampling_for(ScoreModel::default_sampling(), o));
  }

 private:
  ScoreModel net_;
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
    const Tensor noise = noise_of(*this, in, o, generator);
    return net_.generate(noise, in.condition, generator, sampling);
  }

 private:
  DiffusionPolicy net_;
};

/// Reads the keys of with_net_keys into options that have these fields.
template <class Options>
void read_net(const ConfigReader& c, Options& o) {
  o.condition_dim = c.integer("condition_dim", 0);
  o.action_dim = c.integer("action_dim", 1);
  o.time_dim = c.integer("time_dim", 4);
  o.time_scale = c.real("time_scale", 1e-6);
  o.hidden = c.integer("hidden", 1);
  o.net = c.choice("net", {"residual", "mlp"}) == 0 ? NetKind::residual : NetKind::mlp;
  o.depth = c.integer("depth", 1);
}

Coupling coupling_of(const ConfigReader& c) {
  return static_cast<Coupling>(c.choice("coupling", {"independent", "ot", "sinkhorn"}));
}

std::unique_ptr<Model> make_flow_matching(const ConfigReader& c, Generator& g, DType dtype) {
  FlowMatchingOptions o;
  read_net(c, o);
  o.time_law = static_cast<TimeLaw>(c.choice("time_law", time_law_names()));
  o.coupling = coupling_of(c);
  o.sigma = c.real("sigma", 0);
  return std::make_unique<FlowMatchingModel>(c, o, g, dtype);
}

std::unique_ptr<Model> make_consistency(const ConfigReader& c, Generator& g, DType dtype) {
  ConsistencyOptions o;
  read_net(c, o.network);
  o.scales = c.integer("scales", 1);
  o.coupling = coupling_of(c);
  return std::make_unique<ConsistencyModel>(c, o, g, dtype);
}

std::unique_ptr<Model> make_score(const ConfigReader& c, Generator& g, DType dtype) {
  ScoreOptions o;
  read_net(c, o.network);
  o.beta_min = c.real("beta_min", 1e-6);
  o.beta_max = c.real("beta_max", 1e-6);
  return std::make_unique<ScoreGenerator>(c, o, g, dtype);
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

ConfigKey coupling_key() {
  return {"coupling", "independent",
          "how the loss pairs noise with data: independent, ot (optimal transport within the "
          "batch) or sinkhorn; independent where conditional"};
}

/// The keys of a TimeNet, and those of the model.
std::vector<ConfigKey> with_net_keys(const std::vector<ConfigKey>& own) {
  std::vector<ConfigKey> keys = {
      condition_key(),
      {"action_dim", "2", "dimension of the data"},
      {"time_dim", "128", "width of the time embedding, even; residual net only"},
      {"time_scale", "1000", "factor on the time before its embedding; residual net only"},
      {"hidden", "512", "width of the network"},
      {"net", "residual", "network: residual, or mlp (SELU layers on x, condition and time)"},
      {"depth", "3", "hidden layers of the mlp"}};
  keys.insert(keys.end(), own.begin(), own.end());
  return keys;
}

}  // namespace

std::vector<Entry> generator_entries() {
  return {
      {"flow_matching",
       with_net_keys({{"time_law", "uniform", "law of the training time: uniform or beta"},
                      coupling_key(),
                      {"sigma", "0", "standard deviation of the noise on the path"}}),
       make_flow_matching},
      {"consistency",
       with_net_keys(
           {{"scales", "32", "time steps between whose ends the loss asks for consistency"},
            coupling_key()}),
       make_consistency},
      {"score",
       with_net_keys({{"beta_min", "0.1", "beta of the SDE at the data"},
                      {"beta_max", "20", "beta of the SDE at the noise"}}),
       make_score},
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
