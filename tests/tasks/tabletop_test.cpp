#include "flowgrad/tasks/tabletop.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"
#include "tests/tasks/world_support.h"

using namespace flowgrad;
using world_test::contains;
using world_test::error_of;
using world_test::features;
using world_test::saved;

namespace {

/// Largest overlap of the pusher and discs, and of these with the table's edge.
double overlap(const Tabletop& world) {
  double worst = -1.0;
  const auto edge = [&](Vec2 p, double radius) {
    for (const double c : {p.x, p.y}) worst = std::max({worst, radius - c, c - 1.0 + radius});
  };
  edge(world.pusher(), Tabletop::kPusherRadius);
  for (int i = 0; i < world.disc_count(); ++i) {
    edge(world.disc(i), Tabletop::kDiscRadius);
    worst = std::max(worst, Tabletop::kContact - norm(world.disc(i) - world.pusher()));
    for (int j = 0; j < i; ++j) {
      const double distance = norm(world.disc(i) - world.disc(j));
      worst = std::max(worst, 2.0 * Tabletop::kDiscRadius - distance);
    }
  }
  return worst;
}

void step(Tabletop& world, Vec2 action) { world.step(std::array{action.x, action.y}); }

struct Rate {
  int solved = 0;
  int left = 0;
  double steps = 0.0;
};
Rate expert_rate(Tabletop world, int episodes, double noise) {
  Rate rate;
  for (int e = 0; e < episodes; ++e) {
    const auto episode = static_cast<uint64_t>(e);
    world.reset(11, episode);
    Draws draws(11, demonstrator_stream(episode));
    const int side = draws.integer(2) == 0 ? 1 : -1;
    while (!world.done()) {
      const Vec2 action = expert_action(world, side);
      const double dx = noise * draws.normal();
      step(world, action + Vec2{dx, noise * draws.normal()});
    }
    const EpisodeOutcome outcome = world.outcome();
    rate.solved += outcome.success ? 1 : 0;
    rate.left += outcome.mode == 1 ? 1 : 0;
    rate.steps += static_cast<double>(outcome.steps) / episodes;
    if (world.is_fork() && outcome.success) CHECK(outcome.mode == side);
  }
  return rate;
}

}  // namespace

TEST_CASE("nothing overlaps after a step, whatever the action", "[tabletop_test]") {
  const bool fork = GENERATE(false, true);
  Tabletop world = fork ? Tabletop::fork() : Tabletop();
  Draws draws(1, 1);
  double worst = -1.0;
  double farthest = 0.0;
  for (uint64_t episode = 0; episode < 200; ++episode) {
    world.reset(3, episode);
    CHECK(overlap(world) <= 0.0);
    while (!world.done()) {
      // Half of the actions aim at a disc, beyond it, so that discs jam against edges and others.
      const Vec2 disc = world.disc(draws.integer(world.disc_count()));
      const Vec2 aim = draws.integer(2) == 0 ? disc + 2.0 * (disc - world.pusher())
                                             : Vec2{draws.uniform(-1, 2), draws.uniform(-1, 2)};
      const Vec2 before = world.pusher();
      step(world, aim);
      farthest = std::max(farthest, norm(world.pusher() - before));
      worst = std::max(worst, overlap(world));
    }
  }
  CHECK(worst <= Tabletop::kSlop);
  CHECK(worst > -Tabletop::kSlop);
  CHECK(farthest <= Tabletop::kSpeed + 1e-12);
  CHECK(farthest > 0.99 * Tabletop::kSpeed);
}

