#include "flowgrad/optim/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "flowgrad/core/error.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/safetensors.h"

namespace flowgrad {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetadataKey = "flowgrad.checkpoint";
constexpr const char* kValues = "trainer.values";
constexpr int kFormat = 1;
constexpr size_t kGenerations = 2;
constexpr std::string_view kNamePrefix = "step-";
constexpr std::string_view kNameSuffix = ".safetensors";

std::string folder_of(const std::string& run_folder) { return run_folder + "/checkpoints"; }

std::string path_of(const std::string& run_folder, int64_t step) {
  return fmt::format("{}/{}{:08}{}", folder_of(run_folder), kNamePrefix, step, kNameSuffix);
}

/// Step in the name of a checkpoint file, -1 for any other name.
int64_t step_of(std::string_view name) {
  if (!name.starts_with(kNamePrefix) || !name.ends_with(kNameSuffix)) return -1;
  name.remove_prefix(kNamePrefix.size());
  name.remove_suffix(std::min(name.size(), kNameSuffix.size()));
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  return error == std::errc() && end == name.data() + name.size() && step >= 0 ? step : -1;
}

void make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    throw IoError(fmt::format("checkpoint: {}: cannot be made: {}", path, error.message()));
}

void remove_file(const std::string& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error)
    throw IoError(fmt::format("checkpoint: {}: cannot be removed: {}", path, error.message()));
}

}  // namespace

NamedTensors Checkpoint::part(const std::string& prefix) const {
  NamedTensors out;
  for (const auto& [name, tensor] : tensors) {
    if (name.starts_with(prefix)) out.emplace_back(name.substr(prefix.size()), tensor);
  }
  return out;
}

Checkpoint load_checkpoint(const std::string& path) {
  SafetensorsFile file = load_safetensors(path, {.require_checksums = true});
  const auto text = file.metadata.find(kMetadataKey);
  const Tensor* const values = file.find(kValues);
  if (text == file.metadata.end() || !values || values->dtype() != DType::float64) {
    throw IoError(
        fmt::format("load_checkpoint: {}: holds tensors, but not the state of a training", path));
  }
  Checkpoint out;
  try {
    const Json json = parse_json(text->second);
    const int format = json.at("format").get<int>();
    if (format != kFormat) {
      throw IoError(fmt::format("load_checkpoint: {}: format {} given; {} is accepted", path,
                                format, kFormat));
    }
    out.step = json.at("step").get<int64_t>();
    if (out.step < 0) {
      throw IoError(
          fmt::format("load_checkpoint: {}: step {} given; 0 or more is accepted", path, out.step));
    }
    out.config = json.at("config").get<std::string>();
    for (const auto& [key, value] : json.at("integers").items())
      out.integers[key] = value.get<int64_t>();
  } catch (const Json::exception& e) {
    throw IoError(
        fmt::format("load_checkpoint: {}: metadata \"{}\": {}", path, kMetadataKey, e.what()));
  }
  out.values = values->to_vector<double>();
  for (auto& [name, tensor] : file.tensors) {
    if (name != kValues) out.tensors.emplace_back(name, tensor);
  }
  out.path = path;
  return out;
}

NamedTensors checkpoint_weights(const std::string& path, bool averaged) {
  Checkpoint found;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    std::optional<Checkpoint> newest = CheckpointStore::newest(path);
    if (!newest) throw IoError(fmt::format("checkpoint_weights: {}: holds no checkpoint", path));
    found = std::move(*newest);
  } else {
    found = load_checkpoint(path);
  }
  NamedTensors weights = found.part("model.");
  if (!averaged) return weights;
  for (const auto& [name, average] : found.part("ema.averages.")) {
    for (auto& [own, tensor] : weights) {
      if (own == name) tensor = average;
    }
  }
  return weights;
}

CheckpointStore::CheckpointStore(const std::string& run_folder) : run_folder_(run_folder) {
  make_folder(folder_of(run_folder_));
  remove_stale_temporaries(run_folder_);
  remove_stale_temporaries(folder_of(run_folder_));
}

std::vector<std::string> CheckpointStore::list(const std::string& run_folder) {
  const std::string folder = folder_of(run_folder);
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  if (!fs::exists(folder, error)) {
    if (error)
      throw IoError(fmt::format("checkpoint: {}: cannot be examined: {}", folder, error.message()));
    return {};
  }
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    const int64_t step = step_of(name);
    if (step >= 0) found.emplace_back(step, folder + "/" + name);
  }
  if (error)
    throw IoError(fmt::format("checkpoint: {}: cannot be read: {}", folder, error.message()));
  std::sort(found.begin(), found.end());
  std::vector<std::string> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::optional<Checkpoint> CheckpointStore::newest(const std::string& run_folder,
                                                  std::vector<std::string>* warnings) {
  const std::vector<std::string> paths = list(run_folder);
  std::string first_error;
  for (auto path = paths.rbegin(); path != paths.rend(); ++path) {
    try {
      return load_checkpoint(*path);
    } catch (const IoError& e) {
      if (first_error.empty()) first_error = e.what();
      if (warnings)
        warnings->push_back(fmt::format("{}; the checkpoint before it is used", e.what()));
    }
  }
  if (paths.empty()) return std::nullopt;
  throw IoError(fmt::format("checkpoint: {}: none of {} files can be used: {}",
                            folder_of(run_folder), paths.size(), first_error));
}

std::string CheckpointStore::save(const Checkpoint& checkpoint) const {
  Json integers = Json::object();
  for (const auto& [key, value] : checkpoint.integers) integers[key] = value;
  const Json json{{"format", kFormat},
                  {"step", checkpoint.step},
                  {"config", checkpoint.config},
                  {"integers", integers}};
  NamedTensors tensors = checkpoint.tensors;
  tensors.emplace_back(
      kValues, Tensor::from(checkpoint.values, {static_cast<int64_t>(checkpoint.values.size())}));
  const std::string path = path_of(run_folder_, checkpoint.step);
  save_safetensors(path, tensors, {{kMetadataKey, json_text(json)}});
  // By step, and never the file just written: one that was resumed from an older generation leaves
  // newer ones behind, which are damaged.
  const std::vector<std::string> all = list(run_folder_);
  const auto own = std::find(all.begin(), all.end(), path);
  for (auto newer = own + 1; newer < all.end(); ++newer) remove_file(*newer);
  const auto older = static_cast<size_t>(own - all.begin());
  for (size_t i = 0; i + kGenerations <= older; ++i) remove_file(all[i]);
  return path;
}

void CheckpointStore::clear() const {
  for (const std::string& path : list(run_folder_)) remove_file(path);
}

}  // namespace flowgrad
