#include "flowgrad/models/registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/device_graph.h"
#include "flowgrad/models/registry_entry.h"

namespace flowgrad {
namespace registry {

ConfigKey condition_key() {
  return {"condition_dim", "0", "width of the condition; 0 = unconditional"};
}

const Tensor& need(const Model& m, const std::string& quantity, const char* name, const Tensor& t) {
  if (t.defined()) return t;
  throw ValueError(
      fmt::format("model {}: quantity \"{}\" needs an array for {}", m.name(), quantity, name));
}

DType dtype_of(Model& m) { return m.module().dtype(); }

void refuse_option(const Model& m, const char* option, const std::string& given,
                   const char* accepted) {
  throw ValueError(fmt::format("model {}: {} {} given; {}", m.name(), option, given, accepted));
}

void refuse_guidance(const Model& m, const QuantityOptions& o) {
  if (o.guidance != 1)
    refuse_option(m, "guidance", fmt::format("{}", o.guidance), "1 is accepted, it has none");
}

Tensor noise_of(Model& m, const QuantityInputs& in, const QuantityOptions& o,
                Generator& generator) {
  if (in.noise.defined()) return in.noise;
  return randn({rows_of(in, o), m.noise_width()}, generator, dtype_of(m), m.module().device());
}

OdeOptions solver_for(OdeOptions own, const QuantityOptions& o) {
  if (!o.solver.empty()) {
    own.solver = o.solver;
  } else if (o.n_steps > 0 && is_adaptive(own)) {
    own.solver = "rk4";
  }
  if (o.n_steps > 0) own.n_steps = o.n_steps;
  return own;
}

GenerateOptions sampling_for(GenerateOptions own, const QuantityOptions& o) {
  own.guidance = o.guidance;
  own.solver = solver_for(own.solver, o);
  return own;
}

int64_t rows_of(const QuantityInputs& in, const QuantityOptions& o) {
  return in.condition.defined() && in.condition.rank() == 2 && in.condition.size(0) > 1
             ? in.condition.size(0)
             : o.n_samples;
}

}  // namespace registry

namespace {

using registry::Entry;

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = [] {
    std::vector<Entry> out = registry::density_entries();
    for (auto& list : {registry::continuous_entries(), registry::generator_entries(),
                       registry::policy_entries()})
      out.insert(out.end(), list.begin(), list.end());
    return out;
  }();
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

bool Model::has(const std::string& quantity) const {
  const auto all = quantities();
  return std::find(all.begin(), all.end(), quantity) != all.end();
}

int64_t Model::condition_width() const {
  for (const char* key : {"condition_dim", "state_dim"}) {
    if (const auto found = config_.find(key); found != config_.end())
      return std::stoll(found->second);
  }
  return 0;
}

int64_t Model::width() const {
  for (const char* key : {"dim", "action_dim"}) {
    if (const auto found = config_.find(key); found != config_.end())
      return std::stoll(found->second);
  }
  return 0;
}

Tensor Model::evaluate(const std::string& quantity, const QuantityInputs& given,
                       const QuantityOptions& options, Generator& generator) {
  if (!has(quantity)) {
    const auto have = quantities();
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
  if (options.n_steps > 0 && is_adaptive({.solver = options.solver})) {
    throw ValueError(fmt::format(
        "model {}: n_steps = {} given with solver {}, which chooses its steps; it is accepted with "
        "solvers of equal steps",
        name_, options.n_steps, options.solver));
  }
  if (is_capturing() && !own_generators().empty()) {
    throw DeviceError(
        fmt::format("model {}: evaluated while a graph is captured, which would set its own "
                    "generators once for all runs; seed_own_generators before each run and "
                    "loss_after_seeding in the graph are accepted",
                    name_));
  }
  const QuantityInputs inputs = converted(given);
  seed_own_generators(generator);
  return compute(quantity, inputs, options, generator);
}

QuantityInputs Model::converted(QuantityInputs inputs) {
  const DType dtype = registry::dtype_of(*this);
  for (Tensor* t : inputs.all()) {
    if (t->defined() && is_floating(t->dtype()) && t->dtype() != dtype) *t = cast(*t, dtype);
  }
  return inputs;
}

std::vector<ConfigKey> config_keys(const std::string& model) { return entry(model).keys; }

std::unique_ptr<Model> make_model(const std::string& name, const Config& given,
                                  Generator& generator, DType dtype) {
  const Entry& e = entry(name);
  return e.make(ConfigReader(name, e.keys, given), generator, dtype);
}

}  // namespace flowgrad