TEST_CASE(
    "contact is quasi-static: a straight push carries a disc along, an oblique one turns it off",
    "[tabletop_test]") {
  Tabletop world;
  const auto place = [&](Vec2 pusher, Vec2 disc) {
    std::vector<double> numbers = saved(world);
    const double points[] = {pusher.x, pusher.y, disc.x, disc.y, 0.1, 0.9, 0.9, 0.9};
    std::copy(std::begin(points), std::end(points), numbers.begin());
    const double goal[] = {0, 1, 1, 2};  // no step yet; told and scored green, to the south
    std::copy(std::begin(goal), std::end(goal), numbers.begin() + 12);
    world.restore(numbers);
  };
  place({0.3, 0.5}, {0.4, 0.5});
  for (int i = 0; i < 5; ++i) step(world, {0.9, 0.5});
  CHECK(world.pusher().x == Catch::Approx(0.45));
  CHECK(world.disc(0).x == Catch::Approx(0.54));
  CHECK(world.disc(0).y == Catch::Approx(0.5));
  // Off the middle by 0.01 the disc leaves to the other side, more with every step.
  place({0.3, 0.49}, {0.4, 0.5});
  double slope = 0.0;
  for (int i = 0; i < 5; ++i) {
    const double before = world.disc(0).y;
    step(world, {0.9, 0.49});
    CHECK(world.disc(0).y - before > slope);
    slope = world.disc(0).y - before;
  }
  // Nothing moves by itself.
  const Vec2 rest = world.disc(0);
  for (int i = 0; i < 5; ++i) step(world, world.pusher());
  CHECK(world.disc(0) == rest);
  // A disc against the edge holds the pusher up.
  place({0.8, 0.5}, {0.92, 0.5});
  for (int i = 0; i < 5; ++i) step(world, {0.97, 0.5});
  CHECK(world.disc(0).x <= 0.94);
  CHECK(world.pusher().x == Catch::Approx(0.85).margin(0.01));
}

TEST_CASE("the expert solves the table and the fork, with noise as well", "[tabletop_test]") {
  const Rate table = expert_rate(Tabletop(), 1000, 0.0);
  CHECK(table.solved == 1000);
  CHECK(table.steps > 20.0);
  CHECK(table.steps < 32.0);
  CHECK(expert_rate(Tabletop(), 1000, 0.01).solved >= 998);
  const Rate fork = expert_rate(Tabletop::fork(), 1000, 0.0);
  CHECK(fork.solved == 1000);
  CHECK(fork.left > 400);
  CHECK(fork.left < 600);
  CHECK(expert_rate(Tabletop::fork(), 1000, 0.01).solved >= 990);
}

TEST_CASE("straight ahead, the fork's disc touches the pillar and fails", "[tabletop_test]") {
  Tabletop world = Tabletop::fork();
  int hits = 0;
  for (uint64_t episode = 0; episode < 100; ++episode) {
    world.reset(5, episode);
    const Vec2 zone = Tabletop::zone_center(world.zone());
    const Vec2 start = world.disc(0);
    CHECK(norm(world.pillar() - 0.5 * (start + zone)) < 1e-12);
    std::vector<double> numbers = saved(world);
    const Vec2 behind = start - (Tabletop::kContact + 0.01) * unit(zone - start);
    numbers[0] = behind.x;
    numbers[1] = behind.y;
    world.restore(numbers);
    while (!world.done()) step(world, zone);
    hits += world.outcome().failure == "pillar" ? 1 : 0;
    CHECK(!world.outcome().success);
    CHECK(world.outcome().score < 0.6);
    Tabletop again = Tabletop::fork();
    again.restore(saved(world));
    CHECK(again.done());
    CHECK(again.outcome() == world.outcome());
  }
  CHECK(hits == 100);
}

