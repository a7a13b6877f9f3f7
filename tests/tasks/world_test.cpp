#include "flowgrad/tasks/world.h"

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/canvas.h"
#include "flowgrad/tasks/episodes.h"
#include "flowgrad/tasks/pusht.h"
#include "flowgrad/tasks/tabletop.h"
#include "tests/catch.hpp"
#include "tests/tasks/world_support.h"

using namespace flowgrad;
using world_test::contains;
using world_test::error_of;
using world_test::features;
using world_test::picture;
using world_test::saved;

namespace {

std::vector<std::string> available_worlds() {
  std::vector<std::string> names = world_names();
  if (!PushT::available()) names.pop_back();
  return names;
}

/// Steps towards places that depend on the step's number alone.
void wander(World& world, int steps) {
  const WorldSpec& spec = world.spec();
  Draws draws(4, 4);
  for (int i = 0; i < steps && !world.done(); ++i) {
    const double x = draws.uniform(spec.action_low, spec.action_high);
    world.step(std::array{x, draws.uniform(spec.action_low, spec.action_high)});
  }
}

double mean(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float v : values) sum += static_cast<double>(v);
  return sum / static_cast<double>(values.size());
}

}  // namespace

TEST_CASE("an episode depends on seed and number, not on what ran before", "[world_test]") {
  for (const std::string& name : available_worlds()) {
    INFO(name);
    const auto a = make_world(name);
    const auto b = make_world(name);
    wander(*b, 30);
    a->reset(100, 5);
    b->reset(100, 5);
    CHECK(saved(*a) == saved(*b));
    wander(*a, 40);
    wander(*b, 40);
    CHECK(saved(*a) == saved(*b));
    CHECK(features(*a) == features(*b));
    b->reset(100, 6);
    CHECK(saved(*a) != saved(*b));
    b->reset(102, 5);
    CHECK(saved(*a) != saved(*b));
  }
}

TEST_CASE("clones and snapshots go on as the original does", "[world_test]") {
  for (const std::string& name : available_worlds()) {
    INFO(name);
    const auto a = make_world(name);
    a->reset(7, 1);
    // PushT's solver remembers contacts, which a snapshot does not hold: compare without any.
    wander(*a, name == "pusht" ? 0 : 20);
    const auto b = a->clone();
    const auto c = make_world(name);
    c->restore(saved(*a));
    wander(*b, 3);
    CHECK(saved(*a) != saved(*b));
    wander(*a, 3);
    wander(*c, 3);
    CHECK(saved(*a) == saved(*b));
    CHECK(saved(*a) == saved(*c));
    CHECK(a->outcome() == c->outcome());
    CHECK(a->instruction() == c->instruction());
    CHECK(picture(*a, {24, 24}) == picture(*c, {24, 24}));
  }
}

TEST_CASE("pictures of any size show the same scene", "[world_test]") {
  for (const std::string& name : available_worlds()) {
    INFO(name);
    const auto world = make_world(name);
    const std::vector<float> large = picture(*world, {448, 448});
    for (const ImageSize size : {ImageSize{8, 8}, {32, 32}, {224, 224}, {33, 57}, {7, 5}, {1, 1}}) {
      INFO(size.height << " x " << size.width);
      const std::vector<float> image = picture(*world, size);
      CHECK(*std::min_element(image.begin(), image.end()) >= 0.0f);
      CHECK(*std::max_element(image.begin(), image.end()) <= 1.0f);
      // Anti-aliasing keeps the mean colour.
      CHECK(mean(image) == Catch::Approx(mean(large)).margin(0.002));
    }
    std::vector<float> out(3 * 64);
    CHECK(contains(error_of<ShapeError>([&] {
                     world->render(out, {8, 9});
                   }),
                   "192 numbers; an image of 3 x 8 x 9 has 216"));
    CHECK(contains(error_of<ValueError>([&] {
                     world->render(out, {0, 8});
                   }),
                   "the image is 0 x 8; accepted are sides of 1 to 4096"));
  }
}

TEST_CASE("a picture has its discs where the state says", "[world_test]") {
  Tabletop world;
  world.reset(3, 4);
  const int side = 200;
  const std::vector<float> image = picture(world, {side, side});
  const auto channel = [&](Vec2 p, int c) {
    const int column = static_cast<int>(p.x * side);
    const int row = static_cast<int>((1.0 - p.y) * side);
    return image[static_cast<size_t>((c * side + row) * side + column)];
  };
  for (int i = 0; i < 3; ++i) {
    for (int c = 0; c < 3; ++c) {
      if (c != i) CHECK(channel(world.disc(i), i) > channel(world.disc(i), c) + 0.2f);
    }
  }
  CHECK(channel(world.pusher(), 0) < 0.2f);
  // A move of the scene is a move of the picture: nothing else is drawn from the goal.
  Tabletop other(WorldOptions{.counterfactual = Counterfactual::told});
  other.reset(3, 4);
  CHECK(other.color() != world.color());
  CHECK(picture(other, {side, side}) == image);
}

