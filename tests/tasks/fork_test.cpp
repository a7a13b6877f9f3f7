// What the fork is for, shown without any network: regression at its best against sampling at its
// best. Both know the expert's two plans and the odds of its coin given the scene, which nearest
// neighbours among demonstrations estimate as a smooth network would.
#include <algorithm>
#include <cmath>

#include "flowgrad/tasks/demonstrations.h"
#include "flowgrad/tasks/statistics.h"
#include "flowgrad/tasks/tabletop.h"
#include "tests/catch.hpp"

using namespace flowgrad;

namespace {

constexpr int64_t kHorizon = 8;

/// Disc from pillar and pusher from disc, along the line to the zone and to its left.
using Scene = std::array<double, 4>;
Scene scene_of(const Tabletop& world) {
  const Vec2 along = unit(Tabletop::zone_center(world.zone()) - world.pillar());
  const Vec2 disc = world.disc(0) - world.pillar();
  const Vec2 pusher = world.pusher() - world.disc(0);
  return {dot(disc, along), cross(along, disc), dot(pusher, along), cross(along, pusher)};
}

/// Probability of "left" given the scene.
class Odds {
 public:
  explicit Odds(const Demonstrations& demos) {
    Tabletop world = Tabletop::fork();
    const int64_t width = demos.spec().snapshot_dim;
    const auto see = [&](int64_t frame) {
      world.restore({demos.snapshots().data<double>() + frame * width, static_cast<size_t>(width)});
    };
    for (int64_t e = 0; e < demos.episodes(); ++e) {
      see(demos.end_frame(e) - 1);
      const bool left = world.outcome().mode == 1;
      for (int64_t f = demos.first_frame(e); f < demos.end_frame(e); ++f) {
        see(f);
        const Scene s = scene_of(world);
        examples_.push_back({s, left});
        examples_.push_back({{s[0], -s[1], s[2], -s[3]}, !left});  // its mirror image
      }
    }
  }
  double left(const Tabletop& world) const {
    constexpr std::ptrdiff_t kNeighbours = 100;
    const Scene at = scene_of(world);
    std::vector<std::pair<double, bool>> near;
    near.reserve(examples_.size());
    for (const auto& [scene, is_left] : examples_) {
      double square = 0.0;
      for (size_t i = 0; i < at.size(); ++i) square += (scene[i] - at[i]) * (scene[i] - at[i]);
      near.emplace_back(square, is_left);
    }
    std::nth_element(near.begin(), near.begin() + kNeighbours, near.end());
    const auto count = std::count_if(near.begin(), near.begin() + kNeighbours,
                                     [](const auto& n) { return n.second; });
    return static_cast<double>(count) / static_cast<double>(kNeighbours);
  }

 private:
  std::vector<std::pair<Scene, bool>> examples_;
};

std::vector<Vec2> plan(Tabletop world, int side) {
  std::vector<Vec2> targets(static_cast<size_t>(kHorizon), world.pusher());
  for (Vec2& target : targets) {
    if (world.done()) break;
    target = expert_action(world, side);
    world.step(std::array{target.x, target.y});
  }
  return targets;
}

Policy policy(const Odds& odds, bool sample) {
  return [&odds, sample](const PolicyInput& input) {
    std::vector<double> values;
    const std::vector<double> coin = input.noise({1}).to_vector<double>();
    for (size_t row = 0; row < coin.size(); ++row) {
      const auto& world = dynamic_cast<const Tabletop&>(*input.worlds[row]);
      double p = odds.left(world);
      // The normal's own distribution function makes it uniform.
      if (sample) p = 0.5 * std::erfc(-coin[row] / std::sqrt(2.0)) < p ? 1.0 : 0.0;
      const std::vector<Vec2> left = plan(world, 1);
      const std::vector<Vec2> right = plan(world, -1);
      for (size_t h = 0; h < left.size(); ++h) {
        const Vec2 action = p * left[h] + (1.0 - p) * right[h];
        values.insert(values.end(), {action.x, action.y});
      }
    }
    return Tensor::from<double>(values, {static_cast<int64_t>(coin.size()), kHorizon, 2});
  };
}

}  // namespace

TEST_CASE("the best regression touches the pillar where the best sampler does not", "[fork_test]") {
  const Odds odds(scripted_demonstrations("fork", {.episodes = 400, .seed = 1}));
  const EvaluationOptions options{.episodes = 60, .seed = 77, .execute = 4};
  const EvaluationSummary mean =
      summarize(evaluate(Tabletop::fork(), policy(odds, false), options));
  const EvaluationSummary sampled =
      summarize(evaluate(Tabletop::fork(), policy(odds, true), options));
  INFO("mean " << mean.success_rate << ", sampled " << sampled.success_rate);
  CHECK(sampled.successes >= 58);
  CHECK(mean.interval.high < 0.6);
  CHECK(mean.failures >= 30);
  CHECK(sampled.mode_entropy > 0.8);
}