TEST_CASE("a reset says nothing of the goal", "[tabletop_test]") {
  // Means of the scene given the goal differ from the overall means by no more than chance, for
  // every number of the scene and every goal: the largest of 96 normals rarely exceeds 4.2.
  Tabletop world;
  constexpr int kEpisodes = 20000;
  constexpr size_t kNumbers = 8;
  double sum[kNumbers] = {}, squares[kNumbers] = {};
  double by_goal[12][kNumbers] = {};
  int count[12] = {};
  int near_target = 0;
  for (uint64_t e = 0; e < kEpisodes; ++e) {
    world.reset(17, e);
    const std::vector<double> scene = saved(world);
    const int goal = 4 * world.color() + world.zone();
    ++count[goal];
    for (size_t i = 0; i < kNumbers; ++i) {
      sum[i] += scene[i];
      squares[i] += scene[i] * scene[i];
      by_goal[goal][i] += scene[i];
    }
    int nearest = 0;
    for (int i = 1; i < 3; ++i) {
      if (norm(world.disc(i) - world.pusher()) < norm(world.disc(nearest) - world.pusher())) {
        nearest = i;
      }
    }
    near_target += nearest == world.target() ? 1 : 0;
    CHECK(!world.done());
  }
  double worst = 0.0;
  int goals = 0;
  for (int g = 0; g < 12; ++g) {
    if (count[g] == 0) continue;
    ++goals;
    for (size_t i = 0; i < kNumbers; ++i) {
      const double mean = sum[i] / kEpisodes;
      const double variance = squares[i] / kEpisodes - mean * mean;
      const double error = std::sqrt(variance / count[g]);
      worst = std::max(worst, std::abs(by_goal[g][i] / count[g] - mean) / error);
    }
  }
  CHECK(goals == 9);
  CHECK(worst < 4.2);
  // The nearest disc is the target as often as any other: a third, within four standard errors.
  CHECK(near_target / double{kEpisodes} == Catch::Approx(1.0 / 3.0).margin(0.0134));
}

TEST_CASE("instructions fit the goal, and the splits keep apart", "[tabletop_test]") {
  const auto collect = [](Split split) {
    Tabletop world(WorldOptions{.split = split});
    std::set<int> wordings, pairs;
    for (uint64_t e = 0; e < 2000; ++e) {
      world.reset(1, e);
      wordings.insert(world.wording());
      pairs.insert(10 * world.color() + world.zone());
      const std::string text = world.instruction();
      REQUIRE(contains(text, tabletop::kColorNames[static_cast<size_t>(world.color())]));
      REQUIRE(contains(text, tabletop::kZoneNames[static_cast<size_t>(world.zone())]));
      std::vector<int64_t> tokens(tabletop::kTokenLength);
      world.tokens(tokens);
      const auto expected = tabletop::tokenize(text);
      REQUIRE(std::equal(tokens.begin(), tokens.end(), expected.begin(), expected.end()));
    }
    return std::pair{wordings, pairs};
  };
  const auto [seen_wordings, seen_pairs] = collect(Split::seen);
  const auto [other_wordings, same_pairs] = collect(Split::wording);
  const auto [same_wordings, other_pairs] = collect(Split::pair);
  CHECK(seen_wordings.size() == tabletop::wordings().size() - tabletop::kHeldOutWordings);
  CHECK(other_wordings.size() == tabletop::kHeldOutWordings);
  CHECK(*seen_wordings.rbegin() < *other_wordings.begin());
  CHECK(seen_wordings == same_wordings);
  CHECK(seen_pairs == same_pairs);
  CHECK(seen_pairs.size() == 9);
  CHECK(other_pairs == std::set<int>{0, 11, 22});
}

TEST_CASE("held-out wordings are made of words that the others use", "[tabletop_test]") {
  const auto& all = tabletop::wordings();
  std::set<std::string> known, used;
  size_t longest = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    std::istringstream in(all[i]);
    const bool held_out = i + tabletop::kHeldOutWordings >= all.size();
    size_t length = 0;
    for (std::string word; in >> word; ++length) (held_out ? used : known).insert(word);
    longest = std::max(longest, length);
  }
  CHECK(std::includes(known.begin(), known.end(), used.begin(), used.end()));
  CHECK(static_cast<int64_t>(longest) <= tabletop::kTokenLength);
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == all.size());
  const auto& words = tabletop::vocabulary();
  CHECK(std::set<std::string>(words.begin(), words.end()).size() == words.size());
  CHECK(Tabletop().spec().vocabulary == static_cast<int64_t>(words.size()) + 1);
  const auto tokens = tabletop::tokenize("push the red disc");
  CHECK(words[static_cast<size_t>(tokens[2] - 1)] == "red");
  CHECK(tokens[4] == 0);
}