TEST_CASE("shapes on a canvas have their areas", "[world_test]") {
  std::vector<float> out(3 * 100 * 150);
  Canvas disc(out, 100, 150, 2.0, {0, 0, 0});
  disc.disc({0.8, 1.1}, 0.37, {1, 1, 1});
  constexpr double kPi = 3.14159265358979;
  CHECK(4.0 * mean(out) == Catch::Approx(kPi * 0.37 * 0.37).epsilon(0.003));
  Canvas box(out, 100, 150, 2.0, {0, 0, 0});
  box.box({0.9, 1.0}, {0.5, 0.2}, 0.8, 0.6, {1, 1, 1});
  CHECK(4.0 * mean(out) == Catch::Approx(0.4).epsilon(0.01));
  // The long side points up to the right: rows at the top are small.
  const auto at = [&](double x, double y) {
    const auto row = static_cast<size_t>((2.0 - y) * 50);
    return out[row * 150 + static_cast<size_t>(x * 75)];
  };
  CHECK(at(0.9 + 0.8 * 0.45, 1.0 + 0.6 * 0.45) == 1.0f);
  CHECK(at(0.9 + 0.8 * 0.45, 1.0 - 0.6 * 0.45) == 0.0f);
  // Over the edge only what is inside is painted.
  Canvas edge(out, 100, 150, 2.0, {0, 0, 0});
  edge.disc({0.0, 2.0}, 1.0, {1, 1, 1});
  CHECK(4.0 * mean(out) == Catch::Approx(kPi / 4.0).epsilon(0.005));
}

TEST_CASE("observations are rows of the worlds that were looked at", "[world_test]") {
  Tabletop a, b;
  b.reset(1, 1);
  Observer observer(a.spec(), 2, {9, 11});
  observer.look(0, a);
  observer.look(1, b);
  const Observations& o = observer.observations();
  CHECK(o.state.shape() == Shape{2, 16});
  CHECK(o.robot.shape() == Shape{2, 2});
  CHECK(o.tokens.shape() == Shape{2, tabletop::kTokenLength});
  CHECK(o.tokens.dtype() == DType::int64);
  REQUIRE(o.images.shape() == Shape{2, 3, 9, 11});
  const std::vector<float> image = picture(b, {9, 11});
  const float* data = o.images.data<float>() + image.size();
  CHECK(std::equal(image.begin(), image.end(), data));
  const std::vector<float> state = features(b);
  CHECK(std::equal(state.begin(), state.end(), o.state.data<float>() + 16));
  CHECK(!Observer(a.spec(), 0).observations().images.defined());
  CHECK(Observer(a.spec(), 0).observations().state.shape() == Shape{0, 16});
  CHECK(contains(error_of<ValueError>([&] { Observer(a.spec(), 1, {8, 0}); }), "images are 8 x 0"));
}

TEST_CASE("draws of an episode are independent of one another, whatever their kind",
          "[world_test]") {
  // A coin and the normal after it: sizes of normals do not tell the coin.
  double sum[2] = {};
  int count[2] = {};
  for (uint64_t stream = 0; stream < 20000; ++stream) {
    Draws draws(6, stream);
    const int coin = draws.integer(2);
    sum[coin] += std::abs(draws.normal());
    ++count[coin];
  }
  // Four standard errors of the difference of two means of |z|, whose deviation is 0.603.
  CHECK(std::abs(sum[0] / count[0] - sum[1] / count[1]) < 4.0 * 0.603 * std::sqrt(2.0 / 10000.0));
  CHECK(std::abs(count[0] - 10000) < 4 * 71);
  Draws a(1, 2), b(1, 2);
  a.uniform(0, 1);
  b.normal();
  CHECK(a.uniform(-3, 5) == b.uniform(-3, 5));
}

TEST_CASE("unknown worlds and options are refused", "[world_test]") {
  CHECK(error_of<ValueError>([] { make_world("kitchen"); }) ==
        "make_world: name is 'kitchen'; accepted are tabletop, fork, pusht");
  CHECK(contains(error_of<ValueError>([] { make_world("fork", {.split = Split::pair}); }),
                 "fork has one thing to push"));
  CHECK(contains(
      error_of<ValueError>([] { make_world("pusht", {.counterfactual = Counterfactual::told}); }),
      "pusht has one thing to push"));
  if (!PushT::available()) {
    CHECK(contains(error_of<ValueError>([] { make_world("pusht"); }), "install libchipmunk-dev"));
  }
}
