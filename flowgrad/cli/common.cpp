#include "flowgrad/cli/common.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/precision.h"
#include "flowgrad/cli/config_file.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/core/text.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/optim/checkpoint.h"

namespace flowgrad::cli {

void add_common(Command& c, CommonOptions& o) {
  c.group("Computation");
  c.seed("--seed", o.seed, "Seed of all random draws; printed on stderr");
  c.choice("--dtype", o.dtype, "Arithmetic: float32 or float64", {"float32", "float64"});
  c.choice("--device", o.device, "cpu or cuda", {"cpu", "cuda"});
  c.choice("--matmul", o.matmul,
           "Products on cuda by kernels of our own, or by cublas in a build that has it",
           {"own", "cublas"});
  c.choice("--matmul-precision", o.matmul_precision,
           "Operands of float32 products on cuda: float32, tf32 or bf16; the CPU ignores it",
           {"float32", "tf32", "bf16"});
  c.choice("--backend", o.backend, "CPU kernels: fast, or reference (plain loops)",
           {"fast", "reference"});
  c.integer("--threads", o.threads, "Threads; 0 = one per core. Results do not depend on it", 0,
            1024);
  c.group("Output");
  c.flag("--json", o.json, "Print the result as one JSON object").transient();
  c.flag("--quiet", o.quiet, "No progress and no seed line on stderr").transient();
}

void add_model(Command& c, ModelOptions& o, Weights weights) {
  c.group("Model");
  c.text("--model", o.model, fmt::format("Model: {}", listing(model_names())).c_str(), "NAME");
  c.list("--set", o.settings,
         "A key of the model; may be repeated (flowgrad inspect --model NAME lists them)",
         "KEY=VALUE");
  c.file("--config", o.config_file,
         "Options and keys of the model, as lines name = value or JSON; the command line wins")
      .transient();
  if (weights != Weights::none) {
    c.file(weights == Weights::use ? "--weights,--run" : "--weights", o.weights,
           "Weights (.safetensors), a checkpoint, or the folder of a training run; empty = fresh "
           "ones from the seed");
    c.flag("--raw-weights", o.raw_weights,
           "From a training run, the last weights in place of the averaged or best ones");
  }
  c.config_extra([&o] {
    const Config config = config_of(o);
    std::string text = config.empty() && o.model.empty() ? "" : "\n[set]\n";
    Config all = config;
    if (!o.model.empty()) {
      for (const ConfigKey& key : config_keys(o.model)) all.emplace(key.name, key.default_value);
    }
    for (const auto& [key, value] : all) text += fmt::format("{} = {}\n", key, config_value(value));
    return text;
  });
}

void apply(const CommonOptions& o) {
  device_of(o);            // refused first, where there is none
  kernels::num_threads();  // refuses what FLOWGRAD_NUM_THREADS may say
  if (o.threads > 0) kernels::set_num_threads(o.threads);
  if (o.backend == "reference") kernels::set_cpu_backend(kernels::CpuBackend::reference);
  set_matmul_precision(o.matmul_precision == "tf32"   ? MatmulPrecision::tf32
                       : o.matmul_precision == "bf16" ? MatmulPrecision::bf16
                                                      : MatmulPrecision::float32);
  set_matmul_library(o.matmul == "cublas" ? MatmulLibrary::cublas : MatmulLibrary::own);
  if (o.quiet) return;
  if (o.matmul != "own" && o.device == "cpu") {
    tell(fmt::format("--matmul {}: the CPU multiplies by its own kernels, and ignores it",
                     o.matmul));
  }
  if (o.matmul_precision != "float32" && o.device == "cpu") {
    tell(fmt::format("--matmul-precision {}: the CPU multiplies in full precision, and ignores it",
                     o.matmul_precision));
  }
  if (built_with_cuda() && !has_cuda()) tell("CUDA: built, no device: using the CPU");
  tell(fmt::format("seed {}", o.seed));
}

DType dtype_of(const CommonOptions& o) {
  return o.dtype == "float64" ? DType::float64 : DType::float32;
}

Device device_of(const CommonOptions& o) {
  return o.device == "cuda" ? Device::cuda() : Device::cpu();
}

QuantityInputs on_device(QuantityInputs in, Device device) {
  for (Tensor* t : in.all()) {
    if (t->defined()) *t = to(*t, device);
  }
  return in;
}

namespace {

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

}  // namespace

std::pair<std::string, Config> stored_model(const std::string& path) {
  std::string text;
  if (is_folder(path)) {
    const auto checkpoint = CheckpointStore::newest(path);
    if (!checkpoint)
      throw IoError(fmt::format("{}: the folder holds no checkpoint of a training run", path));
    text = checkpoint->config;
  } else {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) {
      throw IoError(
          fmt::format("{}: {}; weights (.safetensors), a checkpoint or the "
                      "folder of a training run are accepted",
                      path, error ? error.message() : "no such file or folder"));
    }
    const auto metadata = load_safetensors(path).metadata;
    if (metadata.contains("flowgrad.checkpoint")) {
      text = load_checkpoint(path).config;
    } else if (metadata.contains("model") && metadata.contains("config")) {
      text = fmt::format("{{\"model\":{},\"set\":{}}}", json_string(metadata.at("model")),
                         metadata.at("config"));
    }
  }
  const Json json = parse_json_or_null(text);
  if (!json.is_object() || !json.contains("model") || !json["model"].is_string()) return {};
  Config config;
  if (const auto set = json.find("set"); set != json.end() && set->is_object()) {
    for (const auto& [key, value] : set->items()) {
      config[key] = plain_text(value);
    }
  }
  return {json["model"].get<std::string>(), config};
}

