#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/core/text.h"
#include "flowgrad/models/config.h"

// eval, grad, init: the door through which arrays and weights are exchanged with other frameworks.
namespace flowgrad::cli {
namespace {

struct QuantityArguments {
  CommonOptions common;
  ModelOptions model;
  QuantityOptions options;
  std::string quantity, input, time, condition, noise, probe_noise, step_noise, output;
  std::string images, tokens, robot;
};

void add_arrays(Command& c, QuantityArguments& a) {
  c.group("Arrays");
  c.file("--input", a.input, "Rows (N, D), .npy of float32 or float64; for loss the data x1");
  c.file("--time", a.time,
         "Flow times (N) from 0 = noise to 1 = data, or int64 diffusion steps (N), .npy");
  c.file("--condition", a.condition,
         "Condition or state, rows (N, C), .npy; one row serves a whole batch");
  c.file("--images", a.images, "What a robot sees, (N, 3 cameras, H, W), .npy, taken as given");
  c.file("--tokens", a.tokens, "What it reads, (N, L) int64, .npy");
  c.file("--robot", a.robot, "What it knows of itself, (N, R), .npy");
  c.file("--noise", a.noise, "The noise to use in place of a draw, (N, D), .npy");
  c.file("--probe-noise", a.probe_noise,
         "The trace probe of a log_prob by a solve in place of a draw, (N, D), .npy");
}

void add_solver(Command& c, QuantityOptions& o) {
  c.group("Solver");
  c.integer("--n-steps", o.n_steps, "Steps of the solver or sampler; 0 = the model's own", 0,
            1000000);
  c.text(
      "--solver", o.solver,
      "dopri5, euler, midpoint, heun, rk4 or dopri5_fixed; for diffusion ddpm or ddim; empty = the "
      "model's own",
      "NAME");
}

QuantityInputs load_inputs(const QuantityArguments& a) {
  const DType dtype = dtype_of(a.common);
  return on_device({.input = load_array("--input", a.input, dtype),
                    .time = load_array("--time", a.time, dtype, true),
                    .condition = load_array("--condition", a.condition, dtype),
                    .noise = load_array("--noise", a.noise, dtype),
                    .probe_noise = load_array("--probe-noise", a.probe_noise, dtype),
                    .step_noise = load_array("--step-noise", a.step_noise, dtype),
                    .images = load_array("--images", a.images, dtype),
                    .tokens = load_array("--tokens", a.tokens, dtype, true),
                    .robot = load_array("--robot", a.robot, dtype)},
                   device_of(a.common));
}

/// Refuses what the quantity does not read, which would be ignored, and the lack of what it needs.
void check_quantity(const QuantityArguments& a, const Command& command, const Model& model) {
  const std::string& q = a.quantity;
  if (!model.has(q)) {
    const auto have = model.quantities();
    const std::string near = nearest_name(q, have);
    throw UsageError(fmt::format(
        "--quantity: model {}: no quantity {}{}; it has {}", model.name(), quote(q),
        near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near), fmt::join(have, ", ")));
  }
  const bool draws = q == "sample" || q == "generate" || q == "jerk";
  const bool sees = model.has("condition");  // a feature, which --condition may give instead
  const bool looks = sees && (q == "condition" || a.condition.empty());
  const bool generator = model.has("generate");
  const bool needs_time = q == "velocity" || q == "noise_prediction" || q == "end_point";
  const auto check = [&](const char* option, bool given, bool read, bool needed, const char* what) {
    if (given && !read) {
      throw UsageError(fmt::format("{}: given, but quantity \"{}\" of model {} does not read it",
                                   option, q, model.name()));
    }
    if (!given && needed)
      throw UsageError(
          fmt::format("{}: none given; quantity \"{}\" of model {} needs an array for {}", option,
                      q, model.name(), what));
  };
  const bool of_rows = !draws && q != "condition";
  check("--input", !a.input.empty(), of_rows, of_rows, "input");
  check("--images", !a.images.empty(), looks, looks, "images");
  check("--tokens", !a.tokens.empty(), looks, looks, "tokens");
  check("--robot", !a.robot.empty(), looks, false, "robot");
  if (sees) check("--condition", !a.condition.empty(), q != "condition", false, "condition");
  const bool density = q == "log_prob";
  const bool loss = q == "loss" || q == "training_loss";
  check("--time", !a.time.empty(), generator && of_rows && !density, needs_time, "time");
  check("--noise", !a.noise.empty(), draws || (generator && loss), false, "noise");
  check("--probe-noise", !a.probe_noise.empty(), model.name() == "cnf" || (generator && density),
        false, "probe-noise");
  check("--step-noise", !a.step_noise.empty(),
        draws && model.name() == "diffusion" && a.options.solver != "ddim", false, "step-noise");
  // Densities refuse these themselves, or solve with them.
  if (generator && !draws && !density) {
    check("--n-steps", a.options.n_steps != 0, false, false, "");
    check("--solver", !a.options.solver.empty(), false, false, "");
  }
  if (generator && !draws) check("--guidance", a.options.guidance != 1, false, false, "");
  check("--n", command.given("n"), draws, false, "");
}

void warn_if_not_finite(const char* what, const Tensor& t) {
  NoGrad off;
  if (!is_floating(t.dtype()) || t.numel() == 0 || all(isfinite(t)).item() != 0) return;
  tell(fmt::format("flowgrad: warning: {} holds values that are not finite", what));
}

void run_eval(const QuantityArguments& a, const Command& command) {
  check_output("--output", a.output, {".npy"});
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  check_quantity(a, command, *model);
  NoGrad off;
  model->module().train(false);
  const Tensor y = model->evaluate(a.quantity, load_inputs(a), a.options, generator);
  warn_if_not_finite(a.quantity.c_str(), y);
  save_npy(a.output, y.detach());
  if (a.common.json) {
    print_result(
        fmt::format("{{\"quantity\": {}, \"output\": {}, \"shape\": [{}], \"dtype\": \"{}\"}}\n",
                    json_string(a.quantity), json_string(a.output),
                    fmt::join(y.shape().begin(), y.shape().end(), ", "), name_of(y.dtype())));
  } else {
    print_result(fmt::format("{} {} {} -> {}\n", a.quantity, y.shape().to_string(),
                             name_of(y.dtype()), a.output));
  }
}

void run_grad(const QuantityArguments& a, const Command& command) {
  check_output("--output", a.output, {".safetensors"});
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  check_quantity(a, command, *model);
  const QuantityInputs inputs = load_inputs(a);
  if (inputs.input.numel() == 0) {
    throw UsageError(fmt::format("--input: {}: {} given; the mean of at least one row is accepted",
                                 a.input, inputs.input.shape().to_string()));
  }
  const Tensor objective = mean(model->evaluate(a.quantity, inputs, a.options, generator));
  std::vector<Tensor> leaves;
  const NamedTensors parameters = model->module().parameters();
  for (const auto& [name, p] : parameters) leaves.push_back(p);
  const auto gradients = grad(std::span(&objective, 1), leaves, {}, {.allow_unused = true});
  NamedTensors out;
  for (size_t i = 0; i < leaves.size(); ++i) {
    out.emplace_back(parameters[i].first,
                     gradients[i].defined() ? gradients[i] : zeros_like(leaves[i]));
    warn_if_not_finite(parameters[i].first.c_str(), out.back().second);
  }
  save_safetensors(a.output, out, weights_metadata(*model));
  if (a.common.json) {
    print_result(
        fmt::format("{{\"objective\": {}, \"value\": {}, \"gradients\": {}, \"output\": {}}}\n",
                    json_string("mean of " + a.quantity), json_number(objective.item()), out.size(),
                    json_string(a.output)));
  } else {
    print_result(fmt::format("mean of {} = {:.9g}; {} gradients -> {}\n", a.quantity,
                             objective.item(), out.size(), a.output));
  }
}

struct InitArguments {
  CommonOptions common;
  ModelOptions model;
  std::string output;
};

void run_init(const InitArguments& a) {
  check_output("--output", a.output, {".safetensors"});
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  save_safetensors(a.output, model->module().state_dict(), weights_metadata(*model));
  const int64_t count = model->module().parameter_count();
  if (a.common.json) {
    print_result(fmt::format("{{\"model\": {}, \"parameters\": {}, \"output\": {}}}\n",
                             json_string(model->name()), count, json_string(a.output)));
  } else {
    print_result(fmt::format("{}: {} parameters -> {}\n", model->name(), count, a.output));
  }
}

}  // namespace

