#include "flowgrad/tasks/demonstrations.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <thread>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/tabletop.h"
#include "tests/catch.hpp"
#include "tests/tasks/world_support.h"

using namespace flowgrad;
using world_test::contains;
using world_test::error_of;

namespace {

std::vector<double> numbers(const Tensor& t) { return t.to_vector<double>(); }

Demonstrations few(const std::string& world, double noise = 0.01) {
  return scripted_demonstrations(world, {.episodes = 40, .seed = 3, .noise = noise});
}

}  // namespace

TEST_CASE("demonstrations are whole successful episodes, equal for equal seeds",
          "[demonstrations_test]") {
  for (const char* name : {"tabletop", "fork"}) {
    const Demonstrations a = few(name);
    CHECK(a.episodes() == 40);
    CHECK(numbers(a.snapshots()) == numbers(few(name).snapshots()));
    CHECK(numbers(a.actions()) == numbers(few(name).actions()));
    // Without noise, the recorded actions replay each episode to its success.
    const Demonstrations clean = few(name, 0.0);
    const auto world = make_world(name);
    for (int64_t e = 0; e < clean.episodes(); ++e) {
      const double* row =
          clean.snapshots().data<double>() + clean.first_frame(e) * clean.spec().snapshot_dim;
      world->restore({row, static_cast<size_t>(clean.spec().snapshot_dim)});
      CHECK(world->outcome().steps == 0);
      for (int64_t f = clean.first_frame(e); f < clean.end_frame(e); ++f) {
        REQUIRE(!world->done());
        world->step({clean.actions().data<double>() + 2 * f, 2});
      }
      CHECK(world->outcome().success);
    }
  }
  const Demonstrations longer = scripted_demonstrations("tabletop", {.episodes = 50, .seed = 3});
  CHECK(numbers(longer.slice(0, 40).actions()) == numbers(few("tabletop").actions()));
}

TEST_CASE("episodes that fail are left out", "[demonstrations_test]") {
  // With so much noise one episode in three runs out of steps; few succeed at the very last.
  const Demonstrations demos =
      scripted_demonstrations("tabletop", {.episodes = 60, .seed = 3, .noise = 0.04});
  CHECK(demos.episodes() == 60);
  int longest = 0;
  for (int64_t e = 0; e < demos.episodes(); ++e) {
    longest += demos.end_frame(e) - demos.first_frame(e) == Tabletop::kMaxSteps ? 1 : 0;
  }
  CHECK(longest <= 3);
}

TEST_CASE("noise moves what is executed and not what is recorded", "[demonstrations_test]") {
  const Demonstrations demos = few("tabletop", 0.02);
  double off = 0.0;
  int64_t count = 0;
  for (int64_t e = 0; e < demos.episodes(); ++e) {
    for (int64_t f = demos.first_frame(e); f + 1 < demos.end_frame(e); ++f) {
      const auto at = [&](const Tensor& t, int64_t row, int64_t k) { return t.at({row, k}); };
      const Vec2 here{at(demos.snapshots(), f, 0), at(demos.snapshots(), f, 1)};
      const Vec2 meant{at(demos.actions(), f, 0), at(demos.actions(), f, 1)};
      const Vec2 next{at(demos.snapshots(), f + 1, 0), at(demos.snapshots(), f + 1, 1)};
      REQUIRE(norm(meant - here) <= Tabletop::kSpeed + 1e-12);
      off += norm(next - meant);
      ++count;
    }
  }
  CHECK(off / static_cast<double>(count) > 0.01);
}

TEST_CASE("demonstrations show no scene of an evaluation and no held-out pair or wording",
          "[demonstrations_test]") {
  const Demonstrations demos = few("tabletop");
  Tabletop world;
  std::set<std::pair<double, double>> starts;
  for (uint64_t e = 0; e < 200; ++e) {
    world.reset(3, e);
    starts.insert({world.pusher().x, world.pusher().y});
  }
  const int64_t width = demos.spec().snapshot_dim;
  for (int64_t e = 0; e < demos.episodes(); ++e) {
    const double* row = demos.snapshots().data<double>() + demos.first_frame(e) * width;
    CHECK(starts.count({row[0], row[1]}) == 0);
    world.restore({row, static_cast<size_t>(width)});
    CHECK(!tabletop::is_held_out(world.color(), world.zone()));
    CHECK(world.wording() + tabletop::kHeldOutWordings <
          static_cast<int>(tabletop::wordings().size()));
  }
}

TEST_CASE("in the fork both ways are shown, and the scene does not tell which",
          "[demonstrations_test]") {
  const Demonstrations demos = scripted_demonstrations("fork", {.episodes = 400, .seed = 1});
  Tabletop world = Tabletop::fork();
  const auto width = static_cast<size_t>(demos.spec().snapshot_dim);
  int left = 0;
  double by_side[2] = {};
  for (int64_t e = 0; e < demos.episodes(); ++e) {
    const auto at = [&](int64_t frame) {
      world.restore({demos.snapshots().data<double>() + frame * demos.spec().snapshot_dim, width});
    };
    at(demos.first_frame(e));
    const Vec2 start = world.pusher();
    at(demos.end_frame(e) - 1);
    const bool is_left = world.outcome().mode == 1;
    left += is_left ? 1 : 0;
    by_side[is_left ? 1 : 0] += start.x;
  }
  CHECK(left > 160);
  CHECK(left < 240);
  // Mean start of the two sides: a difference of uniforms over about 200 episodes each.
  CHECK(std::abs(by_side[1] / left - by_side[0] / (400 - left)) < 4.0 * 0.27 / 10.0);
}

