#include "flowgrad/cli/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/picture.h"
#include "flowgrad/cli/presets.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/models/flow_trainer.h"
#include "flowgrad/optim/checkpoint.h"
#include "flowgrad/optim/interrupt.h"

namespace flowgrad::cli {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// Ends what follows the training; its weights are in the checkpoint by then.
struct Interrupted {
  int signal;
};

void stop_if_interrupted() {
  if (const int signal = InterruptGuard::signal()) throw Interrupted{signal};
}

/// Widths that follow from the data are set where the user left them open, and must agree where
/// not.
/// A condition that comes with the data is left out for models that take none.
void fit_to_data(const std::string& model, Config& config, const TrainingData& data,
                 bool condition_given) {
  const auto fit = [&](const std::string& key, int64_t width, bool optional) {
    const auto [entry, added] = config.emplace(key, fmt::format("{}", width));
    if (added || entry->second == fmt::format("{}", width) || (optional && entry->second == "0"))
      return;
    throw UsageError(
        fmt::format("--set: {}={} given; the data needs {}", key, entry->second, width));
  };
  bool conditional = false;
  const auto keys = config_keys(model);
  // Rows of several actions say nothing about one; the caller compares the whole.
  const bool one_action = std::none_of(keys.begin(), keys.end(), [](const ConfigKey& key) {
    return key.name == "sequence_length" || key.name == "horizon";
  });
  for (const ConfigKey& key : keys) {
    if (key.name == "dim" || (key.name == "action_dim" && one_action))
      fit(key.name, data.dim(), false);
    if (key.name == "condition_dim" || key.name == "state_dim") {
      conditional = true;
      fit(key.name, data.condition_dim(), data.condition_dim() > 0);
    }
  }
  if (condition_given && !conditional) {
    throw UsageError(
        fmt::format("--condition: given for {}, which does not take a condition", model));
  }
}

/// Trained by its likelihood; a generator may have one too, which its loss is not.
bool is_density(const Model& model) { return model.has("inverse"); }

std::string json_result(const TrainArguments& a, const TrainReport& r, const char* status) {
  return json_text({{"status", status},
                    {"steps", r.result.steps_done},
                    {"loss", r.held_out.loss},
                    {"log_likelihood", r.held_out.log_likelihood},
                    {"standard_error", r.held_out.standard_error},
                    {"floor", r.floor},
                    {"rows", r.held_out.rows},
                    {"best_step", r.result.best_step},
                    {"skipped", r.result.skipped},
                    {"seconds", r.result.seconds},
                    {"parameters", r.parameters},
                    {"seed", a.common.seed},
                    {"run", a.run},
                    {"checkpoint", r.result.checkpoint},
                    {"weights", a.run + "/weights.safetensors"},
                    {"report", a.run + "/report.html"}}) +
         "\n";
}

std::string text_result(const TrainReport& r) {
  std::string out = fmt::format("{} on {}: {} steps, {} parameters\n", r.model, r.data,
                                r.result.steps_done, r.parameters);
  if (std::isfinite(r.held_out.log_likelihood)) {
    out += fmt::format("held-out log-likelihood {:.4f} +- {} nats", r.held_out.log_likelihood,
                       r.held_out.error_text());
    if (std::isfinite(r.floor)) out += fmt::format("; the density itself has {:.4f}", -r.floor);
  } else {
    out += std::isnan(r.held_out.loss) ? std::string("held-out loss not a number")
                                       : fmt::format("held-out loss {:.5g}", r.held_out.loss);
  }
  out += fmt::format(" ({} rows", r.held_out.rows);
  if (r.best_kept) out += fmt::format(", weights of step {}", r.result.best_step);
  return out +
         fmt::format(")\nweights {}/weights.safetensors\nreport  {}/report.html\n", r.run, r.run);
}

/// As many draws as pictures show, for the conditions of the first held-out rows.
Tensor draw_samples(Model& model, const QuantityInputs& rows, int64_t n, uint64_t seed) {
  NoGrad off;
  Generator generator = generator_of(seed, Stream::validation);
  QuantityInputs inputs;
  if (rows.condition.defined()) inputs.condition = slice(rows.condition, 0, 0, n);
  return model.evaluate("sample", inputs, {.n_samples = n}, generator);
}

/// Measures, samples and writes what a finished run leaves behind.
void finish(const TrainArguments& a, const Command& command, Model& model, TrainingData& data,
            Trainer& trainer, TrainReport& r) {
  // The best weights are averaged ones already where there are averages.
  r.best_kept = a.keep_best && std::filesystem::exists(best_weights(a.run));
  const EmaScope averages(r.best_kept ? nullptr : trainer.ema());
  if (r.best_kept) load_weights(model.module(), best_weights(a.run), false, a.common.quiet);
  model.module().train(false);
  QuantityInputs rows = on_device(data.held_out(), device_of(a.common));
  if (model.condition_width() == 0) rows.condition = {};
  r.held_out = measure(model, rows, a.common.seed, stop_if_interrupted);
  save_safetensors(a.run + "/weights.safetensors", model.module().state_dict(),
                   weights_metadata(model));
  const bool plane = data.dim() == 2;
  if (plane || are_images(rows.input)) {
    const int64_t n = std::min<int64_t>(plane ? 2000 : 64, rows.input.size(0));
    r.real = to(slice(rows.input, 0, 0, n), Device::cpu());
    r.samples = to(draw_samples(model, rows, n, a.common.seed), Device::cpu());
    stop_if_interrupted();
  }
  if (plane && !rows.condition.defined())
    r.pictures = model_pictures(model, slice(rows.input, 0, 0, 2000), a.common.seed);
  for (const auto& setting : command.values()) r.settings.push_back(setting);
  for (const auto& setting : model.config()) r.settings.push_back(setting);
  write_report(r);
}

void run_train(TrainArguments a, const Command& command) {
  if (a.resume && a.run.empty()) throw UsageError("--resume: no run given; --run FOLDER names it");
  if (a.resume) check_run_folder(a);
  if (a.resume && a.data.empty()) {
    throw IoError(fmt::format(
        "--resume: {}/config.json: names no data; it holds the options that the run was started "
        "with, and without it --model, --data and the others must be given again",
        a.run));
  }
  if (a.data.empty()) {
    throw UsageError(
        "--data: none given; the name of a toy density (moons, 8gaussians, ...), fashion-mnist or "
        "a .npy "
        "file is accepted");
  }
  const TrainArguments own;  // by value: a configuration file gives every option
  if (a.pairs != own.pairs && a.teacher.empty())
    throw UsageError(fmt::format("--pairs: {} given without --teacher, which makes them", a.pairs));
  const std::string start = a.model.weights;
  if (a.resume) a.model.weights.clear();  // they are in the checkpoint
  auto [name, config] = describe_model(a.model);
  if (a.run.empty())
    a.run = fmt::format("runs/{}-{}", name, std::filesystem::path(a.data).stem().string());
  if (!a.resume) check_run_folder(a);
  apply(a.common);
  const auto data = with_teacher(open_data({a.data, a.data_folder, a.condition, a.batch_size,
                                            a.common.seed, dtype_of(a.common)}),
                                 a, name);
  fit_to_data(name, config, *data, !a.condition.empty());
  Generator generator = generator_of(a.common.seed, Stream::weights);
  const auto model = new_model(a.model, name, config, generator, dtype_of(a.common));
  if (const bool sees = model->has("condition"); sees != data->seen()) {
    throw UsageError(fmt::format("--data: {} given, which has {}; {} {}", a.data,
                                 sees ? "nothing to see" : "images and words", name,
                                 sees ? "learns from tutorial-robot, and policies of worlds by "
                                        "flowgrad imitate"
                                      : "takes neither"));
  }
  if (model->width() != data->dim()) {
    throw UsageError(fmt::format("--data: rows of {} given; the model takes rows of {}",
                                 data->dim(), model->width()));
  }
  if (!a.model.weights.empty())
    load_weights(model->module(), a.model.weights, a.model.raw_weights, a.common.quiet);
  const Device device = device_of(a.common);
  model->module().to(device);
  const bool conditional = model->condition_width() > 0;
  if (a.condition_dropout > 0 && !conditional) {
    throw UsageError("--condition-dropout: given for a model without condition; 0 is accepted");
  }

  Generator draws = generator_of(a.common.seed, Stream::training);
  QuantityInputs held_out = on_device(data->held_out(), device);
  if (!conditional) held_out.condition = {};
  const auto next = [&] {
    QuantityInputs batch = on_device(data->next(), device);
    if (!conditional) batch.condition = {};
    return batch;
  };
  const auto validate = [&] {
    model->module().train(false);
    const double loss = measure(*model, held_out, a.common.seed).loss;
    model->module().train(true);
    return loss;
  };
  FlowTrainerOptions options = trainer_options(a);
  options.trainer.config = resume_config(a, start, *model);
  make_run_folder(a.run);
  const FolderLock lock(a.run, "--run");
  if (!a.resume) check_run_folder(a);  // another process may have been faster
  if (a.resume) check_resume(a, options.trainer.config);
  FlowTrainer training(*model, {next, validate, {data->state()}}, draws, options);
  Trainer& trainer = training.trainer();
  if (a.resume) {
    const int64_t step = trainer.resume();
    if (!a.common.quiet) {
      tell(step < a.steps
               ? fmt::format("continuing after step {}", step)
               : fmt::format("all {} steps are done already; --steps N trains on to N", step));
    }
  }
  // From here on a signal ends the run only where it can continue; before, there is nothing to
  // lose.
  const InterruptGuard guard;
  write_config(a.run, command, model->name(), model->config());
  forget_results(a);

  TrainReport r;
  r.model = name;
  r.data_name = std::filesystem::path(a.data).filename().string();
  r.data = data->description();
  r.run = a.run;
  r.parameters = model->module().parameter_count();
  r.seed = a.common.seed;
  r.floor = is_density(*model) ? data->floor() : kNone;
  r.result = trainer.run();
  r.history = trainer.history();
  check_result(a, r.result, command);
  try {
    finish(a, command, *model, *data, trainer, r);
  } catch (const Interrupted& e) {
    end_interrupted(a, command, r.result.steps_done, e.signal);
  }
  print_result(a.common.json ? json_result(a, r, status_name(r.result.status)) : text_result(r));
}

}  // namespace

