#include "flowgrad/cli/common.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/models/config.h"

namespace flowgrad::cli {

void add_common(CLI::App& sub, CommonOptions& o) {
  sub.add_option("--seed", o.seed, "Seed of all random draws")->capture_default_str();
  sub.add_option("--dtype", o.dtype, "Arithmetic: float32 or float64")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->capture_default_str();
  sub.add_option("--device", o.device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  sub.add_option("--backend", o.backend, "CPU kernels: fast, or reference (plain loops)")
      ->check(CLI::IsMember({"fast", "reference"}))
      ->capture_default_str();
  sub.add_option("--threads", o.threads, "Threads; 0 = one per core")->check(CLI::Range(0, 1024))->capture_default_str();
  sub.add_flag("--json", o.json, "Print the result as one JSON object");
  sub.add_flag("--quiet", o.quiet, "No progress, no seed line");
}

void add_model(CLI::App& sub, ModelOptions& o, bool weights) {
  sub.add_option("--model", o.model, fmt::format("Model: {}", fmt::join(model_names(), ", ")));
  sub.add_option("--set", o.settings, "Model key, as key=value; may be repeated");
  sub.add_option("--config", o.config_file, "File of model keys: lines key = value, or JSON; --set wins over it");
  if (weights) sub.add_option("--weights", o.weights, "Weights (.safetensors); fresh ones from the seed without it");
}

void apply(const CommonOptions& o) {
  if (o.device == "cuda") Device::cuda();
  if (o.threads > 0) kernels::set_num_threads(o.threads);
  if (o.backend == "reference") kernels::set_cpu_backend(kernels::CpuBackend::reference);
  if (!o.quiet) fmt::print(stderr, "seed {}\n", o.seed);
}

DType dtype_of(const CommonOptions& o) { return o.dtype == "float64" ? DType::float64 : DType::float32; }

namespace {

std::string json_text(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void read_config_file(const std::string& path, std::string& model, Config& config) {
  const auto bytes = read_file(path, "--config");
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto put = [&](const std::string& key, const std::string& value) {
    if (key == "model") {
      if (model.empty()) model = value;
    } else if (!config.emplace(key, value).second) {
      throw IoError(fmt::format("--config: {}: key \"{}\" is given twice", path, key));
    }
  };
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '{') {
    nlohmann::json root;
    try {
      root = nlohmann::json::parse(text);
    } catch (const nlohmann::json::exception& e) {
      throw IoError(fmt::format("--config: {}: not JSON: {}", path, e.what()));
    }
    for (const auto& [key, value] : root.items()) {
      if (key == "config" && value.is_object()) {
        for (const auto& [inner, v] : value.items()) put(inner, json_text(v));
      } else {
        put(key, json_text(value));
      }
    }
    return;
  }
  std::istringstream stream(text);
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(stream);
  } catch (const CLI::Error& e) {
    throw IoError(fmt::format("--config: {}: {}", path, e.what()));
  }
  for (const auto& item : items) {
    if (item.inputs.size() != 1) {
      throw IoError(fmt::format("--config: {}: key \"{}\" needs one value", path, item.name));
    }
    put(item.name, item.inputs[0]);
  }
}

Config resolve(const ModelOptions& o, std::string& model) {
  model = o.model;
  Config config;
  if (!o.config_file.empty()) read_config_file(o.config_file, model, config);
  for (const std::string& s : o.settings) {
    const size_t at = s.find('=');
    if (at == std::string::npos || at == 0) {
      throw UsageError(fmt::format("--set: \"{}\" given; key=value is accepted", s));
    }
    config[s.substr(0, at)] = s.substr(at + 1);
  }
  return config;
}

}  // namespace

Config config_of(const ModelOptions& o) {
  std::string model;
  return resolve(o, model);
}

std::unique_ptr<Model> open_model(const ModelOptions& o, const CommonOptions& common, Generator& generator) {
  std::string name;
  Config config = resolve(o, name);
  if (!o.weights.empty() && name.empty()) {
    // A file of ours says what it is.
    const auto metadata = load_safetensors(o.weights).metadata;
    if (const auto found = metadata.find("model"); found != metadata.end()) {
      name = found->second;
      if (const auto c = metadata.find("config"); c != metadata.end()) {
        const auto stored = nlohmann::json::parse(c->second, nullptr, false);
        if (stored.is_object()) {
          for (const auto& [key, value] : stored.items()) config.emplace(key, json_text(value));
        }
      }
    }
  }
  if (name.empty()) {
    throw UsageError(fmt::format("--model is required; {} are accepted", fmt::join(model_names(), ", ")));
  }
  auto model = make_model(name, config, generator, dtype_of(common));
  if (!o.weights.empty()) load_weights(*model, o.weights);
  return model;
}

void load_weights(Model& model, const std::string& path) {
  const SafetensorsFile file = load_safetensors(path);
  try {
    model.module().load_state_dict(file.tensors);
  } catch (const IoError& e) {
    throw IoError(fmt::format("{}: {}", path, e.what()));
  }
}

std::map<std::string, std::string> weights_metadata(const Model& model) {
  return {{"format", "pt"}, {"model", model.name()}, {"config", nlohmann::json(model.config()).dump()}};
}

Tensor load_array(const std::string& path, DType dtype) {
  if (path.empty()) return {};
  const Tensor t = load_npy(path);
  return is_floating(t.dtype()) ? cast(t, dtype) : t;
}

void check_output(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty() && !std::filesystem::is_directory(folder, error)) {
    throw IoError(fmt::format("{}: the folder {} does not exist", path, folder.string()));
  }
  const char* where = folder.empty() ? "." : folder.c_str();
  if (::access(where, W_OK) != 0) throw IoError(fmt::format("{}: cannot write there: {}", path, std::strerror(errno)));
}

std::string json_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace flowgrad::cli
