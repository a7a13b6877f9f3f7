#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flowgrad/cli/common.h"
#include "flowgrad/models/robot_policy.h"
#include "flowgrad/optim/trainer.h"
#include "flowgrad/tasks/demonstrations.h"
#include "flowgrad/tasks/episodes.h"
#include "flowgrad/tasks/sampler.h"
#include "flowgrad/tasks/statistics.h"

/// The parts of `flowgrad imitate`, `rollout` and `compare`: this room sees both the policies and
/// the worlds.
namespace flowgrad::cli {

/// The name under which policies are saved.
constexpr const char* kPolicyModel = "robot_policy";

struct DemonstrationSource {
  std::string world;
  int64_t episodes = 2500;
  double noise = 0.01;
  std::string file;     // of pusht
  bool mirror = false;  // of pusht
  uint64_t seed = 0;
};
/// Raises UsageError for a world without a demonstrator or file.
Demonstrations open_demonstrations(const DemonstrationSource& source);

/// What a policy saw and the chunks (N, horizon, A) that followed.
struct ImitationBatch {
  PolicyObservation seen;
  Tensor chunks;
};

/// Demonstrations as tensors; pictures are rendered when a batch asks for them, by all threads,
/// with the same bits for any number of them.
class ImitationData {
 public:
  /// Raises UsageError for a batch larger than the data.
  ImitationData(const Demonstrations& demonstrations, int64_t horizon, ImageSize images,
                int64_t batch_size, uint64_t seed);
  /// Every frame once an epoch, in an order that depends on the seed and the epoch alone.
  ImitationBatch next();
  ImitationBatch at(const std::vector<int64_t>& frames) const;
  /// Without pictures.
  const ImitationBatch& all() const { return all_; }
  int64_t frames() const { return all_.chunks.size(0); }
  /// Position, for an exact resume.
  StateProvider state();

 private:
  Demonstrations demonstrations_;
  int64_t horizon_;
  ImageSize images_;
  ImitationBatch all_;
  EpochSampler sampler_;
};

/// The parts of an observation on a device.
PolicyObservation on_device(PolicyObservation seen, Device device);
PolicyObservation policy_observation(const Observations& seen);

/// Pictures that the policy's encoder reads; none for an encoder of the state.
ImageSize image_size(const RobotPolicyOptions& options);
/// Sizes of the world into the options.
void fit_to_world(RobotPolicyOptions& options, const WorldSpec& spec);
/// Raises IoError, naming the run, the size, and both values, for a policy made for another world.
void check_world(const std::string& run, const RobotPolicyOptions& options, const WorldSpec& spec);

/// The policy of a run folder or weights file: averaged weights where it has them, or with `raw`
/// the last ones. Raises IoError for a file that holds none, or one whose configuration or weights
/// are refused.
std::unique_ptr<RobotPolicy> open_policy(const std::string& path, const CommonOptions& common,
                                         bool raw = false);

/// A policy for the closed loop: its noise is that of the episode, so that a row does not depend on
/// its neighbours. Chunks after the first are inpainted to agree with the one under way, by
/// guidance of at most `realtime` (ChunkUnderWay::beta); 0 is none. Borrows the policy.
Policy in_closed_loop(RobotPolicy& policy, const HeadSampling& sampling = {}, double realtime = 0);

/// Times of single decisions, in milliseconds.
struct Latency {
  int64_t decisions = 0;
  double p50 = 0, p90 = 0, p99 = 0;
};
/// Of `decisions` decisions for one robot each, with a chunk under way, after a warm-up; images,
/// delay and execute are those of the options.
Latency measure_latency(const World& world, const Policy& policy, const EvaluationOptions& options,
                        int64_t decisions);

}  // namespace flowgrad::cli
