#include "flowgrad/models/registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/cnf.h"
#include "flowgrad/models/config.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/planar.h"
#include "flowgrad/models/realnvp.h"

namespace flowgrad {
namespace {

const Tensor& need(const Model& m, const std::string& quantity, const char* name, const Tensor& t) {
  if (t.defined()) return t;
  throw ValueError(
      fmt::format("model {}: quantity \"{}\" needs an array for {}", m.name(), quantity, name));
}

DType dtype_of(Model& m) { return m.module().parameters().front().second.dtype(); }

void refuse_option(const Model& m, const char* option, const std::string& given,
                   const char* accepted) {
  throw ValueError(fmt::format("model {}: {} {} given; {}", m.name(), option, given, accepted));
}

void refuse_guidance(const Model& m, const QuantityOptions& o) {
  if (o.guidance != 1)
    refuse_option(m, "guidance", fmt::format("{}", o.guidance), "1 is accepted, it has none");
}

/// Rows to draw, from the arrays given: one row of a condition serves any number.
int64_t rows_of(const QuantityInputs& in, const QuantityOptions& o) {
  return in.condition.defined() && in.condition.rank() == 2 && in.condition.size(0) > 1
             ? in.condition.size(0)
             : o.n_samples;
}

/// planar, realnvp, cnf.
class DensityModel : public Model {
 public:
  DensityModel(const ConfigReader& config, std::unique_ptr<Flow> flow)
      : Model(config.model(), config.values()), flow_(std::move(flow)) {}
  Module& module() override { return *flow_; }
  std::vector<std::string> quantities() const override {
    return {"forward", "inverse", "log_prob", "log_det", "loss", "sample"};
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    refuse_guidance(*this, o);
    prepare(o, generator);
    if (q == "sample") return draw(in, o, generator);
    const Tensor& x = need(*this, q, "input", in.input);
    if (q == "forward") return forward(x, in).value;
    if (q == "log_det") return forward(x, in).log_det;
    const Transformed z = inverse(x, in);
    if (q == "inverse") return z.value;
    const Tensor log_prob = standard_normal_log_prob(z.value) + z.log_det;
    return q == "log_prob" ? log_prob : -mean(log_prob);
  }
  virtual void prepare(const QuantityOptions& o, Generator&) {
    if (o.n_steps != 0)
      refuse_option(*this, "n_steps", fmt::format("{}", o.n_steps),
                    "0 is accepted, it has no solver");
    if (!o.solver.empty())
      refuse_option(*this, "solver", o.solver, "none is accepted, it has no solver");
  }
  virtual Transformed forward(const Tensor& z, const QuantityInputs& in) {
    return flow_->forward(z, in.condition);
  }
  virtual Transformed inverse(const Tensor& x, const QuantityInputs& in) {
    return flow_->inverse(x, in.condition);
  }
  Flow& flow() { return *flow_; }

 private:
  Tensor draw(const QuantityInputs& in, const QuantityOptions& o, Generator& generator) {
    if (in.noise.defined()) {
      NoGrad off;
      return forward(in.noise, in).value;
    }
    return flow_->sample(rows_of(in, o), generator, in.condition);
  }

  std::unique_ptr<Flow> flow_;
};

class CnfModel final : public DensityModel {
 public:
  CnfModel(const ConfigReader& config, std::unique_ptr<ContinuousNormalizingFlow> flow)
      : DensityModel(config, std::move(flow)), own_(cnf().options().solver) {}

 protected:
  void prepare(const QuantityOptions& o, Generator& generator) override {
    OdeOptions solver = own_;
    if (o.n_steps > 0) solver.n_steps = o.n_steps;
    if (!o.solver.empty()) solver.solver = o.solver;
    cnf().set_solver(solver);
    // One stream of the caller's generator seeds the probes, so that a seed fixes the whole result.
    cnf().probe_generator().set_state(generator.seed(),
                                      (generator.next_stream() << 20) | (uint64_t{1} << 62));
  }
  Transformed forward(const Tensor& z, const QuantityInputs& in) override {
    check_condition("cnf", in.condition, z.size(0), 0);
    return cnf().integrate(z, 0, 1, in.probe_noise);
  }
  Transformed inverse(const Tensor& x, const QuantityInputs& in) override {
    check_condition("cnf", in.condition, x.size(0), 0);
    return cnf().integrate(x, 1, 0, in.probe_noise);
  }

