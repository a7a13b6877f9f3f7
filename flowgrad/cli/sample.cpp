#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/picture.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/text.h"

namespace flowgrad::cli {
namespace {

struct SampleArguments {
  CommonOptions common;
  ModelOptions model;
  QuantityOptions options{.n_samples = 1000};
  std::string condition, category, images, tokens, robot, state, output, picture;
};

/// One-hot rows of a class, or of all classes one after another, n of each.
Tensor class_condition(const Model& model, const std::string& text, int64_t n) {
  const int64_t classes = model.condition_width();
  if (classes == 0)
    throw UsageError(fmt::format("--class: {} given; this model has no condition", quote(text)));
  int64_t only = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), only);
  const bool number =
      error == std::errc() && end == text.data() + text.size() && only >= 0 && only < classes;
  if (text != "all" && !number) {
    throw UsageError(fmt::format("--class: {} given; 0 to {} and \"all\" are accepted", quote(text),
                                 classes - 1));
  }
  std::vector<int64_t> rows;
  for (int64_t c = 0; c < classes; ++c) {
    if (text == "all" || c == only) rows.insert(rows.end(), static_cast<size_t>(n), c);
  }
  const auto count = static_cast<int64_t>(rows.size());
  return one_hot(Tensor::from(rows, {count}), classes);
}

/// Rows in parts, so that memory does not grow with their number.
Tensor draw(Model& model, const QuantityInputs& seen, QuantityOptions options,
            Generator& generator) {
  const Tensor& condition = seen.condition;
  const int64_t kPart = seen.images.defined() ? 256 : 16384;
  const auto rows = [](const Tensor& t) { return t.defined() && t.rank() > 0 ? t.size(0) : 1; };
  const bool given = condition.defined() && condition.size(0) > 1;
  const int64_t n = given                   ? condition.size(0)
                    : rows(seen.images) > 1 ? rows(seen.images)
                                            : options.n_samples;
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < n; at += kPart) {
    const int64_t end = std::min(at + kPart, n);
    options.n_samples = end - at;
    const auto part = [&](const Tensor& t) {
      return rows(t) > 1 ? slice(t, 0, std::min(at, rows(t)), std::min(end, rows(t))) : t;
    };
    QuantityInputs inputs{
        .images = part(seen.images), .tokens = part(seen.tokens), .robot = part(seen.robot)};
    // One row serves any number of draws, but a density draws one for each row it is given.
    if (given) inputs.condition = slice(condition, 0, at, end);
    if (condition.defined() && !given)
      inputs.condition = expand(condition, {end - at, condition.size(1)});
    parts.push_back(model.evaluate("sample", inputs, options, generator));
  }
  return concat(parts, 0);
}

void report(const SampleArguments& a, const std::string& model, const Tensor& rows) {
  if (a.common.json) {
    print_result(fmt::format(
        "{{\"model\": {}, \"output\": {}, \"picture\": {}, \"shape\": [{}], \"seed\": {}}}\n",
        json_string(model), json_string(a.output),
        a.picture.empty() ? "null" : json_string(a.picture),
        fmt::join(rows.shape().begin(), rows.shape().end(), ", "), a.common.seed));
  } else {
    print_result(fmt::format("{} samples {} {} -> {}\n", model, rows.shape().to_string(),
                             name_of(rows.dtype()), a.output));
    if (!a.picture.empty()) print_result(fmt::format("picture -> {}\n", a.picture));
  }
}

