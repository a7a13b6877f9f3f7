#include "flowgrad/tasks/pusht.h"

#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "flowgrad/core/error.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/tasks/demonstrations.h"
#include "flowgrad/tasks/episodes.h"
#include "flowgrad/tasks/pusht_physics.h"
#include "tests/catch.hpp"
#include "tests/core/io_support.h"
#include "tests/tasks/world_support.h"

using namespace flowgrad;
using world_test::contains;
using world_test::error_of;
using world_test::features;
using world_test::saved;

namespace {

const std::string kExcerpt = FLOWGRAD_TEST_DATA "/tasks/data/pusht_excerpt.npz";

PushT::State recorded(const Demonstrations& demos, int64_t frame) {
  const double* data = demos.snapshots().data<double>() + frame * demos.snapshots().size(1);
  PushT::State state;
  std::copy_n(data, state.size(), state.begin());
  return state;
}

Tensor zeros_of(const Shape& shape) {
  Tensor t = Tensor::empty(shape);
  std::fill_n(t.data<float>(), t.numel(), 0.0f);
  return t;
}

/// As numpy.savez writes it.
void put_npz(const std::string& path, const NamedTensors& arrays) {
  const auto number = [](uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
    return out;
  };
  std::string members, directory;
  for (const auto& [key, array] : arrays) {
    save_npy(path + ".npy", array);
    const std::string content = io_test::get(path + ".npy"), name = key + ".npy";
    const auto crc =
        crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size()));
    const std::string facts = number(20, 2) + number(0, 8) + number(crc, 4) +
                              number(content.size(), 4) + number(content.size(), 4) +
                              number(name.size(), 2) + number(0, 2);
    directory +=
        "PK\x01\x02" + number(20, 2) + facts + number(0, 10) + number(members.size(), 4) + name;
    members += "PK\x03\x04" + facts + name + content;
  }
  io_test::put(path, members + directory + "PK\x05\x06" + number(0, 4) + number(arrays.size(), 2) +
                         number(arrays.size(), 2) + number(directory.size(), 4) +
                         number(members.size(), 4) + number(0, 2));
}

struct Replay {
  int64_t episodes = 0;
  int64_t exact = 0;      ///< episodes that stay within 1e-3 pixels of the recording
  double worst = 0.0;     ///< largest distance in those
  double coverage = 0.0;  ///< mean of the highest coverage of an episode
};
/// Plays the recorded actions from every recorded start. The recording may go on where the task
/// would have ended, so this drives the physics itself.
Replay replay(const Demonstrations& demos) {
  Replay out;
  out.episodes = demos.episodes();
  const double* action = demos.actions().data<double>();
  for (int64_t e = 0; e < demos.episodes(); ++e) {
    PushTPhysics physics;
    physics.place(recorded(demos, demos.first_frame(e)), {});
    physics.settle();
    double off = 0.0, coverage = 0.0;
    for (int64_t f = demos.first_frame(e); f < demos.end_frame(e); ++f) {
      const PushT::State now = physics.state();
      const PushT::State then = recorded(demos, f);
      for (size_t i = 0; i < 4; ++i) off = std::max(off, std::abs(now[i] - then[i]));
      physics.step({action[2 * f], action[2 * f + 1]});
      coverage = std::max(coverage, PushT::coverage_of(physics.state()));
    }
    if (off < 1e-3) {
      ++out.exact;
      out.worst = std::max(out.worst, off);
    }
    out.coverage += coverage / static_cast<double>(demos.episodes());
  }
  return out;
}

/// Share of a fine grid over the outline that lies in the T.
double coverage_by_counting(const PushT::State& state) {
  const auto inside = [](const PushT::State& s, Vec2 p) {
    const Vec2 d{p.x - s[2], p.y - s[3]};
    const double x = std::cos(s[4]) * d.x + std::sin(s[4]) * d.y;
    const double y = std::cos(s[4]) * d.y - std::sin(s[4]) * d.x;
    return (std::abs(x) <= 60 && y >= 0 && y <= 30) || (std::abs(x) <= 15 && y >= 0 && y <= 120);
  };
  const PushT::State goal{0, 0, 256, 256, 3.14159265358979 / 4};
  int both = 0, all = 0;
  for (double x = 100; x < 400; x += 0.5) {
    for (double y = 150; y < 450; y += 0.5) {
      if (!inside(goal, {x, y})) continue;
      ++all;
      both += inside(state, {x, y}) ? 1 : 0;
    }
  }
  return static_cast<double>(both) / all;
}

bool without_chipmunk() {
  if (!PushT::available()) WARN("skipped: this build has no Chipmunk (libchipmunk-dev)");
  return !PushT::available();
}

}  // namespace

TEST_CASE("PushT without Chipmunk says what is missing", "[pusht_test]") {
  if (PushT::available()) return;
  CHECK(error_of<ValueError>([] { PushT(); }) ==
        "pusht: this build was configured without Chipmunk, the engine of its physics; install "
        "libchipmunk-dev and configure again");
}

