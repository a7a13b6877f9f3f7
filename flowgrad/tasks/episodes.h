#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"
#include "flowgrad/tasks/world.h"

namespace flowgrad {

/// What a policy is asked: a chunk of actions for each of N episodes that are under way, all at the
/// same step.
struct PolicyInput {
  Observations observations;
  int64_t step = 0;
  uint64_t seed = 0;
  std::vector<uint64_t> episodes;  ///< number of each row's episode: names its noise
  /// What the chunk before says for steps from this one on, (N, horizon, A) float32; behind its end
  /// its last action. Undefined at the first step. Of its rows the first `delay` are executed
  /// whatever the policy answers, and the first horizon - execute are its own: real-time chunking
  /// (Black, Galliker and Levine 2025) keeps to these.
  Tensor previous;
  int64_t delay = 0;
  int64_t execute = 0;  ///< actions until the next question; 0 at the first step
  /// What lies behind the observations: for scripted experts, not for learners.
  std::vector<const World*> worlds;

  /// Most draws of a decision.
  static constexpr int64_t kDraws = 1024;
  /// Standard normals (N, row...): row i depends on the seed, its episode, the step and `draw`
  /// alone, so an episode gets the same whatever else runs beside it. Raises ValueError unless 0 <=
  /// draw < kDraws.
  Tensor noise(const Shape& row, int64_t draw = 0, DType dtype = DType::float32) const;
};

/// Gives (N, horizon, action_dim) of a floating dtype, on any device. The horizon is the same at
/// every call.
using Policy = std::function<Tensor(const PolicyInput&)>;

struct EvaluationOptions {
  int64_t episodes = 200;  ///< episodes 0, 1, ... of the seed
  uint64_t seed = 0;
  /// Actions of a chunk that are executed before the policy is asked again; 0 is all of them.
  int64_t execute = 0;
  /// Ask at every step, and execute the mean of what all chunks say for it, weighted by
  /// exp(-ensemble_decay * i), i = 0 for the oldest (temporal ensembling; Zhao et al. 2023, ACT).
  bool ensemble = false;
  double ensemble_decay = 0.01;
  /// Steps until an answer is there: meanwhile the chunk before goes on, and the new one is entered
  /// at its action `delay`. The first chunk is waited for.
  int64_t delay = 0;
  ImageSize images = {};
  /// Episodes that go on side by side: the largest batch of a policy. Changes no result.
  int64_t lockstep = 256;
  /// All episodes begin as episode 0 and differ by the policy's noise only: how many ways it knows
  /// from one state.
  bool one_scene = false;
  /// Keep the snapshots of the first so many episodes, to render them.
  int64_t record = 0;
};

struct EpisodeResult {
  uint64_t episode = 0;
  EpisodeOutcome outcome;
  /// Mean squared third difference of the executed actions; 0 for fewer than four.
  double jerk = 0.0;
  /// (steps + 1) rows of snapshot_dim numbers where recorded.
  std::vector<double> snapshots = {};
  /// What was executed, `steps` rows of action_dim numbers, where recorded.
  std::vector<double> actions = {};
  friend bool operator==(const EpisodeResult&, const EpisodeResult&) = default;
};

/// Runs the policy in clones of `world` and gives one result an episode, in order. Equal arguments
/// give equal results, whatever `lockstep` is, for a policy whose rows do not depend on one
/// another. Raises ValueError for options out of range: fewer than one episode, execute above the
/// horizon, delay above execute, execute + delay above the horizon, a delay with ensembling;
/// ShapeError for a policy's tensor of a wrong shape; ValueError for an action that is not finite.
std::vector<EpisodeResult> evaluate(const World& world, const Policy& policy,
                                    const EvaluationOptions& options = {});

/// The scripted expert of the table and the fork, which looks behind the observations and obeys the
/// words. In the fork each episode goes left or right by a coin. Raises ValueError in other worlds.
Policy expert_policy(int64_t horizon);
/// Actions anywhere, uniformly: what success by chance is.
Policy random_policy(const WorldSpec& spec, int64_t horizon);

}  // namespace flowgrad
