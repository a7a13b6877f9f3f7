#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/models/robot_policy.h"
#include "flowgrad/optim/trainer.h"

namespace CLI {
class App;
}

namespace flowgrad::cli {

/// What `flowgrad imitate` leaves beside its run folder.
struct ImitateResult {
  std::string task, head, encoder;
  std::string run = {}, weights = {};  ///< the folder, and the file in it
  uint64_t seed = 0;
  int64_t frames = 0;
  bool json = false;
  TrainResult training = {};
  std::vector<MetricsRow> history = {};
  bool best_kept = false;  ///< the weights are those of the best evaluation
  /// With the weights of that file.
  std::unique_ptr<RobotPolicy> policy = {};
  /// See ActionHead::diagnostics.
  std::vector<std::pair<std::string, std::vector<double>>> diagnostics = {};
};

/// Seed of the episodes that judge a policy while it is trained: what `rollout` and `compare` count
/// stays unseen, unless they are asked for this seed.
constexpr uint64_t kValidationSeed = 2000000000;

/// Declares the command; a finished training is handed to `done`.
void add_imitate(CLI::App& app, std::function<void(const ImitateResult&)> done);

}  // namespace flowgrad::cli
