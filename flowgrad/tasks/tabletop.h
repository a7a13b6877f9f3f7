#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "flowgrad/tasks/plane.h"
#include "flowgrad/tasks/tabletop_words.h"
#include "flowgrad/tasks/world.h"

namespace flowgrad {

/// A table of side 1 with three coloured discs, four zones with names, and a disc-shaped pusher; a
/// written instruction says which disc belongs in which zone. An action is where the pusher should
/// be; it moves there at up to kSpeed a step.
///
/// Contact is quasi-static: there is no momentum, and overlap is resolved along the contact normal.
/// So a push beside the middle lets the disc slip away, and pushing needs feedback.
///
/// A reset draws discs and pusher first and the goal afterwards, from draws of its own: nothing in
/// the picture tells it. (With a pusher placed near the target a policy scored 98 % with the wrong
/// words.)
///
/// The fork has one disc and a pillar fixed halfway between it and its zone; the disc may not touch
/// it. The pusher, an arm from above, passes over it. state() has 16 numbers on the table: pusher,
/// target disc, zone, target - pusher, zone - target, each disc - pusher; 14 in the fork: the first
/// five, pillar - disc, pillar - pusher.
class Tabletop final : public World {
 public:
  static constexpr double kDiscRadius = 0.06;
  static constexpr double kPusherRadius = 0.03;
  static constexpr double kContact = kDiscRadius + kPusherRadius;
  static constexpr double kSpeed = 0.03;
  static constexpr double kZoneRadius = 0.1;
  /// A disc is in a zone when its centre is this near to the zone's.
  static constexpr double kSuccessDistance = 0.08;
  static constexpr double kPillarRadius = 0.04;
  /// Discs overlap no more than this after a step.
  static constexpr double kSlop = 1e-5;
  static constexpr int64_t kMaxSteps = 100;

  /// Three discs. Begins in episode 0 of seed 0.
  explicit Tabletop(const WorldOptions& options = {}) : Tabletop(options, false) {}
  /// One disc and a pillar.
  static Tabletop fork() { return Tabletop({}, true); }

  std::unique_ptr<World> clone() const override { return std::make_unique<Tabletop>(*this); }
  const WorldSpec& spec() const override { return *spec_; }
  void reset(uint64_t seed, uint64_t episode) override;
  bool done() const override { return now_.success || now_.failed || now_.steps >= kMaxSteps; }
  EpisodeOutcome outcome() const override;
  void state(std::span<float> out) const override;
  void robot(std::span<float> out) const override;
  void tokens(std::span<int64_t> out) const override;
  std::string instruction() const override;
  void render(std::span<float> out, ImageSize size) const override;
  void snapshot(std::span<double> out) const override;
  void restore(std::span<const double> numbers) override;

  bool is_fork() const { return fork_; }
  int disc_count() const { return fork_ ? 1 : tabletop::kColors; }
  Vec2 pusher() const { return now_.pusher; }
  /// Disc i, which has colour i; in the fork there is disc 0, of the goal's colour.
  Vec2 disc(int i) const { return now_.discs[static_cast<size_t>(i)]; }
  /// The disc that the words name.
  int target() const { return fork_ ? 0 : now_.told; }
  int color() const { return now_.told; }
  int zone() const { return now_.zone; }
  int wording() const { return now_.wording; }
  /// Halfway between the fork's disc at its start and the zone.
  Vec2 pillar() const { return now_.pillar; }
  /// Centre of a zone: north is (0.5, 0.88).
  static Vec2 zone_center(int zone);

 private:
  /// Plain numbers: what a snapshot copies.
  struct Numbers {
    Vec2 pusher;
    std::array<Vec2, tabletop::kColors> discs;
    Vec2 pillar;
    Vec2 start;  ///< of the disc whose success counts
    int64_t steps = 0;
    int told = 0;    ///< the colour of the words
    int scored = 0;  ///< the colour whose success counts
    int zone = 0;
    int wording = 0;
    int mode = 0;
    bool success = false;
    bool failed = false;
  };

  Tabletop(const WorldOptions& options, bool fork);
  void advance(std::span<const double> action) override;
  bool settle(Vec2 pusher, std::array<Vec2, tabletop::kColors>& discs) const;
  void place_discs(Draws& draws);
  void place_fork(Draws& draws);
  void draw_goal(Draws& draws);
  void watch_pillar();
  int scored_disc() const { return fork_ ? 0 : now_.scored; }

  WorldOptions options_;
  bool fork_;
  const WorldSpec* spec_;
  Numbers now_;
};

/// Where the scripted expert wants the pusher, at most kSpeed away: to behind the target disc,
/// round whatever is in between, then forward with a correction that keeps it in line. It has no
/// memory, so its action is a function of the scene, except that in the fork it goes round the
/// pillar to the left (side 1) or right (side -1).
Vec2 expert_action(const Tabletop& world, int side = 1);
/// The expert's coin for its side: the next draw.
inline int draw_side(Draws& draws) { return draws.integer(2) == 0 ? 1 : -1; }

}  // namespace flowgrad
