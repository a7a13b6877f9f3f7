#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "flowgrad/models/action_head.h"
#include "flowgrad/models/policy_encoder.h"
#include "flowgrad/models/registry.h"

namespace flowgrad {

/// What a policy is made of and what it was made for. All of it travels in the configuration of a
/// checkpoint, so that a policy is never run on another robot, horizon or base distribution.
struct RobotPolicyOptions {
  /// Name of the world, and its sizes.
  std::string world = "tabletop";
  int64_t action_dim = 2;
  int64_t state_dim = 0;
  int64_t robot_dim = 2;
  int64_t token_length = 0;
  int64_t vocabulary = 0;
  /// Actions of a chunk.
  int64_t horizon = 8;
  /// Chunks are differences to the first action_dim numbers of the robot: where its pusher is.
  bool relative = true;
  /// Weight of a linear regression of the chunk from the feature, which teaches an encoder faster
  /// than the head alone; 0 has none.
  double auxiliary = 0;
  /// Share of words that the loss hides from the encoder (as padding, token 0), so that it leans on
  /// no single one and understands wordings it has not met.
  double word_dropout = 0;
  /// A preset of encoders.h; those that see need words as well.
  std::string encoder = "state";
  HeadKind head = HeadKind::flow;
  /// Its feature_dim and chunk_dim are the policy's own.
  ActionHeadOptions head_options = {};
};

/// Keys of a configuration with defaults, and the two ways between it and options. `base` and
/// `time` have one accepted value each, "normal" and "noise-to-data": a file from a policy with
/// other conventions is refused. ValueError for an unknown key or a value out of range.
std::vector<ConfigKey> robot_policy_keys();
RobotPolicyOptions robot_policy_options(const Config& config);
Config robot_policy_config(const RobotPolicyOptions& options);

/// The chunk that goes on while the next one is made, for real-time chunking (Black, Galliker and
/// Levine 2025): the next one is inpainted to agree with it, see realtime_weights, as far as it
/// lies within the range of the demonstrations.
struct ChunkUnderWay {
  /// What it says for the steps from now on, (N, horizon, A) in the world's units; undefined is
  /// none.
  Tensor actions = {};
  int64_t delay = 0;    ///< actions that are executed from it before the next one is there
  int64_t execute = 0;  ///< actions of its end that it does not have any more
  double beta = 5;      ///< see Inpainting
};

/// An encoder, an action head and the statistics that normalise what goes in and out, which belong
/// to the state: mean and standard deviation of each number of a chunk (relative where that is
/// asked for), of state and of robot. Each step of a chunk has its own: relative chunks start small
/// and spread, and one deviation for all steps would leave the first, which are executed, to the
/// errors of the last. Keys encoder.*, head.*, auxiliary.*, statistics.*.
class RobotPolicy final : public Module {
 public:
  /// The encoder that the options name.
  RobotPolicy(const RobotPolicyOptions& options, Generator& generator,
              DType dtype = DType::float32);
  /// An encoder of one's own.
  RobotPolicy(const RobotPolicyOptions& options, std::unique_ptr<PolicyEncoder> encoder,
              Generator& generator, DType dtype = DType::float32);
  const RobotPolicyOptions& options() const { return options_; }
  ActionHead& head() { return head_; }

  /// Takes the statistics from demonstrations: chunks (N, horizon, A) and what was seen before
  /// each. A deviation below 1e-3 of the largest of its array is raised to that, or what is all but
  /// constant would be blown up; returned is a sentence for each, naming the
  /// number. Raises
  /// ShapeError for arrays that do not fit, ValueError for numbers that are not finite or no rows.
  std::vector<std::string> fit_statistics(const PolicyObservation& seen, const Tensor& chunks);
  /// The head's loss for chunks (N, horizon, A), `draws` times with noise of its own for each
  /// feature, and the auxiliary regression. ValueError without statistics.
  Tensor loss(const PolicyObservation& seen, const Tensor& chunks, Generator& generator,
              int64_t draws = 1);
  /// The head's loss on what `teacher` makes of noise here, so that this policy does the same in
  /// `steps` Euler steps, 1 being a map of noise to chunks. Start from the teacher's weights.
  /// ValueError for steps below 1, heads that solve no flow, or a policy without statistics;
  /// ShapeError for a teacher with other chunks.
  Tensor distillation_loss(RobotPolicy& teacher, const PolicyObservation& seen,
                           Generator& generator, int64_t steps = 1);
  /// Chunks (N, horizon, A) in the world's units, off the tape; row i depends on row i of the
  /// observation, of the noise (N, draws, width) and of the chunk under way alone. Errors as
  /// ActionHead, realtime_weights and the encoder, ValueError without statistics.
  Tensor generate(const PolicyObservation& seen, const Tensor& noise,
                  const HeadSampling& sampling = {}, const ChunkUnderWay& before = {});
  Shape noise_shape(const HeadSampling& sampling = {}) const { return head_.noise_shape(sampling); }
  /// What the head has to say on some data, see ActionHead::diagnostics.
  NamedTensors diagnostics(const PolicyObservation& seen, const Tensor& chunks);

 private:
  struct Statistics {
    Tensor mean, deviation;
  };
  Statistics add_statistics(const std::string& name, int64_t width, DType dtype);
  std::string fit(const char* name, const Statistics& s, const Tensor& rows);
  void check_statistics(const char* op) const;
  Tensor feature(const PolicyObservation& seen);
  void check_chunks(const char* op, const Tensor& chunks) const;
  /// Chunks as rows (N, horizon A), relative where they are to be.
  Tensor rows_of(const char* op, const PolicyObservation& seen, const Tensor& chunks) const;
  /// Where relative chunks count from: (N, 1, A).
  Tensor origin(const char* op, const PolicyObservation& seen, int64_t rows) const;
  Tensor normalised(const char* op, const PolicyObservation& seen, const Tensor& chunks) const;
  Inpainting agreement(const PolicyObservation& seen, const ChunkUnderWay& before) const;

  RobotPolicyOptions options_;
  DType dtype_;
  PolicyEncoder& encoder_;
  ActionHead& head_;
  Linear* auxiliary_ = nullptr;
  Statistics action_, state_, robot_;
  /// Versions of the action's statistics that were found to be there.
  mutable std::optional<std::array<uint64_t, 2>> checked_;
  /// Largest magnitude of a normalised action: where diffusion may clip.
  Tensor bound_;
};

}  // namespace flowgrad
