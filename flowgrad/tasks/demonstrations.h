#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"
#include "flowgrad/tasks/world.h"

namespace flowgrad {

/// What imitation learns from: observations at B moments and the actions that followed each.
struct ChunkBatch {
  Observations observations;
  Tensor actions;  ///< (B, horizon, action_dim) float32; behind an episode's end its last action
  Tensor mask;     ///< (B, horizon) float32: 1 within the episode, 0 behind its end
};

/// Episodes of a demonstrator. Frames hold the world's snapshot rather than observations, so any
/// picture size is rendered when a batch asks for it, and 86,000 frames take 14 MB.
class Demonstrations {
 public:
  /// `snapshots` (T, snapshot_dim) and `actions` (T, action_dim) float64 on the CPU; `ends`: one
  /// past the last frame of every episode, increasing, ending with T. Raises ShapeError or
  /// ValueError where these do not fit one another, or for numbers that are not finite.
  Demonstrations(const World& world, const Tensor& snapshots, const Tensor& actions,
                 std::vector<int64_t> ends);

  const WorldSpec& spec() const { return world_->spec(); }
  int64_t size() const { return actions_.size(0); }  ///< frames
  int64_t episodes() const { return static_cast<int64_t>(ends_.size()); }
  int64_t first_frame(int64_t episode) const {
    return episode == 0 ? 0 : ends_[static_cast<size_t>(episode - 1)];
  }
  int64_t end_frame(int64_t episode) const { return ends_[static_cast<size_t>(episode)]; }
  const Tensor& actions() const { return actions_; }
  const Tensor& snapshots() const { return snapshots_; }

  /// The episodes [first, last), for a split by episode. Raises ValueError unless they exist.
  Demonstrations slice(int64_t first, int64_t last) const;

  /// Observations at `frames` with the chunk that begins there. Several threads may ask at once.
  /// Raises ValueError for a frame that does not exist or a horizon below 1, and as Observer does.
  ChunkBatch batch(std::span<const int64_t> frames, int64_t horizon, ImageSize images = {}) const;

 private:
  std::shared_ptr<const World> world_;
  Tensor snapshots_;
  Tensor actions_;
  std::vector<int64_t> ends_;
};

struct DemonstrationOptions {
  int64_t episodes = 1000;
  uint64_t seed = 0;
  /// Standard deviation of what is added to each executed action; the recorded one is what the
  /// expert meant (DART, Laskey et al. 2017), so the data show how to come back.
  double noise = 0.01;
};

/// Demonstrations of the scripted expert on "tabletop" or "fork"; in the fork it goes left or right
/// by a coin of the episode that no observation shows. Episodes that fail are left out and replaced
/// by later ones. Raises ValueError for another world, fewer than one episode, or noise outside
/// [0, 0.1].
Demonstrations scripted_demonstrations(const std::string& world,
                                       const DemonstrationOptions& options = {});

/// The 206 human demonstrations of PushT (Chi et al. 2023, "Diffusion Policy"): an .npz file with
/// state (T, 5): pusher x, y, block x, y, angle; action (T, 2); episode_ends (E). With `mirror`,
/// behind them each in its mirror image (PushT::mirrored): other starts for nothing. Raises IoError
/// for a file that is not that, and ValueError in a build without Chipmunk.
Demonstrations pusht_demonstrations(const std::string& path, bool mirror = false);

}  // namespace flowgrad
