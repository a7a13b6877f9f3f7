#include "flowgrad/models/registry_entry.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/glow.h"
#include "flowgrad/models/planar.h"
#include "flowgrad/models/realnvp.h"
#include "flowgrad/models/spline.h"

namespace flowgrad::registry {

Tensor DensityModel::compute(const std::string& q, const QuantityInputs& in,
                             const QuantityOptions& o, Generator& generator) {
  refuse_guidance(*this, o);
  prepare(o);
  if (q == "sample") return draw(in, o, generator);
  const Tensor& x = need(*this, q, "input", in.input);
  if (q == "forward") return forward(x, in).value;
  if (q == "log_det") return forward(x, in).log_det;
  const Transformed z = inverse(x, in);
  if (q == "inverse") return z.value;
  const Tensor log_prob = flow_->base_log_prob(z.value) + z.log_det;
  return q == "log_prob" ? log_prob : -mean(log_prob);
}

void DensityModel::prepare(const QuantityOptions& o) {
  if (o.n_steps != 0)
    refuse_option(*this, "n_steps", fmt::format("{}", o.n_steps),
                  "0 is accepted, it has no solver");
  if (!o.solver.empty())
    refuse_option(*this, "solver", o.solver, "none is accepted, it has no solver");
}

Tensor DensityModel::draw(const QuantityInputs& in, const QuantityOptions& o,
                          Generator& generator) {
  if (in.noise.defined()) {
    NoGrad off;
    return forward(in.noise, in).value;
  }
  return flow_->sample(rows_of(in, o), generator, in.condition);
}

namespace {

std::unique_ptr<Model> make_planar(const ConfigReader& c, Generator& g, DType dtype) {
  return std::make_unique<DensityModel>(
      c, std::make_unique<NormalizingFlow>(c.integer("dim", 1), c.integer("n_flows", 1), g, dtype));
}

/// The keys that the stacks of couplings share, into options that have these fields.
template <class Options>
void read_stack(const ConfigReader& c, Options& o) {
  o.dim = c.integer("dim", 1);
  o.n_flows = c.integer("n_flows", 1);
  o.hidden = c.integer("hidden", 1);
  o.condition_dim = c.integer("condition_dim", 0);
  o.permute = c.boolean("permute");
  o.actnorm = c.boolean("actnorm");
  o.base_components = c.integer("base_components", 0);
}

/// A model's own keys, and those of a stack that have one default.
std::vector<ConfigKey> with_stack_keys(std::vector<ConfigKey> keys) {
  const std::vector<ConfigKey> shared = {
      condition_key(),
      {"permute", "false", "a fixed random permutation after every coupling"},
      {"actnorm", "false", "a trained scale and shift before every coupling, seen from the base"},
      {"base_components", "0", "Gaussians of a trained mixture base; 0 = N(0, I)"}};
  keys.insert(keys.end(), shared.begin(), shared.end());
  return keys;
}

std::unique_ptr<Model> make_realnvp(const ConfigReader& c, Generator& g, DType dtype) {
  RealNVPOptions o;
  read_stack(c, o);
  o.log_scale_bound = c.real("log_scale_bound", 0);
  return std::make_unique<DensityModel>(c, std::make_unique<RealNVP>(o, g, dtype));
}

std::unique_ptr<Model> make_spline(const ConfigReader& c, Generator& g, DType dtype) {
  SplineFlowOptions o;
  read_stack(c, o);
  o.bins = c.integer("bins", 1);
  o.tail = c.real("tail", 0);
  return std::make_unique<DensityModel>(c, std::make_unique<SplineFlow>(o, g, dtype));
}

std::unique_ptr<Model> make_glow(const ConfigReader& c, Generator& g, DType dtype) {
  GlowOptions o;
  o.height = c.integer("height", 1);
  o.width = c.integer("width", 1);
  o.channels = c.integer("channels", 1);
  o.levels = c.integer("levels", 1);
  o.steps = c.integer("steps", 1);
  o.hidden = c.integer("hidden", 1);
  o.condition_dim = c.integer("condition_dim", 0);
  return std::make_unique<DensityModel>(c, std::make_unique<Glow>(o, g, dtype));
}

}  // namespace

std::vector<Entry> density_entries() {
  return {
      {"planar",
       {{"dim", "2", "dimension of the data"}, {"n_flows", "10", "number of planar layers"}},
       make_planar},
      {"realnvp",
       with_stack_keys(
           {{"dim", "2", "dimension of the data, at least 2"},
            {"n_flows", "8", "number of coupling layers"},
            {"hidden", "256", "width of the scale and translate nets"},
            {"log_scale_bound", "3", "bound c of the log-scale c tanh(raw / c); 0 = none"}}),
       make_realnvp},
      {"spline",
       with_stack_keys({{"dim", "2", "dimension of the data, at least 2"},
                        {"n_flows", "4", "number of coupling layers"},
                        {"bins", "8", "bins of every spline"},
                        {"tail", "3", "splines act on [-tail, tail], outside is the identity"},
                        {"hidden", "64", "width of the nets"}}),
       make_spline},
      {"glow",
       {{"height", "28", "height of the images, a multiple of 2^levels"},
        {"width", "28", "width of the images, a multiple of 2^levels"},
        {"channels", "1", "channels of the images; a row holds them in C-order"},
        {"levels", "2", "levels, each of which halves height and width"},
        {"steps", "4", "ActNorm, 1x1 convolution and coupling per level"},
        {"hidden", "64", "channels inside the coupling nets"},
        condition_key()},
       make_glow},
  };
}

}  // namespace flowgrad::registry