TEST_CASE("a counterfactual names another colour in the same scene", "[tabletop_test]") {
  Tabletop plain;
  Tabletop told(WorldOptions{.counterfactual = Counterfactual::told});
  Tabletop original(WorldOptions{.counterfactual = Counterfactual::original});
  int told_solved = 0, original_solved = 0;
  for (uint64_t e = 0; e < 200; ++e) {
    for (Tabletop* world : {&plain, &told, &original}) world->reset(9, e);
    CHECK(told.pusher() == plain.pusher());
    CHECK(told.disc(2) == plain.disc(2));
    CHECK(told.zone() == plain.zone());
    CHECK(told.color() != plain.color());
    CHECK(!tabletop::is_held_out(told.color(), told.zone()));
    CHECK(told.instruction() == original.instruction());
    original.restore(saved(original));
    for (Tabletop* world : {&told, &original}) {
      while (!world->done()) step(*world, expert_action(*world));
    }
    told_solved += told.outcome().success ? 1 : 0;
    original_solved += original.outcome().success ? 1 : 0;
  }
  CHECK(told_solved == 200);
  CHECK(original_solved <= 2);
}

TEST_CASE("state features are what they say", "[tabletop_test]") {
  Tabletop world;
  world.reset(2, 3);
  const std::vector<float> f = features(world);
  REQUIRE(f.size() == 16);
  const auto near = [&](size_t at, Vec2 v) {
    CHECK(static_cast<double>(f[at]) == Catch::Approx(v.x).margin(1e-6));
    CHECK(static_cast<double>(f[at + 1]) == Catch::Approx(v.y).margin(1e-6));
  };
  const Vec2 object = world.disc(world.target());
  near(0, world.pusher());
  near(2, object);
  near(4, Tabletop::zone_center(world.zone()));
  near(6, object - world.pusher());
  near(8, Tabletop::zone_center(world.zone()) - object);
  near(14, world.disc(2) - world.pusher());
  Tabletop fork = Tabletop::fork();
  const std::vector<float> g = features(fork);
  REQUIRE(g.size() == 14);
  CHECK(static_cast<double>(g[10]) == Catch::Approx((fork.pillar() - fork.disc(0)).x).margin(1e-6));
  CHECK(static_cast<double>(g[13]) ==
        Catch::Approx((fork.pillar() - fork.pusher()).y).margin(1e-6));
}

TEST_CASE("wrong use of the table raises", "[tabletop_test]") {
  Tabletop world;
  CHECK(error_of<ShapeError>([&] { world.step(std::array{0.5}); }) ==
        "tabletop: action has 1 numbers; accepted are 2");
  CHECK(contains(error_of<ValueError>([&] {
                   world.step(std::array{0.5, std::nan("")});
                 }),
                 "accepted are finite numbers"));
  while (!world.done()) step(world, world.pusher());
  CHECK(world.outcome().steps == Tabletop::kMaxSteps);
  CHECK(!world.outcome().success);
  CHECK(contains(error_of<ValueError>([&] { step(world, {}); }), "after the end of the episode"));
  CHECK(contains(error_of<ValueError>([] { tabletop::tokenize("push the pink disc"); }),
                 "\"pink\" is not a known word; accepted are red, green, blue, north"));
  CHECK(contains(error_of<ValueError>([] {
                   tabletop::tokenize(
                       "to to to to to to to to to to to "
                       "to to");
                 }),
                 "13 words; accepted are up to 12"));
  CHECK(contains(error_of<ValueError>([] { tabletop::instruction(0, 3, 0); }),
                 "color is 3; accepted are 0 to 2"));
  std::vector<double> numbers = saved(world);
  numbers[15] = 4.0;
  CHECK(contains(error_of<ValueError>([&] { world.restore(numbers); }),
                 "number 15 of a snapshot is 4; accepted are 0 to 3"));
}