/// What a policy is to see, an array each: as many rows as chunks, or one for all of them. Returns
/// how many chunks that makes.
int64_t load_observation(const SampleArguments& a, const RobotPolicyOptions& o,
                         PolicyObservation& seen) {
  const DType dtype = dtype_of(a.common);
  const bool eyes = o.encoder != "state";
  int64_t n = 0;
  const auto load = [&](const char* option, const std::string& path, Tensor& to, bool needed,
                        int64_t width, bool whole) {
    const std::string wanted =
        width > 0 ? fmt::format("rows (N, {})", width) : std::string("images (N, 3, H, W)");
    if (needed == path.empty()) {
      throw UsageError(
          needed ? fmt::format("{}: none given; this policy gets {}, .npy", option, wanted)
                 : fmt::format("{}: given for a policy that has no use for it", option));
    }
    if (!needed) return;
    to = load_array(option, path, dtype, whole);
    if (to.rank() != (width > 0 ? 2 : 4) || to.size(0) == 0 || (width > 0 && to.size(1) != width)) {
      throw IoError(fmt::format("{}: {}: shape {}; {} are accepted", option, path,
                                to.shape().to_string(), wanted));
    }
    if (to.size(0) == 1) return;
    if (n != 0 && n != to.size(0)) {
      throw IoError(
          fmt::format("{}: {}: {} rows; another array has {}, as many or one are accepted", option,
                      path, to.size(0), n));
    }
    n = to.size(0);
  };
  load("--state", a.state, seen.state, o.state_dim > 0, o.state_dim, false);
  load("--robot", a.robot, seen.robot, true, o.robot_dim, false);
  load("--tokens", a.tokens, seen.tokens, eyes, o.token_length, true);
  load("--images", a.images, seen.images, eyes, 0, false);
  return n == 0 ? a.options.n_samples : n;
}

/// Chunks of actions (N, horizon, A) of a policy, off the closed loop.
void sample_policy(const SampleArguments& a, const Command& command) {
  for (const char* option :
       {"condition", "class", "guidance", "solver", "picture", "set", "model"}) {
    if (command.given(option)) {
      throw UsageError(fmt::format(
          "--{}: given for a policy, which answers what it sees; flowgrad rollout --report draws",
          option));
    }
  }
  apply(a.common);
  const std::unique_ptr<RobotPolicy> policy =
      open_policy(a.model.weights, a.common, a.model.raw_weights);
  const Device device = policy->device();
  PolicyObservation seen;
  const int64_t n = load_observation(a, policy->options(), seen);
  if (command.given("n") && n != a.options.n_samples) {
    throw UsageError(fmt::format("--n: {} given; the arrays have {} rows, a chunk for each",
                                 a.options.n_samples, n));
  }
  const HeadSampling sampling{.n_steps = a.options.n_steps};
  const Shape row = policy->noise_shape(sampling);
  Generator generator(a.common.seed);
  const Tensor noise = randn({n, row[0], row[1]}, generator, dtype_of(a.common), device);
  const int64_t kPart = seen.images.defined() ? 256 : 16384;
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < n; at += kPart) {
    const int64_t end = std::min(at + kPart, n);
    PolicyObservation part = seen;
    for (Tensor* t : {&part.state, &part.robot, &part.tokens, &part.images}) {
      if (!t->defined()) continue;
      Shape shape = t->shape();
      shape[0] = end - at;
      *t = t->size(0) == 1 ? expand(*t, shape) : slice(*t, 0, at, end);
    }
    parts.push_back(policy->generate(on_device(part, device), slice(noise, 0, at, end), sampling));
  }
  const Tensor chunks = to(concat(parts, 0), Device::cpu());
  save_npy(a.output, chunks);
  report(a, kPolicyModel, chunks);
}