 private:
  ContinuousNormalizingFlow& cnf() { return static_cast<ContinuousNormalizingFlow&>(flow()); }
  OdeOptions own_;
};

class FlowMatchingModel final : public Model {
 public:
  FlowMatchingModel(const ConfigReader& config, const FlowMatchingOptions& options,
                    Generator& generator, DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  std::vector<std::string> quantities() const override {
    return {"velocity", "loss", "generate", "sample"};
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

std::unique_ptr<Model> make_planar(const ConfigReader& c, Generator& g, DType dtype) {
  return std::make_unique<DensityModel>(
      c, std::make_unique<NormalizingFlow>(c.integer("dim", 1), c.integer("n_flows", 1), g, dtype));
}

std::unique_ptr<Model> make_realnvp(const ConfigReader& c, Generator& g, DType dtype) {
  RealNVPOptions o;
  o.dim = c.integer("dim", 1);
  o.n_flows = c.integer("n_flows", 1);
  o.hidden = c.integer("hidden", 1);
  o.log_scale_bound = c.real("log_scale_bound", 0);
  o.condition_dim = c.integer("condition_dim", 0);
  o.permute = c.boolean("permute");
  o.actnorm = c.boolean("actnorm");
  return std::make_unique<DensityModel>(c, std::make_unique<RealNVP>(o, g, dtype));
}

std::unique_ptr<Model> make_cnf(const ConfigReader& c, Generator& g, DType dtype) {
  CNFOptions o;
  o.dim = c.integer("dim", 1);
  o.hidden = c.integer("hidden", 1);
  o.trace = c.choice("trace", {"hutchinson", "exact"}) == 0 ? Trace::hutchinson : Trace::exact;
  o.probe =
      c.choice("probe", {"rademacher", "gaussian"}) == 0 ? Probe::rademacher : Probe::gaussian;
  o.solver.solver = fixed_step_solvers()[c.choice("solver", fixed_step_solvers())];
  o.solver.n_steps = c.integer("n_steps", 1);
  return std::make_unique<CnfModel>(c, std::make_unique<ContinuousNormalizingFlow>(o, g, dtype));
}

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

struct Entry {
  std::string name;
  std::vector<ConfigKey> keys;
  std::unique_ptr<Model> (*make)(const ConfigReader&, Generator&, DType);
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
      {"planar",
       {{"dim", "2", "dimension of the data"}, {"n_flows", "10", "number of planar layers"}},
       make_planar},
      {"realnvp",
       {{"dim", "2", "dimension of the data, at least 2"},
        {"n_flows", "8", "number of coupling layers"},
        {"hidden", "256", "width of the scale and translate nets"},
        {"log_scale_bound", "3", "bound c of the log-scale c tanh(raw / c); 0 = none"},
        {"condition_dim", "0", "width of the condition; 0 = unconditional"},
        {"permute", "false", "a fixed random permutation after every coupling"},
        {"actnorm", "false", "a trained scale and shift before every coupling"}},
       make_realnvp},
      {"cnf",
       {{"dim", "2", "dimension of the data"},
        {"hidden", "64", "width of the velocity field"},
        {"trace", "hutchinson", "trace of the Jacobian: hutchinson or exact"},
        {"probe", "rademacher", "probe of the estimate: rademacher or gaussian"},
        {"solver", "rk4", "euler, midpoint, heun or rk4"},
        {"n_steps", "20", "steps of a solve"}},
       make_cnf},
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
  return all;
}

const Entry& entry(const std::string& name) {
  for (const Entry& e : entries()) {
    if (e.name == name) return e;
  }
  const auto names = model_names();
  const std::string near = nearest_name(name, names);
  throw ValueError(fmt::format("unknown model \"{}\"{}; accepted are {}", name,
                               near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                               fmt::join(names, ", ")));
}

}  // namespace

std::vector<std::string> model_names() {
  std::vector<std::string> out;
  for (const Entry& e : entries()) out.push_back(e.name);
  return out;
}

Tensor Model::evaluate(const std::string& quantity, const QuantityInputs& given,
                       const QuantityOptions& options, Generator& generator) {
  const auto have = quantities();
  if (std::find(have.begin(), have.end(), quantity) == have.end()) {
    const std::string near = nearest_name(quantity, have);
    throw ValueError(fmt::format("model {}: no quantity \"{}\"{}; it has {}", name_, quantity,
                                 near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                                 fmt::join(have, ", ")));
  }
  if (options.n_samples < 1) {
    throw ValueError(fmt::format("model {}: {} samples asked for; at least 1 is accepted", name_,
                                 options.n_samples));
  }
  if (options.n_steps < 0) {
    throw ValueError(fmt::format(
        "model {}: n_steps = {} given; at least 1 is accepted, or 0 for the model's own", name_,
        options.n_steps));
  }
  QuantityInputs inputs = given;
  const DType dtype = dtype_of(*this);
  for (Tensor* t : {&inputs.input, &inputs.time, &inputs.condition, &inputs.noise,
                    &inputs.probe_noise, &inputs.step_noise}) {
    if (t->defined() && is_floating(t->dtype()) && t->dtype() != dtype) *t = cast(*t, dtype);
  }
  return compute(quantity, inputs, options, generator);
}

std::vector<ConfigKey> config_keys(const std::string& model) { return entry(model).keys; }

std::unique_ptr<Model> make_model(const std::string& name, const Config& given,
                                  Generator& generator, DType dtype) {
  const Entry& e = entry(name);
  return e.make(ConfigReader(name, e.keys, given), generator, dtype);
}

}  // namespace flowgrad
