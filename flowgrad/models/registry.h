#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/models/module.h"

/// Every model behind one door: made by name and keys, asked for quantities by name. This is what
/// the command line, the interchange with other frameworks and the tests of all models use.
namespace flowgrad {

using Config = std::map<std::string, std::string>;

struct ConfigKey {
  std::string name;
  std::string default_value;
  std::string description;
};

/// Arrays that a quantity may read; undefined where not given. Draws that are given are used as
/// they are, so a stochastic quantity becomes a function. Floating arrays are converted to the
/// model's dtype. A condition of one row serves all rows.
struct QuantityInputs {
  Tensor input = {};
  Tensor time = {};
  Tensor condition = {};
  Tensor noise = {};
  Tensor probe_noise = {};
  /// Unit noise of every DDPM step, (n_timesteps, N, A).
  Tensor step_noise = {};
  /// What a robot sees (N, 3 cameras, H, W), reads (N, L) int64 and knows of itself (N, R).
  Tensor images = {};
  Tensor tokens = {};
  Tensor robot = {};

  /// Every array, for what is done to all of them.
  std::array<Tensor*, 9> all() {
    return {&input, &time, &condition, &noise, &probe_noise, &step_noise, &images, &tokens, &robot};
  }
};

struct QuantityOptions {
  /// Steps of a solver or sampler; 0 takes the model's own.
  int64_t n_steps = 0;
  /// Solver name; empty takes the model's own.
  std::string solver = {};
  /// Rows to draw where neither noise nor a condition of several rows says.
  int64_t n_samples = 1;
  /// Classifier-free guidance weight for conditional generation; 1 is off.
  double guidance = 1;
};

class Model {
 public:
  Model(std::string name, Config config) : name_(std::move(name)), config_(std::move(config)) {}
  virtual ~Model() = default;
  const std::string& name() const { return name_; }
  /// Every key with its value, defaults included.
  const Config& config() const { return config_; }
  virtual Module& module() = 0;
  /// Values of one row of data: the key dim or action_dim, 0 where a model has neither.
  virtual int64_t width() const;
  /// Numbers of the noise that one row is made from.
  virtual int64_t noise_width() const { return width(); }
  /// Width C of the condition (N, C); 0 for a model that takes none.
  int64_t condition_width() const;
  /// Names that `evaluate` accepts, e.g. forward, inverse, log_prob, log_det, velocity,
  /// noise_prediction, loss, generate, sample.
  virtual std::vector<std::string> quantities() const = 0;
  bool has(const std::string& quantity) const;
  /// Raises ValueError for a quantity that the model lacks (naming those it has), a missing input
  /// (naming it) or a bad option; ShapeError for arrays that do not fit.
  Tensor evaluate(const std::string& quantity, const QuantityInputs& inputs,
                  const QuantityOptions& options, Generator& generator);
  /// Random images, tokens and numbers of n moments, for a model that sees and reads; else nothing.
  /// Images are small where their size is free.
  virtual QuantityInputs observation(int64_t /*n*/, Generator& /*generator*/) { return {}; }
  /// Data-dependent initialization, to be called with the first training batch; see Flow.
  virtual void initialize_from(const QuantityInputs&) {}
  /// The training loss as a scalar on the tape: the matching loss, or minus the mean
  /// log-likelihood, and what parts beside them have for losses of their own.
  Tensor loss(const QuantityInputs& inputs, Generator& generator) {
    return evaluate(training_quantity(), inputs, {}, generator);
  }
  /// `loss` in two parts, of which a graph holds the second: generators of the model's own are set
  /// by a stream of the caller's, so that a seed fixes the whole result; and the loss draws.
  virtual void seed_own_generators(Generator& /*generator*/) {}
  Tensor loss_after_seeding(const QuantityInputs& inputs, Generator& generator) {
    return compute(training_quantity(), converted(inputs), {}, generator);
  }
  /// Those generators.
  virtual std::vector<Generator*> own_generators() { return {}; }
  /// The quantity that `loss` evaluates.
  virtual std::string training_quantity() const { return "loss"; }

 protected:
  /// `quantity` is one of quantities(), n_samples is at least 1 and floating inputs have the
  /// model's dtype.
  virtual Tensor compute(const std::string& quantity, const QuantityInputs& inputs,
                         const QuantityOptions& options, Generator& generator) = 0;

 private:
  QuantityInputs converted(QuantityInputs inputs);

  std::string name_;
  Config config_;
};

/// Names that make_model accepts.
std::vector<std::string> model_names();
/// Keys of a model with their defaults; ValueError for an unknown name.
std::vector<ConfigKey> config_keys(const std::string& model);
/// A model with fresh weights. ValueError for an unknown name or key (with the nearest known one),
/// or a value out of range (naming key, value and what is accepted).
std::unique_ptr<Model> make_model(const std::string& name, const Config& given,
                                  Generator& generator, DType dtype = DType::float32);

}  // namespace flowgrad