void run_sample(const SampleArguments& a, const Command& command) {
  check_output("--output", a.output, {".npy"});
  if (!a.model.weights.empty() && stored_model(a.model.weights).first == kPolicyModel)
    return sample_policy(a, command);
  if (!a.state.empty()) throw UsageError("--state: given for a model that is no policy");
  if (!a.picture.empty()) check_output("--picture", a.picture, {".svg", ".png"});
  if (!a.condition.empty() && !a.category.empty()) {
    throw UsageError("--class: given with --condition; one of them is accepted");
  }
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  if (!a.picture.empty()) check_picture("--picture", a.picture, model->width());
  const bool sees = model->has("condition");
  for (const auto& [option, file] :
       {std::pair{"--images", &a.images}, {"--tokens", &a.tokens}, {"--robot", &a.robot}}) {
    if (!file->empty() && !sees)
      throw UsageError(fmt::format("{}: given for {}, which sees nothing", option, model->name()));
  }
  model->module().train(false);
  NoGrad off;
  Tensor condition = load_array("--condition", a.condition, dtype_of(a.common));
  if (condition.defined() && condition.rank() != 2) {
    throw IoError(fmt::format("--condition: {}: shape {}; rows (N, C) are accepted", a.condition,
                              condition.shape().to_string()));
  }
  if (condition.defined() && condition.size(0) == 0)
    throw IoError(fmt::format("--condition: {}: no rows; at least 1 is accepted", a.condition));
  if (condition.defined() && condition.size(0) > 1 && command.given("n") &&
      condition.size(0) != a.options.n_samples) {
    throw UsageError(fmt::format("--n: {} given; --condition has {} rows, a sample for each",
                                 a.options.n_samples, condition.size(0)));
  }
  if (model->condition_width() > 0 && !condition.defined() && a.category.empty()) {
    throw UsageError(fmt::format("--condition: none given; {} takes rows of {} numbers, or --class",
                                 model->name(), model->condition_width()));
  }
  if (!a.category.empty()) condition = class_condition(*model, a.category, a.options.n_samples);
  const DType dtype = dtype_of(a.common);
  const QuantityInputs seen = on_device({.condition = condition,
                                         .images = load_array("--images", a.images, dtype),
                                         .tokens = load_array("--tokens", a.tokens, dtype, true),
                                         .robot = load_array("--robot", a.robot, dtype)},
                                        device_of(a.common));
  const Tensor rows = to(draw(*model, seen, a.options, generator), Device::cpu());
  save_npy(a.output, rows);
  const int columns =
      a.category == "all" ? static_cast<int>(std::min<int64_t>(a.options.n_samples, 40)) : 0;
  if (!a.picture.empty()) write_picture(a.picture, flatten(rows, 1), columns);
  report(a, model->name(), rows);
}

}  // namespace

void add_sample(CLI::App& app) {
  auto a = std::make_shared<SampleArguments>();
  Command c(app, "sample", "Draw from a trained model");
  add_model(c, a->model, Weights::use);
  c.group("Samples");
  c.integer("--n", a->options.n_samples, "Rows to draw; with --class all, of each class", 1,
            10000000);
  c.file("--condition", a->condition, "Conditions (N, C), one a sample, or one row for all, .npy");
  c.file("--images", a->images, "What a robot sees, one moment a sample, or one for all, .npy");
  c.file("--tokens", a->tokens, "What it reads, (N, L) int64, .npy");
  c.file("--robot", a->robot, "What it knows of itself, (N, R), .npy");
  c.file("--state", a->state,
         "Of a policy of imitate without eyes: the world's state, (N, S), .npy");
  c.text("--class", a->category, "Class 0, 1, ... as one-hot condition, or all", "N|all");
  c.real("--guidance", a->options.guidance, "Classifier-free guidance weight; 1 = off", 0, 1000);
  c.integer("--n-steps", a->options.n_steps, "Steps of the solver or sampler; 0 = the model's own",
            0, 1000000);
  c.text(
      "--solver", a->options.solver,
      "dopri5, euler, midpoint, heun, rk4 or dopri5_fixed; for diffusion ddpm or ddim; empty = the "
      "model's own",
      "NAME");
  c.file("--output", a->output, "Array to write, .npy").required();
  c.file("--picture", a->picture,
         "Picture to write as well: .svg for points in the plane, .png for images");
  add_common(c, a->common);
  c.examples(
      "flowgrad sample --run runs/moons --n 2000 --output x.npy --picture x.svg\n"
      "flowgrad sample --run runs/garments --class all --n 8 --guidance 2 --output x.npy --picture "
      "x.png");
  c.run([a](const Command& self) { run_sample(*a, self); });
}

}  // namespace flowgrad::cli
