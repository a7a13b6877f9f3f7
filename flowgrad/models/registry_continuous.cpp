#include "flowgrad/models/registry_entry.h"

#include <fmt/format.h>

#include <array>

#include "flowgrad/models/cnf.h"

namespace flowgrad::registry {
namespace {

class CnfModel final : public DensityModel {
 public:
  CnfModel(const ConfigReader& config, std::unique_ptr<ContinuousNormalizingFlow> flow)
      : DensityModel(config, std::move(flow)), own_(cnf().options().solver) {}

  void seed_own_generators(Generator& generator) override {
    cnf().probe_generator().set_state(generator.seed(),
                                      (generator.next_stream() << 20) | (uint64_t{1} << 62));
  }
  std::vector<Generator*> own_generators() override { return {&cnf().probe_generator()}; }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    if (q != "loss") return DensityModel::compute(q, in, o, generator);
    refuse_guidance(*this, o);
    prepare(o);
    return cnf().loss(need(*this, q, "input", in.input), in.condition, probe_of(in));
  }
  void prepare(const QuantityOptions& o) override { cnf().set_solver(solver_for(own_, o)); }
  Transformed forward(const Tensor& z, const QuantityInputs& in) override {
    return cnf().integrate(z, 0, 1, probe_of(in), in.condition);
  }
  Transformed inverse(const Tensor& x, const QuantityInputs& in) override {
    return cnf().integrate(x, 1, 0, probe_of(in), in.condition);
  }

 private:
  const Tensor& probe_of(const QuantityInputs& in) {
    if (in.probe_noise.defined() && cnf().options().trace == Trace::exact)
      throw ValueError("model cnf: a probe given with trace exact, which has none");
    return in.probe_noise;
  }
  ContinuousNormalizingFlow& cnf() { return static_cast<ContinuousNormalizingFlow&>(flow()); }
  OdeOptions own_;
};

std::unique_ptr<Model> make_cnf(const ConfigReader& c, Generator& g, DType dtype) {
  CNFOptions o;
  o.dim = c.integer("dim", 1);
  o.hidden = c.integer("hidden", 1);
  o.trace = c.choice("trace", {"hutchinson", "exact"}) == 0 ? Trace::hutchinson : Trace::exact;
  o.probe =
      c.choice("probe", {"rademacher", "gaussian"}) == 0 ? Probe::rademacher : Probe::gaussian;
  o.condition_dim = c.integer("condition_dim", 0);
  o.solver.solver = ode_solvers()[c.choice("solver", ode_solvers())];
  o.solver.n_steps = c.integer("n_steps", 1);
  if (is_adaptive(o.solver) && o.solver.n_steps != OdeOptions().n_steps) {
    throw ValueError(fmt::format(
        "model cnf: n_steps = {} given with solver dopri5, whose steps follow from rtol and atol; "
        "it is accepted with {}",
        o.solver.n_steps, fmt::join(fixed_step_solvers(), ", ")));
  }
  o.solver.rtol = c.real("rtol", 0);
  o.solver.atol = c.real("atol", 0);
  o.per_row = c.boolean("per_row");
  constexpr std::array kGradients = {OdeGradient::direct, OdeGradient::checkpointed,
                                     OdeGradient::adjoint};
  o.solver.gradient = kGradients[c.choice("gradient", {"direct", "checkpointed", "adjoint"})];
  o.kinetic = c.real("kinetic", 0);
  o.jacobian_norm = c.real("jacobian_norm", 0);
  o.redraw_probe = c.boolean("redraw_probe");
  return std::make_unique<CnfModel>(c, std::make_unique<ContinuousNormalizingFlow>(o, g, dtype));
}

}  // namespace

std::vector<Entry> continuous_entries() {
  return {
      {"cnf",
       {{"dim", "2", "dimension of the data"},
        {"hidden", "64", "width of the velocity field"},
        {"trace", "hutchinson", "trace of the Jacobian: hutchinson or exact"},
        {"probe", "rademacher", "probe of the estimate: rademacher or gaussian"},
        condition_key(),
        {"solver", "dopri5", "dopri5, or in equal steps euler, midpoint, heun, rk4, dopri5_fixed"},
        {"n_steps", "20", "steps of a solve by an equal-step solver"},
        {"rtol", "1e-05", "relative tolerance of dopri5"},
        {"atol", "1e-05", "absolute tolerance of dopri5"},
        {"per_row", "false", "steps of dopri5 of its own for every row of a batch"},
        {"gradient", "direct", "of a solve: direct, checkpointed or adjoint"},
        {"kinetic", "0", "weight of the kinetic energy int |v|^2 dt in the loss"},
        {"jacobian_norm", "0", "weight of int |dv/dx|_F^2 dt in the loss"},
        {"redraw_probe", "false",
         "a counter-example: a new probe in every evaluation, which breaks the solver's order"}},
       make_cnf},
  };
}

}  // namespace flowgrad::registry