TEST_CASE("initial states are those of the published seeds", "[pusht_test]") {
  const Tensor published = load_npy(FLOWGRAD_TEST_DATA "/tasks/data/pusht_initial_states.npy");
  REQUIRE(published.shape() == Shape{200, 5});
  double worst = 0.0;
  for (int64_t i = 0; i < 200; ++i) {
    const auto state = PushT::initial_state(static_cast<uint32_t>(PushT::kPublishedSeed) +
                                            static_cast<uint32_t>(i));
    for (int64_t k = 0; k < 5; ++k) {
      worst = std::max(worst, std::abs(state[static_cast<size_t>(k)] - published.at({i, k})));
    }
  }
  CHECK(worst < 1e-12);
}

TEST_CASE("coverage is the share of the outline under the T", "[pusht_test]") {
  const double quarter = 3.14159265358979323846 / 4;
  CHECK(PushT::coverage_of({0, 0, 256, 256, quarter}) == Catch::Approx(1.0));
  CHECK(PushT::coverage_of({0, 0, 256, 256, quarter + 8 * quarter}) == Catch::Approx(1.0));
  CHECK(PushT::coverage_of({0, 0, 50, 50, 0}) == 0.0);
  for (const PushT::State& state :
       {PushT::State{0, 0, 250, 262, 0.6}, PushT::State{0, 0, 280, 256, 0.8},
        PushT::State{0, 0, 256, 256, -1.0}, PushT::State{0, 0, 200, 330, 3.5}}) {
    CHECK(PushT::coverage_of(state) == Catch::Approx(coverage_by_counting(state)).margin(0.004));
  }
}

TEST_CASE("human demonstrations replay as they were recorded", "[pusht_test]") {
  if (without_chipmunk()) return;
  const Demonstrations demos = pusht_demonstrations(kExcerpt);
  CHECK(demos.episodes() == 5);
  CHECK(demos.size() == 564);
  const Replay result = replay(demos);
  CHECK(result.exact == 5);
  CHECK(result.worst < 1e-3);
  CHECK(result.coverage > 0.85);
}

TEST_CASE("mirrored demonstrations are demonstrations", "[pusht_test]") {
  if (without_chipmunk()) return;
  const Demonstrations once = pusht_demonstrations(kExcerpt);
  const Demonstrations demos = pusht_demonstrations(kExcerpt, true);
  REQUIRE(demos.episodes() == 10);
  REQUIRE(demos.size() == 2 * once.size());
  CHECK(demos.end_frame(4) == once.size());
  const Demonstrations images = demos.slice(5, 10);
  for (const int64_t frame : {int64_t{0}, int64_t{100}, once.size() - 1}) {
    PushT::State state, image;
    for (int64_t k = 0; k < 5; ++k) {
      state[static_cast<size_t>(k)] = once.snapshots().at({frame, k});
      image[static_cast<size_t>(k)] = images.snapshots().at({frame, k});
    }
    CHECK(PushT::coverage_of(image) == Catch::Approx(PushT::coverage_of(state)).margin(1e-9));
    const PushT::State back = PushT::mirrored(image);
    for (size_t k = 0; k < 5; ++k) CHECK(back[k] == Catch::Approx(state[k]).margin(1e-9));
  }
  // The physics agree: each image replays as its original does, but for the order of contacts.
  const Replay result = replay(images);
  CHECK(result.worst < 0.05);
  CHECK(result.coverage == Catch::Approx(replay(once).coverage).margin(1e-3));
}

TEST_CASE("the whole set replays within 1e-3 pixels in 95 % of its episodes", "[pusht_test]") {
  if (without_chipmunk()) return;
  const char* folder = std::getenv("FLOWGRAD_DATA");
  const std::string path = folder != nullptr ? std::string(folder) + "/pusht.npz"
                                             : FLOWGRAD_TEST_DATA "/../../shared/data/pusht.npz";
  if (!std::filesystem::exists(path)) {
    WARN("skipped: " << path << " is not there; FLOWGRAD_DATA names the folder of pusht.npz");
    return;
  }
  const Demonstrations demos = pusht_demonstrations(path);
  REQUIRE(demos.episodes() == 206);
  REQUIRE(demos.size() == 25650);
  const Replay result = replay(demos);
  CHECK(result.exact >= 196);
  CHECK(result.coverage == Catch::Approx(0.89946).margin(1e-3));
}

TEST_CASE("an episode of PushT follows its rules", "[pusht_test]") {
  if (without_chipmunk()) return;
  PushT world;
  world.reset(PushT::kPublishedSeed, 3);
  const PushT::State start = world.pose();
  const PushT::State drawn = PushT::initial_state(100003);
  CHECK(start[0] == drawn[0]);
  CHECK(start[4] == Catch::Approx(drawn[4]).margin(1e-9));
  const Vec2 target{start[0] < 256 ? 20.0 : 490.0, 20.0};
  // PD control settles on its target without overshoot of note.
  for (int i = 0; i < 60; ++i) world.step(std::array{target.x, target.y});
  CHECK(world.pose()[0] == Catch::Approx(target.x).margin(0.5));
  CHECK(world.pose()[1] == Catch::Approx(target.y).margin(0.5));
  while (!world.done()) world.step(std::array{1e9, -1e9});
  CHECK(world.outcome().steps == PushT::kMaxSteps);
  CHECK(world.pose()[0] == Catch::Approx(512.0).margin(0.5));
  const EpisodeOutcome outcome = world.outcome();
  CHECK(!outcome.success);
  CHECK(outcome.score < 1.0);
  // Score and success are of the best moment.
  world.reset_to({100, 100, 256, 256, 3.14159265358979 / 4});
  CHECK(world.done());
  CHECK(world.outcome().success);
  CHECK(world.outcome().score == 1.0);
  CHECK(contains(error_of<ValueError>([&] { world.reset(4294967295u, 1); }),
                 "accepted are sums up to 4294967295"));
  CHECK(contains(error_of<ValueError>([&] {
                   world.reset_to({0, 0, std::nan(""), 0, 0});
                 }),
                 "accepted are finite numbers"));
}

