#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "flowgrad/tasks/plane.h"
#include "flowgrad/tasks/world.h"

namespace flowgrad {

class PushTPhysics;

/// PushT (Florence et al. 2021; the environment of Chi et al. 2023, "Diffusion Policy"): a round
/// pusher slides a T onto its outline, in an arena of 512 x 512 pixels whose y axis points down.
/// Physics is the published one, on Chipmunk: two rectangles on one body, a kinematic pusher under
/// PD control (100 and 20), ten steps of 0.01 s an action. Lengths are pixels.
///
/// Episode e of seed s begins as the published environment does with seed s + e: the usual
/// evaluation is episodes 0 to 49 or 199 of seed 100000. Demonstrations, which are human, are not
/// seeded.
///
/// state() has 36 numbers: the eight corners of the T and the pusher, now and one step ago.
class PushT final : public World {
 public:
  static constexpr double kSide = 512.0;
  static constexpr double kPusherRadius = 15.0;
  static constexpr double kSuccessCoverage = 0.95;
  static constexpr int64_t kMaxSteps = 300;
  static constexpr uint64_t kPublishedSeed = 100000;
  static constexpr int kCorners = 8;

  /// Pusher x, y; block x, y; angle: the published state.
  using State = std::array<double, 5>;

  /// False in a build that found no Chipmunk.
  static bool available();
  /// Raises ValueError where available() is false.
  PushT();
  PushT(const PushT& other);
  ~PushT() override;

  std::unique_ptr<World> clone() const override { return std::make_unique<PushT>(*this); }
  const WorldSpec& spec() const override;
  /// Raises ValueError where seed + episode is above 2^32 - 1.
  void reset(uint64_t seed, uint64_t episode) override;
  /// Begins at a given state, at rest. Raises ValueError for numbers that are not finite.
  void reset_to(const State& state);
  bool done() const override;
  EpisodeOutcome outcome() const override;
  void state(std::span<float> out) const override;
  void robot(std::span<float> out) const override;
  void tokens(std::span<int64_t>) const override {}
  void render(std::span<float> out, ImageSize size) const override;
  /// The solver's memory of its last contacts is not part of it, nor of a clone: amid contact, the
  /// next step from there differs by up to a pixel. Observations are the same.
  void snapshot(std::span<double> out) const override;
  void restore(std::span<const double> numbers) override;

  const State& pose() const { return now_; }
  /// Part of the outline that the T covers, now.
  double coverage() const { return coverage_of(now_); }
  static double coverage_of(const State& state);
  /// The T's corners, clockwise on the screen from the bar's.
  static std::array<Vec2, kCorners> corners(const State& state);
  /// State after NumPy's RandomState(seed), as the published reset draws it.
  static State initial_state(uint32_t seed);
  /// The mirror image across the goal's axis of symmetry, x + y = kSide, which maps goal, T and
  /// walls (to a pixel) onto themselves.
  static State mirrored(const State& state);
  static Vec2 mirrored(Vec2 at) { return {kSide - at.y, kSide - at.x}; }

 private:
  void advance(std::span<const double> action) override;

  /// Made at the first step after a clone or restore: looking at a snapshot needs none.
  std::unique_ptr<PushTPhysics> physics_;
  State now_{};
  State before_{};
  Vec2 velocity_;  ///< of the pusher
  int64_t steps_ = 0;
  double best_ = 0.0;  ///< highest coverage so far
};

}  // namespace flowgrad
