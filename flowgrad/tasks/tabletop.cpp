#include "flowgrad/tasks/tabletop.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/canvas.h"

namespace flowgrad {
namespace {

constexpr int kSubsteps = 4;
constexpr double kZoneOffset = 0.38;
constexpr double kPillarGap = Tabletop::kPillarRadius + Tabletop::kDiscRadius;

WorldSpec spec_of(bool fork) {
  WorldSpec spec;
  spec.name = fork ? "fork" : "tabletop";
  spec.action_dim = 2;
  spec.state_dim = fork ? 14 : 16;
  spec.robot_dim = 2;
  spec.token_length = tabletop::kTokenLength;
  spec.vocabulary = static_cast<int64_t>(tabletop::vocabulary().size()) + 1;
  spec.snapshot_dim = 20;
  spec.max_steps = Tabletop::kMaxSteps;
  return spec;
}

Vec2 clamped(Vec2 p, double margin) {
  return {std::clamp(p.x, margin, 1.0 - margin), std::clamp(p.y, margin, 1.0 - margin)};
}

Vec2 anywhere(Draws& draws, double margin) {
  const double x = draws.uniform(margin, 1.0 - margin);
  return {x, draws.uniform(margin, 1.0 - margin)};
}

}  // namespace

Tabletop::Tabletop(const WorldOptions& options, bool fork) : options_(options), fork_(fork) {
  static const WorldSpec specs[] = {spec_of(false), spec_of(true)};
  spec_ = &specs[fork ? 1 : 0];
  reset(0, 0);
}

Vec2 Tabletop::zone_center(int zone) {
  constexpr Vec2 kDirections[tabletop::kZones] = {{0, 1}, {1, 0}, {0, -1}, {-1, 0}};
  return Vec2{0.5, 0.5} + kZoneOffset * kDirections[zone];
}

void Tabletop::reset(uint64_t seed, uint64_t episode) {
  now_ = {};
  Draws draws(seed, world_stream(episode));
  if (fork_) {
    place_fork(draws);
  } else {
    place_discs(draws);
  }
  do {
    now_.pusher = anywhere(draws, 0.05);
  } while (std::any_of(now_.discs.begin(), now_.discs.begin() + disc_count(),
                       [&](Vec2 d) { return norm(d - now_.pusher) < kContact + 0.03; }));
  draw_goal(draws);
  now_.start = disc(scored_disc());
}

/// Away from one another and from every zone, so that any goal is equally open.
void Tabletop::place_discs(Draws& draws) {
  constexpr double kApart = 2.0 * kContact + 0.02;
  constexpr double kFromZones = kZoneRadius + kDiscRadius + 0.04;
  for (size_t i = 0; i < now_.discs.size(); ++i) {
    bool fits = false;
    while (!fits) {
      now_.discs[i] = anywhere(draws, 0.2);
      fits = true;
      for (size_t j = 0; j < i; ++j) fits = fits && norm(now_.discs[i] - now_.discs[j]) >= kApart;
      for (int z = 0; z < tabletop::kZones; ++z) {
        fits = fits && norm(now_.discs[i] - zone_center(z)) >= kFromZones;
      }
    }
  }
}

/// Far enough from the zone that there is room beside the pillar.
void Tabletop::place_fork(Draws& draws) {
  now_.zone = draws.integer(tabletop::kZones);
  double distance = 0.0;
  do {
    now_.discs[0] = anywhere(draws, 0.25);
    distance = norm(now_.discs[0] - zone_center(now_.zone));
  } while (distance < 0.45 || distance > 0.62);
  now_.pillar = 0.5 * (now_.discs[0] + zone_center(now_.zone));
}

void Tabletop::draw_goal(Draws& draws) {
  const auto seen = static_cast<int>(tabletop::wordings().size()) - tabletop::kHeldOutWordings;
  const bool held_out_wording = options_.split == Split::wording;
  now_.wording =
      held_out_wording ? seen + draws.integer(tabletop::kHeldOutWordings) : draws.integer(seen);
  if (fork_) {
    now_.scored = draws.integer(tabletop::kColors);
  } else {
    const bool held_out_pair = options_.split == Split::pair;
    do {
      now_.scored = draws.integer(tabletop::kColors);
      now_.zone = draws.integer(tabletop::kZones);
    } while (tabletop::is_held_out(now_.scored, now_.zone) != held_out_pair);
  }
  now_.told = now_.scored;
  if (options_.counterfactual == Counterfactual::none) return;
  // Another colour, whose pair with this zone was demonstrated.
  now_.told = (now_.scored + 1 + draws.integer(2)) % tabletop::kColors;
  if (tabletop::is_held_out(now_.told, now_.zone)) {
    now_.told = tabletop::kColors - now_.told - now_.scored;
  }
  if (options_.counterfactual == Counterfactual::told) now_.scored = now_.told;
}

/// Moves discs out of the pusher, out of one another and onto the table, in turns, until nothing
/// overlaps; false where that does not come to rest, for a disc caught between pusher and wall.
bool Tabletop::settle(Vec2 pusher, std::array<Vec2, tabletop::kColors>& discs) const {
  constexpr int kTurns = 30;
  const int count = disc_count();
  for (int turn = 0; turn < kTurns; ++turn) {
    double worst = 0.0;
    const auto separate = [&](Vec2 from, Vec2 to, double distance) {
      const double gap = norm(to - from);
      worst = std::max(worst, distance - gap);
      return std::max(distance - gap, 0.0) * unit(to - from);
    };
    for (int i = 0; i < count; ++i) {
      Vec2& a = discs[static_cast<size_t>(i)];
      a = a + separate(pusher, a, kContact);
      for (int j = 0; j < i; ++j) {
        Vec2& b = discs[static_cast<size_t>(j)];
        const Vec2 push = separate(a, b, 2.0 * kDiscRadius);
        a = a - 0.5 * push;
        b = b + 0.5 * push;
      }
    }
    for (int i = 0; i < count; ++i) {
      Vec2& a = discs[static_cast<size_t>(i)];
      a = clamped(a, kDiscRadius);
    }
    if (worst <= 0.1 * kSlop) return true;
  }
  return false;
}

void Tabletop::advance(std::span<const double> action) {
  const Vec2 wanted = clamped({action[0], action[1]}, kPusherRadius);
  const Vec2 way = wanted - now_.pusher;
  const double length = norm(way);
  const double scale = length > kSpeed ? kSpeed / length : 1.0;
  const Vec2 substep = (scale / kSubsteps) * way;
  for (int i = 0; i < kSubsteps && !now_.failed; ++i) {
    std::array<Vec2, tabletop::kColors> discs = now_.discs;
    const Vec2 pusher = now_.pusher + substep;
    if (!settle(pusher, discs)) break;
    now_.pusher = pusher;
    now_.discs = discs;
    if (fork_) watch_pillar();
  }
  ++now_.steps;
  now_.success =
      !now_.failed && norm(disc(scored_disc()) - zone_center(now_.zone)) <= kSuccessDistance;
}

/// Notes on which side of the line from start to zone the disc passes the pillar or touches it.
void Tabletop::watch_pillar() {
  const Vec2 way = zone_center(now_.zone) - now_.start;
  const Vec2 beside = disc(0) - now_.pillar;
  now_.failed = norm(beside) < kPillarGap;
  const bool passed = dot(beside, way) >= 0.0;
  if (now_.mode == 0 && (passed || now_.failed)) now_.mode = cross(way, beside) > 0.0 ? 1 : -1;
}

EpisodeOutcome Tabletop::outcome() const {
  const Vec2 zone = zone_center(now_.zone);
  const double progress = 1.0 - norm(disc(scored_disc()) - zone) / norm(now_.start - zone);
  return {.success = now_.success,
          .score = now_.success ? 1.0 : std::clamp(progress, 0.0, 1.0),
          .steps = now_.steps,
          .mode = now_.mode,
          .failure = now_.failed ? "pillar" : ""};
}

void Tabletop::state(std::span<float> out) const {
  size_t at = 0;
  const auto put = [&](Vec2 v) {
    out[at++] = static_cast<float>(v.x);
    out[at++] = static_cast<float>(v.y);
  };
  const Vec2 object = disc(target());
  const Vec2 zone = zone_center(now_.zone);
  put(now_.pusher);
  put(object);
  put(zone);
  put(object - now_.pusher);
  put(zone - object);
  if (fork_) {
    put(now_.pillar - object);
    put(now_.pillar - now_.pusher);
  } else {
    for (const Vec2 d : now_.discs) put(d - now_.pusher);
  }
}

void Tabletop::robot(std::span<float> out) const {
  out[0] = static_cast<float>(now_.pusher.x);
  out[1] = static_cast<float>(now_.pusher.y);
}

std::string Tabletop::instruction() const {
  return tabletop::instruction(now_.wording, now_.told, now_.zone);
}

void Tabletop::tokens(std::span<int64_t> out) const {
  const auto tokens = tabletop::tokenize(instruction());
  std::copy(tokens.begin(), tokens.end(), out.begin());
}

void Tabletop::render(std::span<float> out, ImageSize size) const {
  constexpr Canvas::Color kTable{0.94f, 0.93f, 0.90f};
  constexpr Canvas::Color kZone{0.80f, 0.79f, 0.76f};
  constexpr Canvas::Color kPillar{0.45f, 0.30f, 0.20f};
  constexpr Canvas::Color kPusher{0.12f, 0.12f, 0.14f};
  constexpr Canvas::Color kDiscs[] = {
      {0.84f, 0.19f, 0.20f}, {0.17f, 0.63f, 0.29f}, {0.18f, 0.37f, 0.82f}};
  Canvas canvas(out, size.height, size.width, 1.0, kTable);
  for (int z = 0; z < tabletop::kZones; ++z) canvas.disc(zone_center(z), kZoneRadius, kZone);
  if (fork_) {
    canvas.disc(now_.pillar, kPillarRadius, kPillar);
    canvas.disc(disc(0), kDiscRadius, kDiscs[now_.told]);
  } else {
    for (int i = 0; i < tabletop::kColors; ++i) canvas.disc(disc(i), kDiscRadius, kDiscs[i]);
  }
  canvas.disc(now_.pusher, kPusherRadius, kPusher);
}

void Tabletop::snapshot(std::span<double> out) const {
  const Numbers& n = now_;
  const double numbers[] = {n.pusher.x,
                            n.pusher.y,
                            n.discs[0].x,
                            n.discs[0].y,
                            n.discs[1].x,
                            n.discs[1].y,
                            n.discs[2].x,
                            n.discs[2].y,
                            n.pillar.x,
                            n.pillar.y,
                            n.start.x,
                            n.start.y,
                            static_cast<double>(n.steps),
                            static_cast<double>(n.told),
                            static_cast<double>(n.scored),
                            static_cast<double>(n.zone),
                            static_cast<double>(n.wording),
                            static_cast<double>(n.mode),
                            n.success ? 1.0 : 0.0,
                            n.failed ? 1.0 : 0.0};
  std::copy(std::begin(numbers), std::end(numbers), out.begin());
}

void Tabletop::restore(std::span<const double> numbers) {
  const auto point = [&](size_t at) { return Vec2{numbers[at], numbers[at + 1]}; };
  const auto whole = [&](size_t at, int low, int high) {
    if (!(numbers[at] >= low && numbers[at] <= high)) {
      throw ValueError(fmt::format("{}: number {} of a snapshot is {}; accepted are {} to {}",
                                   spec_->name, at, numbers[at], low, high));
    }
    return static_cast<int>(numbers[at]);
  };
  const auto index = [&](size_t at, size_t count) {
    return whole(at, 0, static_cast<int>(count) - 1);
  };
  now_ = {.pusher = point(0),
          .discs = {point(2), point(4), point(6)},
          .pillar = point(8),
          .start = point(10),
          .steps = whole(12, 0, kMaxSteps),
          .told = index(13, tabletop::kColors),
          .scored = index(14, tabletop::kColors),
          .zone = index(15, tabletop::kZones),
          .wording = index(16, tabletop::wordings().size()),
          .mode = whole(17, -1, 1),
          .success = whole(18, 0, 1) != 0,
          .failed = whole(19, 0, 1) != 0};
}

}  // namespace flowgrad