std::string HeldOutResult::error_text() const {
  return std::isnan(standard_error) ? "-" : fmt::format("{:.4f}", standard_error);
}

HeldOutResult measure(Model& model, const QuantityInputs& rows, uint64_t seed, void (*between)()) {
  // Small enough for wide models, and for couplings of a whole chunk to be exact.
  const int64_t chunk_rows = rows.images.defined() ? 32 : 500;
  NoGrad off;
  const bool density = is_density(model);
  Generator generator = generator_of(seed, Stream::validation);
  const int64_t n = rows.input.size(0);
  double sum = 0;
  double squares = 0;
  for (int64_t at = 0; at < n; at += chunk_rows) {
    if (between) between();
    const int64_t end = std::min(at + chunk_rows, n);
    QuantityInputs chunk{.input = slice(rows.input, 0, at, end)};
    if (rows.condition.defined()) chunk.condition = slice(rows.condition, 0, at, end);
    if (rows.noise.defined()) chunk.noise = slice(rows.noise, 0, at, end);
    if (rows.images.defined()) chunk.images = slice(rows.images, 0, at, end);
    if (rows.tokens.defined()) chunk.tokens = slice(rows.tokens, 0, at, end);
    if (!density) {
      sum += model.evaluate("loss", chunk, {}, generator).item() * static_cast<double>(end - at);
      continue;
    }
    for (const double value :
         model.evaluate("log_prob", chunk, {}, generator).to_vector<double>()) {
      sum -= value;
      squares += value * value;
    }
  }
  const double mean = sum / static_cast<double>(n);
  HeldOutResult out{.loss = mean, .log_likelihood = kNone, .standard_error = kNone, .rows = n};
  if (density) {
    out.log_likelihood = -mean;
    const auto rows_beyond_one = static_cast<double>(n - 1);
    const double spread = std::max(squares - static_cast<double>(n) * mean * mean, 0.0);
    if (n > 1) out.standard_error = std::sqrt(spread / rows_beyond_one / static_cast<double>(n));
  }
  return out;
}