void add_eval(CLI::App& app) {
  auto a = std::make_shared<QuantityArguments>();
  Command c(app, "eval", "Compute a quantity of a model for given arrays");
  add_model(c, a->model, Weights::use);
  c.group("Quantity");
  c.text("--quantity", a->quantity,
         "forward, inverse, log_prob or log_det of a density; velocity or noise_prediction; loss; "
         "generate; sample; condition of what sees and reads",
         "NAME")
      .required();
  c.integer("--n", a->options.n_samples, "Rows to draw where no array says", 1, 10000000);
  c.real("--guidance", a->options.guidance, "Classifier-free guidance weight; 1 = off", 0, 1000);
  add_arrays(c, *a);
  c.file("--step-noise", a->step_noise,
         "Noise of all DDPM steps in place of draws, (T, N, A), .npy");
  c.file("--output", a->output, "Array to write, .npy").required();
  add_solver(c, a->options);
  add_common(c, a->common);
  c.examples(
      "flowgrad eval --model realnvp --set n_flows=4 --weights w.safetensors --quantity log_prob "
      "\\\n"
      "    --input x.npy --output y.npy");
  c.run([a](const Command& self) { run_eval(*a, self); });
}

void add_grad(CLI::App& app) {
  auto a = std::make_shared<QuantityArguments>();
  a->quantity = "loss";
  Command c(app, "grad", "Gradients of a mean loss for every parameter");
  add_model(c, a->model, Weights::use);
  c.group("Quantity");
  c.choice(
      "--quantity", a->quantity,
      "Mean of this: loss (of a density minus the mean log_prob), log_prob, or training_loss of "
      "what has parts with losses of their own",
      {"loss", "log_prob", "training_loss"});
  add_arrays(c, *a);
  c.file("--output", a->output, "Gradients to write, .safetensors with the names of the weights")
      .required();
  add_solver(c, a->options);
  add_common(c, a->common);
  c.examples(
      "flowgrad grad --model realnvp --weights w.safetensors --input x.npy --output g.safetensors");
  c.run([a](const Command& self) { run_grad(*a, self); });
}

void add_init(CLI::App& app) {
  auto a = std::make_shared<InitArguments>();
  Command c(app, "init", "Write fresh weights of a model, with PyTorch's names");
  add_model(c, a->model, Weights::none);
  c.group("Output");
  c.file("--output", a->output, "Weights to write, .safetensors").required();
  add_common(c, a->common);
  c.examples("flowgrad init --model realnvp --set dim=2 --seed 0 --output w.safetensors");
  c.run([a](const Command&) { run_init(*a); });
}

}  // namespace flowgrad::cli
