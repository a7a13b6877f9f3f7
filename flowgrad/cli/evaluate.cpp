#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"

// eval, grad, init: the door through which arrays and weights are exchanged with other frameworks.
namespace flowgrad::cli {
namespace {

struct QuantityArguments {
  CommonOptions common;
  ModelOptions model;
  QuantityOptions options;
  std::string quantity, input, time, condition, noise, probe_noise, output;
};

void add_arrays(CLI::App& sub, QuantityArguments& a) {
  sub.add_option("--input", a.input, "Array (.npy), rows (N, D)");
  sub.add_option("--time", a.time, "Array (.npy): flow times (N) in [0, 1], or int64 diffusion steps");
  sub.add_option("--condition", a.condition, "Array (.npy): condition or state, rows (N, C)");
  sub.add_option("--noise", a.noise, "Array (.npy): the noise to use instead of a draw");
  sub.add_option("--probe-noise", a.probe_noise, "Array (.npy): the trace probe to use instead of a draw");
}

QuantityInputs load_inputs(const QuantityArguments& a) {
  const DType dtype = dtype_of(a.common);
  return {load_array(a.input, dtype), load_array(a.time, dtype), load_array(a.condition, dtype),
          load_array(a.noise, dtype), load_array(a.probe_noise, dtype)};
}

void run_eval(const QuantityArguments& a) {
  apply(a.common);
  check_output(a.output);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  NoGrad off;
  model->module().train(false);
  const Tensor y = model->evaluate(a.quantity, load_inputs(a), a.options, generator);
  save_npy(a.output, y.detach());
  if (a.common.json) {
    fmt::print("{{\"quantity\": {}, \"output\": {}, \"shape\": [{}]}}\n", json_string(a.quantity),
               json_string(a.output), fmt::join(y.shape().begin(), y.shape().end(), ", "));
  } else {
    fmt::print("{} {} {} -> {}\n", a.quantity, y.shape().to_string(), name_of(y.dtype()), a.output);
  }
}

void run_grad(const QuantityArguments& a) {
  apply(a.common);
  check_output(a.output);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  const Tensor value = model->evaluate(a.quantity, load_inputs(a), a.options, generator);
  const Tensor objective = mean(value);
  std::vector<Tensor> leaves;
  const NamedTensors parameters = model->module().parameters();
  for (const auto& [name, p] : parameters) leaves.push_back(p);
  const auto gradients = grad(std::span(&objective, 1), leaves, {}, {.allow_unused = true});
  NamedTensors out;
  for (size_t i = 0; i < leaves.size(); ++i) {
    out.emplace_back(parameters[i].first, gradients[i].defined() ? gradients[i] : zeros_like(leaves[i]));
  }
  save_safetensors(a.output, out, weights_metadata(*model));
  if (a.common.json) {
    fmt::print("{{\"objective\": {}, \"value\": {}, \"output\": {}}}\n", json_string("mean of " + a.quantity),
               objective.item(), json_string(a.output));
  } else {
    fmt::print("mean of {} = {:.9g}; {} gradients -> {}\n", a.quantity, objective.item(), out.size(), a.output);
  }
}

struct InitArguments {
  CommonOptions common;
  ModelOptions model;
  std::string output;
};

void run_init(const InitArguments& a) {
  apply(a.common);
  check_output(a.output);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  save_safetensors(a.output, model->module().state_dict(), weights_metadata(*model));
  const int64_t count = model->module().parameter_count();
  if (a.common.json) {
    fmt::print("{{\"model\": {}, \"parameters\": {}, \"output\": {}}}\n", json_string(model->name()), count,
               json_string(a.output));
  } else {
    fmt::print("{}: {} parameters -> {}\n", model->name(), count, a.output);
  }
}

}  // namespace

void add_eval(CLI::App& app) {
  auto a = std::make_shared<QuantityArguments>();
  CLI::App* sub = app.add_subcommand("eval", "Compute a quantity of a model for given arrays");
  add_model(*sub, a->model, true);
  sub->add_option("--quantity", a->quantity,
                  "forward, inverse, log_prob, log_det, velocity, noise_prediction, loss, generate or sample")
      ->required();
  add_arrays(*sub, *a);
  sub->add_option("--output", a->output, "Array to write (.npy)")->required();
  sub->add_option("--n-steps", a->options.n_steps, "Steps of the solver or sampler; 0 = the model's own")
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}))
      ->capture_default_str();
  sub->add_option("--solver", a->options.solver, "euler, midpoint, heun, rk4; ddpm or ddim for diffusion");
  sub->add_option("--n", a->options.n_samples, "Rows to draw where no array says")
      ->check(CLI::Range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  sub->add_option("--guidance", a->options.guidance, "Classifier-free guidance weight; 1 = off")->capture_default_str();
  add_common(*sub, a->common);
  sub->callback([a] { run_eval(*a); });
}

void add_grad(CLI::App& app) {
  auto a = std::make_shared<QuantityArguments>();
  a->quantity = "loss";
  CLI::App* sub = app.add_subcommand("grad", "Parameter gradients of a mean loss, as safetensors");
  add_model(*sub, a->model, true);
  sub->add_option("--quantity", a->quantity,
                  "Mean of this: loss (minus the mean log_prob for a density), or log_prob")
      ->check(CLI::IsMember({"loss", "log_prob"}))
      ->capture_default_str();
  add_arrays(*sub, *a);
  sub->add_option("--output", a->output, "Gradients to write (.safetensors), names as the weights")->required();
  add_common(*sub, a->common);
  sub->callback([a] { run_grad(*a); });
}

void add_init(CLI::App& app) {
  auto a = std::make_shared<InitArguments>();
  CLI::App* sub = app.add_subcommand("init", "Fresh weights of a model, with PyTorch's names");
  add_model(*sub, a->model, false);
  sub->add_option("--output", a->output, "Weights to write (.safetensors)")->required();
  add_common(*sub, a->common);
  sub->callback([a] { run_init(*a); });
}

}  // namespace flowgrad::cli