void add_train(CLI::App& app) {
  auto a = std::make_shared<TrainArguments>();
  Command c(app, "train", "Train a model on a density, on images or on rows of a file");
  add_model(c, a->model, Weights::start);
  c.choice("--preset", a->preset,
           fmt::format("Options that reach the figures of docs/training.md: {}; others given win",
                       listing(preset_names("train")))
               .c_str(),
           preset_names("train"))
      .transient();
  c.group("Data");
  c.text("--data", a->data,
         "moons, circles, rings, swissroll, 8gaussians, pinwheel, 2spirals, checkerboard, "
         "torchcfm-8gaussians or torchcfm-moons; fashion-mnist; tutorial-robot or tutorial-noise "
         "(224 x 224 images; @32 behind it asks for 32 x 32); or rows "
         "(N, D) in a .npy file, a tenth of which is held out",
         "NAME|FILE");
  c.text("--data-folder", a->data_folder,
         "Where the four files of Fashion-MNIST are; empty = the system's package", "FOLDER");
  c.file("--condition", a->condition, "Conditions (N, C) of the rows of --data, .npy");
  c.file("--teacher", a->teacher,
         "Run or weights of a model whose pairs of noise and samples replace the data: reflow");
  c.integer("--pairs", a->pairs, "Pairs that the teacher makes", 1, 100000000);
  c.real("--condition-dropout", a->condition_dropout,
         "Share of conditions set to zero, for guidance when sampling; 0.1 is usual", 0, 1,
         {.open_above = true});
  add_training(c, *a);
  c.group("Training");
  c.integer("--accumulate", a->accumulate, "Batches whose gradients are averaged for one step", 1,
            100000);
  c.real("--spectral-norm", a->spectral_norm,
         "Largest spectral norm of a weight matrix, by projection; 0 = no bound", 0, 1e6);
  c.integer("--patience", a->patience,
            "Validations without a new best that end the training; 0 = never", 0, 1000000);
  c.flag("--keep-best", a->keep_best,
         "The result is the weights of the best validation, not the last ones");
  c.integer("--validate-every", a->validate_every, "Steps between validations; 0 = a tenth of all",
            0, kMostSteps);
  add_common(c, a->common);
  c.examples(
      "flowgrad train --model realnvp --data moons --steps 2000 --run runs/moons\n"
      "flowgrad train --preset spline --data pinwheel\n"
      "flowgrad train --run runs/moons --resume --steps 4000\n"
      "SIGINT (Ctrl-C) and SIGTERM save a checkpoint before the training ends.");
  c.run([a](const Command& self) { run_train(*a, self); });
}

}  // namespace flowgrad::cli