TEST_CASE("a batch holds observations and the actions that followed", "[demonstrations_test]") {
  const Demonstrations demos = few("tabletop");
  const int64_t end = demos.end_frame(4);
  const std::vector<int64_t> frames{end - 3, 0, end};
  const ChunkBatch batch = demos.batch(frames, 5, {8, 10});
  CHECK(batch.actions.shape() == Shape{3, 5, 2});
  CHECK(batch.mask.to_vector<double>() ==
        std::vector<double>{1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  for (int64_t h = 0; h < 5; ++h) {
    const double wanted = demos.actions().at({std::min(end - 3 + h, end - 1), 1});
    CHECK(batch.actions.at({0, h, 1}) == Catch::Approx(wanted));
    CHECK(batch.actions.at({1, h, 0}) == Catch::Approx(demos.actions().at({h, 0})));
  }
  CHECK(batch.observations.robot.at({0, 0}) == Catch::Approx(demos.snapshots().at({end - 3, 0})));
  CHECK(batch.observations.images.shape() == Shape{3, 3, 8, 10});
  CHECK(demos.batch({}, 2).actions.shape() == Shape{0, 2, 2});
  // Threads ask at once and get the same.
  std::vector<int64_t> all(static_cast<size_t>(demos.size()));
  std::iota(all.begin(), all.end(), int64_t{0});
  const std::vector<double> wanted = numbers(demos.batch(all, 3, {8, 8}).observations.images);
  std::vector<std::thread> threads;
  std::vector<int> equal(4);
  for (size_t i = 0; i < equal.size(); ++i) {
    threads.emplace_back([&, i] {
      equal[i] = numbers(demos.batch(all, 3, {8, 8}).observations.images) == wanted ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(equal == std::vector<int>{1, 1, 1, 1});
}

TEST_CASE("slices keep episodes whole", "[demonstrations_test]") {
  const Demonstrations demos = few("fork");
  const Demonstrations part = demos.slice(3, 7);
  CHECK(part.episodes() == 4);
  CHECK(part.size() == demos.end_frame(6) - demos.first_frame(3));
  const std::vector<int64_t> mine{part.first_frame(2)};
  const std::vector<int64_t> theirs{demos.first_frame(5)};
  CHECK(numbers(part.batch(mine, 4).observations.state) ==
        numbers(demos.batch(theirs, 4).observations.state));
  CHECK(numbers(part.batch(mine, 4).actions) == numbers(demos.batch(theirs, 4).actions));
}

TEST_CASE("what is no set of demonstrations is refused", "[demonstrations_test]") {
  const Demonstrations demos = few("tabletop");
  const Tabletop world;
  const auto make = [&](const Tensor& actions, std::vector<int64_t> ends) {
    return error_of<Error>(
        [&] { Demonstrations(world, demos.slice(0, 1).snapshots(), actions, ends); });
  };
  const Tensor actions = demos.slice(0, 1).actions();
  const int64_t n = actions.size(0);
  CHECK(make(actions, {n}) == "no error");
  CHECK(contains(make(actions, {n + 1}), "accepted are increasing numbers"));
  CHECK(contains(make(actions, {5, 5, n}), "ends: 5 after 5 given"));
  CHECK(contains(make(actions, {}), "accepted are increasing numbers"));
  CHECK(contains(make(demos.actions(), {n}), "one action a snapshot"));
  CHECK(contains(make(Tensor::empty({n, 3}, DType::float64), {n}), "accepted is (T, 2) float64"));
  Tensor bad = Tensor::from<double>(numbers(actions), actions.shape());
  bad.data<double>()[3] = std::nan("");
  CHECK(contains(make(bad, {n}), "actions holds numbers that are not finite"));

  const std::vector<int64_t> frames{demos.size()};
  CHECK(contains(error_of<ValueError>([&] { demos.batch(frames, 4); }), "frame is "));
  CHECK(contains(error_of<ValueError>([&] { demos.batch({}, 0); }), "horizon is 0"));
  CHECK(contains(error_of<ValueError>([&] { demos.slice(3, 3); }), "[3, 3) of 40 episodes"));
  CHECK(contains(error_of<ValueError>([] { scripted_demonstrations("pusht"); }),
                 "world is 'pusht'; accepted are tabletop, fork"));
  CHECK(contains(error_of<ValueError>([] { scripted_demonstrations("fork", {.episodes = 0}); }),
                 "0 episodes"));
  CHECK(contains(error_of<ValueError>([] { scripted_demonstrations("fork", {.noise = -1.0}); }),
                 "noise -1"));
}
