#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/picture.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/text.h"

namespace flowgrad::cli {
namespace {

struct SampleArguments {
  CommonOptions common;
  ModelOptions model;
  QuantityOptions options{.n_samples = 1000};
  std::string condition, category, images, tokens, robot, output, picture;
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

void run_sample(const SampleArguments& a) {
  check_output("--output", a.output, {".npy"});
  if (!a.picture.empty()) check_output("--picture", a.picture, {".svg", ".png"});
  if (!a.condition.empty() && !a.category.empty()) {
    throw UsageError("--class: given with --condition; one of them is accepted");
  }
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  if (!a.picture.empty()) check_picture("--picture", a.picture, model->width());
  model->module().train(false);
  NoGrad off;
  Tensor condition = load_array("--condition", a.condition, dtype_of(a.common));
  if (condition.defined() && condition.rank() != 2) {
    throw IoError(fmt::format("--condition: {}: shape {}; rows (N, C) are accepted", a.condition,
                              condition.shape().to_string()));
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
  if (a.common.json) {
    print_result(fmt::format(
        "{{\"model\": {}, \"output\": {}, \"picture\": {}, \"shape\": [{}], \"seed\": {}}}\n",
        json_string(model->name()), json_string(a.output),
        a.picture.empty() ? "null" : json_string(a.picture),
        fmt::join(rows.shape().begin(), rows.shape().end(), ", "), a.common.seed));
  } else {
    print_result(fmt::format("{} samples {} {} -> {}\n", model->name(), rows.shape().to_string(),
                             name_of(rows.dtype()), a.output));
    if (!a.picture.empty()) print_result(fmt::format("picture -> {}\n", a.picture));
  }
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
  c.run([a](const Command&) { run_sample(*a); });
}

}  // namespace flowgrad::cli
