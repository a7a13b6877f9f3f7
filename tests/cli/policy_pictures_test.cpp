// What a policy does, in pictures: groups of chunks, the moment that is shown, and what is drawn.
#include <cmath>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/rollout.h"
#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad;
using namespace flowgrad::cli;
using drawing::all;
using drawing::read;

namespace {

ChunkCloud cloud_of(const Tensor& chunks) {
  ChunkCloud cloud{.chunks = chunks};
  split(cloud);
  return cloud;
}

/// Three recorded episodes of the fork by its demonstrator.
struct Recorded {
  std::unique_ptr<World> world = make_world("fork");
  Policy policy = expert_policy(8);
  EvaluationOptions options{.episodes = 3, .execute = 4, .record = 3};
  std::vector<EpisodeResult> episodes = evaluate(*world, policy, options);
};

}  // namespace

TEST_CASE("chunks fall in two groups, the larger first", "[policy_pictures_test]") {
  Generator generator(1);
  const Tensor narrow = randn({30, 4, 2}, generator, DType::float64) * 0.01;
  const ChunkCloud two =
      cloud_of(concat({slice(narrow, 0, 0, 10) + 1.0, slice(narrow, 0, 10, 30)}, 0));
  for (size_t i = 0; i < 30; ++i) CHECK(two.group[i] == (i < 10 ? 1 : 0));
  // Centres sqrt(8) apart with deviations of 0.01, of few rows.
  CHECK(two.separation > 200);
  CHECK(two.separation < 400);
}

TEST_CASE("halves of a normal line lie 2.65 deviations apart", "[policy_pictures_test]") {
  Generator generator(2);
  const ChunkCloud one = cloud_of(randn({20000, 1, 1}, generator, DType::float64));
  CHECK(one.separation ==
        Catch::Approx(2 * std::sqrt(2 / M_PI) / std::sqrt(1 - 2 / M_PI)).epsilon(0.03));
  const ChunkCloud same = cloud_of(ones({5, 4, 2}, DType::float64));
  CHECK(same.group.empty());
  CHECK(same.separation == 0);
}

TEST_CASE("the moment shown is one where the demonstrator goes either way",
          "[policy_pictures_test]") {
  const Recorded r;
  const ChunkCloud fork = clearest_fork(*r.world, r.policy, r.options, r.episodes, 40);
  REQUIRE(fork.chunks.shape() == Shape{40, 8, 2});
  CHECK(fork.step % 4 == 0);
  const auto ones = std::count(fork.group.begin(), fork.group.end(), 1);
  CHECK(ones > 5);
  CHECK(ones <= 20);
  CHECK(fork.separation > 1e6);  // its two ways are two points
  const auto again = clearest_fork(*r.world, r.policy, r.options, r.episodes, 40);
  CHECK(again.chunks.to_vector<double>() == fork.chunks.to_vector<double>());
  const auto svg = read(chunks_over_scene(*r.world, fork));
  CHECK(all(svg, "polyline").size() == 40);
  CHECK(all(svg, "image").size() == 1);
  CHECK(projections(*r.world, fork).panels.size() == 6);
  CHECK(!projections(*r.world, fork).svg().empty());
  CHECK_THROWS_AS(clearest_fork(*r.world, r.policy, r.options, r.episodes, 1), ValueError);
  CHECK(!clearest_fork(*r.world, r.policy, r.options, {}, 40).chunks.defined());
}

TEST_CASE("a policy that draws nothing has no projections", "[policy_pictures_test]") {
  const Recorded r;
  const Policy still = [&](const PolicyInput& input) {
    return full({static_cast<int64_t>(input.episodes.size()), 8, 2}, 0.5);
  };
  const ChunkCloud one = clearest_fork(*r.world, still, r.options, r.episodes, 10);
  CHECK(one.group.empty());
  CHECK(projections(*r.world, one).panels.empty());
  CHECK(!chunks_over_scene(*r.world, one).empty());
}

TEST_CASE("a trajectory shows every step, and the pusher follows its actions",
          "[policy_pictures_test]") {
  const Recorded r;
  const EpisodeResult& e = r.episodes[1];
  const plot::LineChart chart = trajectory(*r.world, e);
  REQUIRE(chart.series.size() == 4);
  const auto steps = static_cast<size_t>(e.outcome.steps);
  for (size_t i : {0, 2}) {
    const plot::Series& action = chart.series[i];
    const plot::Series& pusher = chart.series[i + 1];
    CHECK(action.y.size() == steps);
    REQUIRE(pusher.y.size() == steps + 1);
    // The expert asks for what a step reaches.
    for (size_t k = 0; k < steps; ++k) CHECK(std::abs(pusher.y[k + 1] - action.y[k]) < 0.031);
  }
  CHECK(chart.series[0].y[0] == e.actions[0]);
  CHECK(chart.series[2].y[1] == e.actions[3]);
}