Config config_of(const ModelOptions& o) {
  Config config;
  for (const std::string& s : o.settings) {
    const size_t at = s.find('=');
    if (at == std::string::npos || at == 0) {
      throw UsageError(fmt::format("--set: {} given; KEY=VALUE is accepted", quote(s)));
    }
    config[s.substr(0, at)] = s.substr(at + 1);
  }
  return config;
}

std::pair<std::string, Config> describe_model(const ModelOptions& o) {
  std::string name = o.model;
  Config config = config_of(o);
  if (!o.weights.empty()) {
    const auto [stored_name, stored_config] = stored_model(o.weights);
    if (name.empty()) name = stored_name;
    if (name == stored_name) config.insert(stored_config.begin(), stored_config.end());
  }
  if (name.empty()) {
    throw UsageError(fmt::format(
        "--model: none given{}; {} are accepted",
        o.weights.empty() ? "" : fmt::format(", and {} does not name its own", o.weights),
        listing(model_names())));
  }
  try {
    if (!o.model.empty()) config_keys(name);
  } catch (const ValueError& e) {
    throw UsageError(fmt::format("--model: {}", e.what()));
  }
  return {name, config};
}

std::unique_ptr<Model> new_model(const ModelOptions& o, const std::string& name,
                                 const Config& config, Generator& generator, DType dtype) {
  try {
    config_keys(name);
  } catch (const ValueError& e) {
    if (name == kPolicyModel) {
      throw IoError(fmt::format(
          "{}: holds a policy of flowgrad imitate; rollout, compare, sample and inspect take it",
          o.weights));
    }
    throw IoError(fmt::format("{}: {}", o.weights, e.what()));
  }
  try {
    return make_model(name, config, generator, dtype);
  } catch (const ValueError& e) {
    const std::string what = e.what();
    for (const auto& [key, value] : config_of(o)) {
      if (what.find(key) != std::string::npos) throw UsageError(fmt::format("--set: {}", what));
    }
    if (o.settings.empty() && !o.weights.empty())
      throw IoError(fmt::format("{}: {}", o.weights, what));
    throw;
  }
}

