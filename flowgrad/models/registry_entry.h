#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flowgrad/models/config.h"
#include "flowgrad/models/flow.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/ode.h"
#include "flowgrad/models/registry.h"

/// What the files of the registry share: each lists its models, registry.cpp joins the lists.
namespace flowgrad::registry {

struct Entry {
  std::string name;
  std::vector<ConfigKey> keys;
  std::unique_ptr<Model> (*make)(const ConfigReader&, Generator&, DType);
};

std::vector<Entry> density_entries();     // planar, realnvp, spline, glow
std::vector<Entry> continuous_entries();  // cnf
std::vector<Entry> generator_entries();   // flow_matching and its kin, diffusion
std::vector<Entry> policy_entries();      // flow_vla, hierarchical

/// The key condition_dim of every conditional model.
ConfigKey condition_key();
/// The array, or ValueError naming model, quantity and array where it is undefined.
const Tensor& need(const Model& m, const std::string& quantity, const char* name, const Tensor& t);
DType dtype_of(Model& m);
[[noreturn]] void refuse_option(const Model& m, const char* option, const std::string& given,
                                const char* accepted);
void refuse_guidance(const Model& m, const QuantityOptions& o);
/// A model's own solver, changed by the options: n_steps alone, where that solver is adaptive, asks
/// for rk4.
OdeOptions solver_for(OdeOptions own, const QuantityOptions& o);
/// A model's own way to generate, with such a solver and the options' guidance.
GenerateOptions sampling_for(GenerateOptions own, const QuantityOptions& o);
/// Rows to draw, from the arrays given: one row of a condition serves any number.
int64_t rows_of(const QuantityInputs& in, const QuantityOptions& o);
/// The noise to start from, (rows, width): as given, or drawn where the model is.
Tensor noise_of(Model& m, const QuantityInputs& in, const QuantityOptions& o, Generator& generator);

/// Any Flow behind the door; those with a solver prepare it before each quantity.
class DensityModel : public Model {
 public:
  DensityModel(const ConfigReader& config, std::unique_ptr<Flow> flow)
      : Model(config.model(), config.values()), flow_(std::move(flow)) {}
  Module& module() override { return *flow_; }
  int64_t width() const override { return flow_->dim(); }
  std::vector<std::string> quantities() const override {
    return {"forward", "inverse", "log_prob", "log_det", "loss", "sample"};
  }
  void initialize_from(const QuantityInputs& batch) override {
    flow_->initialize_from(batch.input, batch.condition);
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override;
  virtual void prepare(const QuantityOptions& o);
  virtual Transformed forward(const Tensor& z, const QuantityInputs& in) {
    return flow_->forward(z, in.condition);
  }
  virtual Transformed inverse(const Tensor& x, const QuantityInputs& in) {
    return flow_->inverse(x, in.condition);
  }
  Flow& flow() { return *flow_; }

 private:
  Tensor draw(const QuantityInputs& in, const QuantityOptions& o, Generator& generator);

  std::unique_ptr<Flow> flow_;
};

}  // namespace flowgrad::registry
