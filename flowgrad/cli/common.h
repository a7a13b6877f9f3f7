#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/cli/options.h"
#include "flowgrad/models/registry.h"

namespace flowgrad::cli {

/// Options that every computing subcommand shares.
struct CommonOptions {
  uint64_t seed = 0;
  std::string dtype = "float32";
  std::string device = "cpu";
  std::string backend = "fast";
  std::string matmul = "own";
  std::string matmul_precision = "float32";
  int threads = 0;  // 0: one per core
  bool json = false;
  bool quiet = false;
};

/// A model as the command line names it.
struct ModelOptions {
  std::string model;
  std::vector<std::string> settings;  // key=value
  std::string config_file;            // already among the other options when a command runs
  std::string weights;
  bool raw_weights = false;  // of a training run, the last ones
};

void add_common(Command& command, CommonOptions& options);
enum class Weights {
  none,
  /// --weights.
  start,
  /// --weights, under the name --run as well: a run is as good as a file.
  use,
};
/// --model, --set, --config, and what `weights` says.
void add_model(Command& command, ModelOptions& options, Weights weights);

/// Sets threads and backend, refuses absent devices, prints the seed on stderr unless quiet.
void apply(const CommonOptions& options);
DType dtype_of(const CommonOptions& options);
/// The device of --device. Raises DeviceError where there is none.
Device device_of(const CommonOptions& options);
/// The arrays on a device; undefined ones stay undefined.
QuantityInputs on_device(QuantityInputs inputs, Device device);

/// The keys of --set. Raises UsageError for a setting that is not key=value.
Config config_of(const ModelOptions& options);
/// Name and keys, completed by what the file of --weights says about its model. Raises UsageError
/// where nothing names a model, IoError for an unreadable file.
std::pair<std::string, Config> describe_model(const ModelOptions& options);
/// A model with fresh weights. An unknown name, key or value is blamed on --model, on --set or on
/// the file of --weights, whichever it came from.
std::unique_ptr<Model> new_model(const ModelOptions& options, const std::string& name,
                                 const Config& config, Generator& generator, DType dtype);
/// The model with its weights, on the device: those of --weights, or fresh ones drawn from the
/// generator.
std::unique_ptr<Model> open_model(const ModelOptions& options, const CommonOptions& common,
                                  Generator& generator);
/// Loads weights into a model: of this project or of PyTorch (float32 or float64), of a
/// checkpoint, or of a run folder: its best ones where it kept them, else those of the newest
/// checkpoint; `raw` asks for the last ones, without averages. Raises IoError naming the file and
/// the first entry that does not fit. Tells, unless quiet, when the file has no checksums.
void load_weights(Module& module, const std::string& path, bool raw, bool quiet);
/// Name and configuration of the model as a run folder, a checkpoint or a weights file of this
/// project keeps them; empty for foreign files. Raises IoError for what cannot be read.
std::pair<std::string, Config> stored_model(const std::string& path);
/// Where `flowgrad train --keep-best` puts the weights of its best validation.
std::string best_weights(const std::string& run);
/// Metadata of a weights file: model name and configuration.
std::map<std::string, std::string> weights_metadata(const std::string& name, const Config& config);
std::map<std::string, std::string> weights_metadata(const Model& model);
/// What a checkpoint keeps about its model, as `describe_model` reads it.
std::string model_json(const std::string& name, const Config& config);

/// Reads a .npy array, to the CPU, of floating numbers, or of int64 where `whole`, and converts the
/// former to the dtype; undefined for an empty path. Raises IoError naming the option.
Tensor load_array(const char* option, const std::string& path, DType dtype, bool whole = false);
/// Raises IoError when a file could not be written there, before anything is computed. An empty
/// path and one without the given ending (such as ".npy") raise UsageError naming the option.
void check_output(const char* option, const std::string& path,
                  const std::vector<std::string>& endings);

/// Writes a result to stdout. A reader that went away ends the command quietly.
void print_result(const std::string& text);
/// Rows of cells in columns; `align` has '<' or '>' for each.
std::string table(const std::vector<std::vector<std::string>>& rows, const std::string& align);
/// Text as a JSON string, quotes included.
std::string json_string(const std::string& text);
/// A number as JSON; null where it is not finite.
std::string json_number(double value);

}  // namespace flowgrad::cli