std::unique_ptr<Model> open_model(const ModelOptions& o, const CommonOptions& common,
                                  Generator& generator) {
  const auto [name, config] = describe_model(o);
  auto model = new_model(o, name, config, generator, dtype_of(common));
  if (!o.weights.empty()) load_weights(model->module(), o.weights, o.raw_weights, common.quiet);
  model->module().to(device_of(common));
  return model;
}

void load_weights(Module& module, const std::string& path, bool raw, bool quiet) {
  NamedTensors tensors;
  bool checked = true;
  if (is_folder(path) && !raw && std::filesystem::exists(best_weights(path))) {
    tensors = load_safetensors(best_weights(path)).tensors;
  } else if (is_folder(path)) {
    tensors = checkpoint_weights(path, !raw);
  } else {
    SafetensorsFile file = load_safetensors(path);
    checked = file.checksums;
    tensors = file.metadata.contains("flowgrad.checkpoint") ? checkpoint_weights(path, !raw)
                                                            : std::move(file.tensors);
  }
  try {
    module.load_state_dict(tensors);
  } catch (const IoError& e) {
    throw IoError(fmt::format("{}: {}", path, e.what()));
  }
  if (!checked && !quiet) tell(fmt::format("{}: loaded without checksums, it has none", path));
}

std::string best_weights(const std::string& run) { return run + "/best.safetensors"; }

std::map<std::string, std::string> weights_metadata(const std::string& name, const Config& config) {
  return {{"format", "pt"}, {"model", name}, {"config", json_text(config)}};
}

std::map<std::string, std::string> weights_metadata(const Model& model) {
  return weights_metadata(model.name(), model.config());
}

std::string model_json(const std::string& name, const Config& config) {
  return json_text({{"model", name}, {"set", config}});
}

Tensor load_array(const char* option, const std::string& path, DType dtype, bool whole) {
  if (path.empty()) return {};
  Tensor t;
  try {
    t = load_npy(path);
  } catch (const IoError& e) {
    throw IoError(fmt::format("{}: {}", option, e.what()));
  }
  if (is_floating(t.dtype())) return cast(t, dtype);
  if (whole && t.dtype() == DType::int64) return t;
  throw IoError(fmt::format("{}: {}: {} given; {}float32 and float64 are accepted", option, path,
                            name_of(t.dtype()), whole ? "int64, " : ""));
}

void check_output(const char* option, const std::string& path,
                  const std::vector<std::string>& endings) {
  const std::filesystem::path where(path);
  if (std::find(endings.begin(), endings.end(), where.extension()) == endings.end()) {
    throw UsageError(fmt::format("{}: {} given; a file name that ends in {} is accepted", option,
                                 quote(path), fmt::join(endings, " or ")));
  }
  const std::string folder = where.has_parent_path() ? where.parent_path().string() : ".";
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) {
    throw IoError(fmt::format("{}: {}: its folder cannot be used: {}", option, path,
                              std::generic_category().message(errno)));
  }
  if (!S_ISDIR(info.st_mode))
    throw IoError(fmt::format("{}: {}: {} is not a folder", option, path, folder));
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw IoError(fmt::format("{}: {}: its folder cannot be written to: {}", option, path,
                              std::generic_category().message(errno)));
  }
  if (is_folder(path))
    throw IoError(fmt::format("{}: {}: is a folder; a file is accepted", option, path));
}

void print_result(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size()) return;
  const int error = errno;
  if (error == EPIPE) throw ExitCode{0};
  throw Error(fmt::format("stdout: cannot be written: {}", std::generic_category().message(error)));
}

std::string table(const std::vector<std::vector<std::string>>& rows, const std::string& align) {
  std::vector<size_t> width(align.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += "  ";
      line += align[i] == '>' ? fmt::format("{:>{}}", row[i], width[i])
                              : fmt::format("{:<{}}", row[i], width[i]);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string json_string(const std::string& text) { return json_text(text); }

std::string json_number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

}  // namespace flowgrad::cli
