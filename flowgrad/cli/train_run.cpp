#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "flowgrad/cli/train.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/optim/checkpoint.h"

// The folder of a run: what it says of itself, and what may continue in it.
namespace flowgrad::cli {
namespace {

/// Numbers and truth values as JSON's own.
Json plain_json(const std::string& text) {
  const Json value = parse_json_or_null(text);
  return value.is_number() || value.is_boolean() ? value : Json(text);
}

/// The option and the value behind an entry of resume_config.
std::string option_of(const std::string& key) {
  std::string option = "--" + key;
  std::replace(option.begin(), option.end(), '_', '-');
  return option;
}

}  // namespace

std::string resume_config(const TrainArguments& a, const std::string& start, const Model& model) {
  Json json = parse_json(model_json(model.name(), model.config()));
  json["data"] = a.data;
  if (!a.condition.empty()) json["condition"] = a.condition;
  if (!a.teacher.empty()) json["teacher"] = fmt::format("{} ({} pairs)", a.teacher, a.pairs);
  if (!start.empty()) json["weights"] = start;
  json["batch_size"] = a.batch_size;
  json["accumulate"] = a.accumulate;
  json["seed"] = a.common.seed;
  json["dtype"] = a.common.dtype;
  json["spectral_norm"] = a.spectral_norm;
  return json_text(json);
}

void make_run_folder(const std::string& run) {
  std::error_code error;
  std::filesystem::create_directories(run, error);
  if (error) throw IoError(fmt::format("--run: {}: cannot be made: {}", run, error.message()));
}

void forget_results(const TrainArguments& a) {
  if (a.resume) return;
  for (const char* name : {"/weights.safetensors", "/report.html"})
    std::filesystem::remove(a.run + name);
}

void write_config(const std::string& run, const Command& command, const std::string& model,
                  const Config& config) {
  Json options = Json::object();
  for (const auto& [name, value] : command.values()) {
    if (name == "model" || name == "run") continue;
    options[name] = command.is_text(name) ? Json(value) : plain_json(value);
  }
  Json keys = Json::object();
  for (const auto& [key, value] : config) keys[key] = plain_json(value);
  Json root = Json::object();
  if (!model.empty()) root["model"] = model;
  root["set"] = keys;
  root[command.name()] = options;
  write_file_atomic(run + "/config.json", json_text(root, 2) + "\n", "config");
}

void check_run_folder(const TrainArguments& a) {
  if (a.resume && a.overwrite)
    throw UsageError("--overwrite: given with --resume; one of them is accepted");
  const bool used = !CheckpointStore::list(a.run).empty();
  if (a.resume && !used)
    throw IoError(fmt::format("--resume: {}: holds no checkpoint to continue from", a.run));
  if (!a.resume && !a.overwrite && used) {
    throw IoError(fmt::format(
        "--run: {}: holds a training run already; --resume continues it, --overwrite starts anew",
        a.run));
  }
}

void check_resume(const TrainArguments& a, const std::string& config) {
  std::vector<std::string> warnings;  // the trainer tells them
  const auto checkpoint = CheckpointStore::newest(a.run, &warnings);
  if (!checkpoint) return;
  const auto refuse = [&](const std::string& what, const Json& given, const Json& stored) {
    throw IoError(fmt::format(
        "{}{} given; the run in {} was started with {}, and another "
        "configuration cannot continue it",
        what, plain_text(given), a.run, stored.is_null() ? "none" : plain_text(stored)));
  };
  const Json stored = parse_json_or_null(checkpoint->config);
  const Json given = parse_json(config);
  if (stored.is_object()) {
    for (const auto& [key, value] : given.items()) {
      const Json other = stored.value(key, Json());
      if (value == other) continue;
      if (key != "set" || !other.is_object()) refuse(option_of(key) + ": ", value, other);
      for (const auto& [name, setting] : value.items()) {
        const Json old = other.value(name, Json());
        if (setting != old) refuse(fmt::format("--set: {}=", name), setting, old);
      }
    }
  }
  const bool averaged =
      std::any_of(checkpoint->tensors.begin(), checkpoint->tensors.end(),
                  [](const auto& entry) { return entry.first.starts_with("ema."); });
  if (averaged != (a.ema > 0)) {
    throw IoError(fmt::format("--ema: {} given; the run in {} was started with{} averaged weights",
                              a.ema, a.run, averaged ? "" : "out"));
  }
  if (a.pause_at > 0 && checkpoint->step >= a.pause_at) {
    throw UsageError(
        fmt::format("--pause-at: {} given; the run in {} has done {}, more are accepted",
                    a.pause_at, a.run, checkpoint->step));
  }
  if (checkpoint->step > a.steps) {
    throw UsageError(
        fmt::format("--steps: {} given; the run in {} has done {}, at least that many "
                    "are accepted",
                    a.steps, a.run, checkpoint->step));
  }
}

}  // namespace flowgrad::cli
