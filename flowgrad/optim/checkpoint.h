#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Content of a checkpoint, one safetensors file. Tensors carry a prefix: "model.", "optimizer.",
/// "ema.", "state.<provider>.".
struct Checkpoint {
  int64_t step = 0;
  /// The trainer's config string.
  std::string config;
  /// Counters, (generator) seed and stream, as the trainer keeps them.
  std::map<std::string, int64_t> integers;
  /// Kept as a tensor "trainer.values", so that they return bit for bit.
  std::vector<double> values;
  NamedTensors tensors;
  /// Where it was read from.
  std::string path;

  /// Tensors whose name starts with the prefix, without it.
  NamedTensors part(const std::string& prefix) const;
};

/// Reads one checkpoint. Raises IoError for a file that is damaged (every bit is covered by
/// checksums), carries no checksums or is no checkpoint.
Checkpoint load_checkpoint(const std::string& path);

/// Weights by the model's own names from a checkpoint file, or from the newest undamaged checkpoint
/// of a run folder; with `averaged`, the moving averages where the run kept them. Raises IoError
/// when there is none.
NamedTensors checkpoint_weights(const std::string& path, bool averaged = true);

/// The checkpoints of a run: <run>/checkpoints/step-00001200.safetensors. Two generations are kept.
class CheckpointStore {
 public:
  /// Makes the folders and removes what crashed writers left. Raises IoError where that is
  /// impossible.
  explicit CheckpointStore(const std::string& run_folder);

  /// Files present, oldest first. Looks only; the folder may be absent.
  static std::vector<std::string> list(const std::string& run_folder);
  /// The newest checkpoint that loads; each damaged one before it adds a line to `warnings`.
  /// Nothing when there is no file. Raises IoError when all are damaged.
  static std::optional<Checkpoint> newest(const std::string& run_folder,
                                          std::vector<std::string>* warnings = nullptr);

  /// Writes atomically (temporary file, fsync, rename, fsync of the folder), then removes all but
  /// the two newest; files of later steps go too, a resume from an older generation left them
  /// damaged. Returns the path. Raises IoError; then the older generations are untouched.
  std::string save(const Checkpoint& checkpoint) const;
  /// Removes all checkpoints.
  void clear() const;

 private:
  std::string run_folder_;
};

}  // namespace flowgrad
