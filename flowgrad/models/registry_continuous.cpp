#include "flowgrad/models/registry_entry.h"

#include "flowgrad/models/cnf.h"

namespace flowgrad::registry {
namespace {

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

}  // namespace

std::vector<Entry> continuous_entries() {
  return {
      {"cnf",
       {{"dim", "2", "dimension of the data"},
        {"hidden", "64", "width of the velocity field"},
        {"trace", "hutchinson", "trace of the Jacobian: hutchinson or exact"},
        {"probe", "rademacher", "probe of the estimate: rademacher or gaussian"},
        {"solver", "rk4", "euler, midpoint, heun or rk4"},
        {"n_steps", "20", "steps of a solve"}},
       make_cnf},
  };
}

}  // namespace flowgrad::registry
