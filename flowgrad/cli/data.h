#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flowgrad/cli/options.h"
#include "flowgrad/models/registry.h"
#include "flowgrad/optim/trainer.h"
#include "flowgrad/tasks/sampler.h"

namespace flowgrad::cli {

struct DataOptions {
  /// Name of a toy density, "fashion-mnist", "tutorial-robot", "tutorial-noise", or a .npy file.
  std::string data;
  /// Folder of the Fashion-MNIST files; empty for where Debian's package puts them.
  std::string folder;
  /// Conditions (N, C) of the rows of a .npy file.
  std::string condition;
  /// 0: 64, or as many as there are to train on.
  int64_t batch_size = 256;
  uint64_t seed = 0;
  DType dtype = DType::float32;
  /// Held-out rows of a toy density.
  int64_t rows = 10000;
  /// All rows of a file are held out: it is not trained on.
  bool all_rows = false;
};

/// What `flowgrad train` learns from. Equal options give the same batches in the same order.
class TrainingData {
 public:
  virtual ~TrainingData() = default;
  virtual int64_t dim() const = 0;
  /// 0 for unconditional data.
  virtual int64_t condition_dim() const { return 0; }
  /// Whether batches have images and tokens, for a model that sees and reads.
  virtual bool seen() const { return false; }
  /// Input (N, D) and condition (N, C) of the next step; images and tokens of what is seen.
  virtual QuantityInputs next() = 0;
  /// Rows that training never sees, the same at every call; about 10,000 where there are as many.
  virtual QuantityInputs held_out() const = 0;
  /// Position, for an exact resume.
  virtual StateProvider state() = 0;
  /// Mean negative log-likelihood that no model can beat, in nats; NaN where unknown.
  virtual double floor() const;
  /// "8gaussians: fresh draws", for people.
  virtual std::string description() const = 0;
};

/// Where a sampler stands, under the name "data". Borrows it.
StateProvider sampler_state(EpochSampler& sampler);

/// Raises UsageError for an unknown name or a batch larger than the data, IoError for a file that
/// cannot be used: not (N, D), fewer than two rows, values that are not finite, another number of
/// conditions.
std::unique_ptr<TrainingData> open_data(const DataOptions& options);

/// --data, --data-folder and --condition of a command that looks at a trained model; `purpose`
/// begins the help of --data.
void add_data(Command& command, DataOptions& options, const char* purpose);
/// Where these name no data: those that the training run was given, from the config.json of its
/// folder, with the seed that splits rows. `data` stays empty where there is no such file. Batches
/// are small.
DataOptions data_or_run(DataOptions given, const std::string& run);

/// Random draws of a run, each purpose with streams of its own.
enum class Stream : uint64_t { weights = 0, training = 1, data = 2, held_out = 3, validation = 4 };
Generator generator_of(uint64_t seed, Stream stream);

}  // namespace flowgrad::cli
