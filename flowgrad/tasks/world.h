#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// The sizes of a world, fixed for its life.
struct WorldSpec {
  std::string name;
  int64_t action_dim = 0;
  int64_t state_dim = 0;     ///< numbers of World::state
  int64_t robot_dim = 0;     ///< numbers of World::robot
  int64_t token_length = 0;  ///< length of an instruction, padded; 0 without words
  int64_t vocabulary = 0;    ///< tokens are in [0, vocabulary); 0 is padding
  int64_t snapshot_dim = 0;  ///< numbers of World::snapshot
  int64_t max_steps = 0;     ///< an episode ends here at the latest
  double action_low = 0.0;   ///< actions are positions; what lies outside is clamped
  double action_high = 1.0;
  bool y_down = false;  ///< a larger second coordinate is lower in a picture
};

/// What an episode has come to.
struct EpisodeOutcome {
  bool success = false;
  double score = 0.0;  ///< in [0, 1]; 1 for a success
  int64_t steps = 0;
  /// Which way round: 1 left, -1 right, 0 where there is no fork or none was taken.
  int mode = 0;
  /// What ended it without success, "pillar" say; empty for a success and for the last step.
  std::string failure = {};
  friend bool operator==(const EpisodeOutcome&, const EpisodeOutcome&) = default;
};

/// Pictures to render; height 0 is none.
struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;
};

/// An environment with one robot in it. Equal (seed, episode) give equal episodes, whatever ran
/// before. A world is used by one thread at a time; clones are independent. Spans have the sizes
/// that spec() names.
class World {
 public:
  virtual ~World() = default;
  World& operator=(const World&) = delete;
  virtual std::unique_ptr<World> clone() const = 0;
  virtual const WorldSpec& spec() const = 0;

  /// Begins episode number `episode` of a seed.
  virtual void reset(uint64_t seed, uint64_t episode) = 0;
  /// One control step towards an action of action_dim numbers. Raises ShapeError for another
  /// number, ValueError for a number that is not finite or after the episode's end.
  void step(std::span<const double> action);
  virtual bool done() const = 0;
  virtual EpisodeOutcome outcome() const = 0;

  /// Features of everything that matters, relative positions among them: what a policy without eyes
  /// gets.
  virtual void state(std::span<float> out) const = 0;
  /// What the robot knows of itself: where its pusher is.
  virtual void robot(std::span<float> out) const = 0;
  /// The instruction as tokens, 0 behind its end.
  virtual void tokens(std::span<int64_t> out) const = 0;
  /// The instruction in words; empty without words.
  virtual std::string instruction() const { return {}; }
  /// RGB float32 (3, height, width) in [0, 1]. Raises as Canvas does.
  virtual void render(std::span<float> out, ImageSize size) const = 0;

  /// The episode at this moment, as numbers that restore() takes back: every observation and the
  /// steps to come are the same (but see PushT). Numbers that no snapshot has raise ValueError.
  virtual void snapshot(std::span<double> out) const = 0;
  virtual void restore(std::span<const double> numbers) = 0;

 protected:
  World() = default;
  World(const World&) = default;
  virtual void advance(std::span<const double> action) = 0;
};

/// Instructions of an episode of the table. Colour-zone pairs and wordings that are held out occur
/// in no episode of `seen`, where demonstrations come from.
enum class Split {
  seen,
  wording,  ///< a held-out wording, made of known words, of a seen pair
  pair,     ///< a held-out pair in a seen wording
};

/// The test of whether a policy reads: the words name another colour than the one that was drawn.
enum class Counterfactual {
  none,
  told,      ///< success is the disc that the words name
  original,  ///< success is the disc that was drawn, which nobody mentions: it should fail
};

struct WorldOptions {
  Split split = Split::seen;
  Counterfactual counterfactual = Counterfactual::none;
};

/// "tabletop", "fork", "pusht".
const std::vector<std::string>& world_names();

/// The world of a name, before its first reset in episode 0 of seed 0. Raises ValueError for an
/// unknown name, for options that the world does not have (the fork has one disc, PushT no words),
/// and for "pusht" in a build without Chipmunk.
std::unique_ptr<World> make_world(const std::string& name, const WorldOptions& options = {});

/// What a policy sees of N episodes; all on the CPU, in float32 and int64.
struct Observations {
  Tensor state;   ///< (N, state_dim)
  Tensor robot;   ///< (N, robot_dim)
  Tensor tokens;  ///< (N, token_length); undefined without words
  Tensor images;  ///< (N, 3, height, width); undefined without pictures
};

/// Collects observations row by row.
class Observer {
 public:
  /// Raises ValueError for an image size that Canvas refuses, or with only one side zero.
  Observer(const WorldSpec& spec, int64_t rows, ImageSize images = {});
  void look(int64_t row, const World& world);
  const Observations& observations() const { return observations_; }

 private:
  Observations observations_;
  ImageSize size_;
};

/// Demonstrations are episodes from here on, so that an evaluation of the same seed, which counts
/// from 0, has none of their scenes.
constexpr uint64_t kFirstDemonstration = uint64_t{1} << 40;

/// Streams of an episode: the world's own draws, a policy's noise, a demonstrator's choices.
constexpr uint64_t world_stream(uint64_t episode) { return episode; }
constexpr uint64_t sampler_stream(uint64_t episode) { return episode | uint64_t{1} << 62; }
constexpr uint64_t demonstrator_stream(uint64_t episode) { return episode | uint64_t{1} << 61; }

}  // namespace flowgrad