TEST_CASE("PushT runs in the closed loop, the same in any number of rows", "[pusht_test]") {
  if (without_chipmunk()) return;
  const PushT world;
  EvaluationOptions options{.episodes = 6, .seed = PushT::kPublishedSeed, .record = 6};
  const auto results = evaluate(world, random_policy(world.spec(), 4), options);
  options.lockstep = 1;
  CHECK(results == evaluate(world, random_policy(world.spec(), 4), options));
  for (const EpisodeResult& r : results) {
    const PushT::State start =
        PushT::initial_state(static_cast<uint32_t>(PushT::kPublishedSeed + r.episode));
    CHECK(r.snapshots[0] == start[0]);
    CHECK(r.outcome.steps == PushT::kMaxSteps);
    CHECK(r.outcome.score < 0.9);
  }
}

TEST_CASE("PushT shows now and one step ago", "[pusht_test]") {
  if (without_chipmunk()) return;
  PushT world;
  const std::vector<float> first = features(world);
  REQUIRE(first.size() == 36);
  CHECK(std::equal(first.begin(), first.begin() + 18, first.begin() + 18));
  world.step(std::array{10.0, 10.0});
  const std::vector<float> second = features(world);
  CHECK(std::equal(first.begin(), first.begin() + 18, second.begin() + 18));
  CHECK(second[16] == static_cast<float>(world.pose()[0]));
  world.step(std::array{10.0, 10.0});
  const std::vector<float> third = features(world);
  CHECK(std::equal(second.begin(), second.begin() + 18, third.begin() + 18));
  CHECK(third[16] != second[16]);
  // The corner at the bar's left end, of a T turned by a quarter.
  const auto corners = PushT::corners({0, 0, 100, 200, 3.14159265358979 / 2});
  CHECK(corners[0].x == Catch::Approx(100.0));
  CHECK(corners[0].y == Catch::Approx(140.0));
  CHECK(corners[4].x == Catch::Approx(-20.0));
  CHECK(corners[4].y == Catch::Approx(215.0));
}

TEST_CASE("demonstrations of PushT are checked when they are read", "[pusht_test]") {
  if (without_chipmunk()) return;
  CHECK(contains(error_of<IoError>([] { pusht_demonstrations("/nowhere.npz"); }),
                 "load_npz: /nowhere.npz: cannot be opened"));
  CHECK(contains(
      error_of<IoError>([] { pusht_demonstrations(FLOWGRAD_TEST_DATA "/core/data/arrays.npz"); }),
      "no array state of float32 and shape (T, 5)"));
  const io_test::Scratch folder;
  const std::string bytes = io_test::get(kExcerpt);
  io_test::put(folder / "cut.npz", bytes.substr(0, bytes.size() / 2));
  CHECK(contains(error_of<IoError>([&] { pusht_demonstrations(folder / "cut.npz"); }),
                 "is truncated"));
  // Frame 1 knows the frame before; a frame that begins an episode is its own past.
  for (const std::vector<int64_t>& ends :
       {std::vector<int64_t>{0, 4}, {3, 3, 4}, {std::numeric_limits<int64_t>::max(), 4}, {-1, 4}}) {
    put_npz(folder / "ends.npz", {{"state", zeros_of({4, 5})},
                                  {"action", zeros_of({4, 2})},
                                  {"episode_ends", Tensor::from(ends, {std::ssize(ends)})}});
    for (const bool mirror : {false, true}) {
      CHECK(contains(error_of<IoError>([&] { pusht_demonstrations(folder / "ends.npz", mirror); }),
                     "increasing numbers from 1 to 4 are accepted"));
    }
  }
  const Demonstrations demos = pusht_demonstrations(kExcerpt);
  const std::vector<int64_t> frames{0, 1, demos.first_frame(1)};
  const ChunkBatch batch = demos.batch(frames, 4, {16, 16});
  CHECK(batch.observations.state.at({1, 34}) == Catch::Approx(recorded(demos, 0)[0]));
  CHECK(batch.observations.state.at({2, 34}) == batch.observations.state.at({2, 16}));
  CHECK(batch.actions.at({0, 1, 0}) == demos.actions().at({1, 0}));
  CHECK(!batch.observations.tokens.defined());
  CHECK(batch.observations.images.shape() == Shape{3, 3, 16, 16});
}
