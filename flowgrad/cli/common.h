#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/models/registry.h"

namespace CLI {
class App;
}

namespace flowgrad::cli {

/// A command line that cannot be carried out; exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// What the subcommand asked for as an exit code, thrown through CLI11's callbacks.
struct ExitCode {
  int code = 0;
};

/// Options that every computing subcommand shares.
struct CommonOptions {
  uint64_t seed = 0;
  std::string dtype = "float32";
  std::string device = "cpu";
  std::string backend = "fast";
  int threads = 0;  // 0: all cores
  bool json = false;
  bool quiet = false;
};

/// A model as the command line names it.
struct ModelOptions {
  std::string model;
  std::vector<std::string> settings;  // key=value
  std::string config_file;
  std::string weights;
};

void add_common(CLI::App& sub, CommonOptions& options);
/// --model, --set, --config, and --weights where `weights` is true.
void add_model(CLI::App& sub, ModelOptions& options, bool weights);

/// Sets threads and backend, refuses absent devices, prints the seed on stderr unless quiet.
void apply(const CommonOptions& options);
DType dtype_of(const CommonOptions& options);
/// --config file first, then --set. Raises UsageError for a setting that is not key=value, IoError for a
/// file that cannot be read.
Config config_of(const ModelOptions& options);
/// The model with its weights: those of --weights, or fresh ones from the seed.
std::unique_ptr<Model> open_model(const ModelOptions& options, const CommonOptions& common, Generator& generator);
/// Loads a weights file of this project or of PyTorch (float32 or float64) into the model.
void load_weights(Model& model, const std::string& path);
/// Metadata of a weights file: model name and configuration.
std::map<std::string, std::string> weights_metadata(const Model& model);

/// Reads a .npy array and converts floating arrays to the dtype; undefined for an empty path.
Tensor load_array(const std::string& path, DType dtype);
/// Raises IoError when the folder of an output file does not exist, before anything is computed.
void check_output(const std::string& path);

/// Text as a JSON string, quotes included.
std::string json_string(const std::string& text);

}  // namespace flowgrad::cli
