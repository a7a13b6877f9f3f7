#include "flowgrad/tasks/pusht.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "flowgrad/core/error.h"
#include "flowgrad/core/npz.h"
#include "flowgrad/tasks/canvas.h"
#include "flowgrad/tasks/demonstrations.h"
#include "flowgrad/tasks/pusht_physics.h"

namespace flowgrad {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr PushT::State kGoal{0.0, 0.0, 256.0, 256.0, kPi / 4.0};
constexpr Vec2 kCorners[PushT::kCorners] = {{-60, 0},  {60, 0},    {60, 30},  {15, 30},
                                            {15, 120}, {-15, 120}, {-15, 30}, {-60, 30}};
using Polygon = std::vector<Vec2>;

/// Bar and stem, which share an edge, so that areas add up.
std::array<Polygon, 2> rectangles(const PushT::State& state) {
  const auto c = PushT::corners(state);
  return {Polygon{c[0], c[1], c[2], c[7]}, Polygon{c[6], c[3], c[4], c[5]}};
}

/// What of a convex polygon lies to the left of the line from a to b (Sutherland and Hodgman 1974).
Polygon clip(const Polygon& polygon, Vec2 a, Vec2 b) {
  Polygon out;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const Vec2 p = polygon[i];
    const Vec2 q = polygon[(i + 1) % polygon.size()];
    const double at_p = cross(b - a, p - a);
    const double at_q = cross(b - a, q - a);
    if (at_p >= 0.0) out.push_back(p);
    if ((at_p >= 0.0) != (at_q >= 0.0)) out.push_back(p + (at_p / (at_p - at_q)) * (q - p));
  }
  return out;
}

double area(const Polygon& polygon) {
  double twice = 0.0;
  for (size_t i = 0; i < polygon.size(); ++i) {
    twice += cross(polygon[i], polygon[(i + 1) % polygon.size()]);
  }
  return 0.5 * twice;
}

/// NumPy's RandomState: the two draws that the published reset makes.
class LegacyRandom {
 public:
  explicit LegacyRandom(uint32_t seed) : engine_(seed) {}
  /// randint(low, high): masked bits until one fits.
  double integer(uint32_t low, uint32_t high) {
    const uint32_t most = high - low - 1;
    uint32_t mask = most;
    for (int shift : {1, 2, 4, 8, 16}) mask |= mask >> shift;
    uint32_t value;
    do {
      value = static_cast<uint32_t>(engine_()) & mask;
    } while (value > most);
    return low + value;
  }
  /// randn(): the polar method, whose first result is the second of its pair.
  double normal() {
    double x, y, square;
    do {
      x = 2.0 * uniform() - 1.0;
      y = 2.0 * uniform() - 1.0;
      square = x * x + y * y;
    } while (square >= 1.0 || square == 0.0);
    return std::sqrt(-2.0 * std::log(square) / square) * y;
  }

 private:
  double uniform() {
    const auto high = static_cast<double>(engine_() >> 5);
    const auto low = static_cast<double>(engine_() >> 6);
    return (high * 67108864.0 + low) / 9007199254740992.0;
  }
  std::mt19937 engine_;
};

}  // namespace

bool PushT::available() { return PushTPhysics::available(); }

PushT::PushT() : physics_(std::make_unique<PushTPhysics>()) { reset(kPublishedSeed, 0); }
PushT::PushT(const PushT& other)
    : World(other),
      now_(other.now_),
      before_(other.before_),
      velocity_(other.velocity_),
      steps_(other.steps_),
      best_(other.best_) {}
PushT::~PushT() = default;

const WorldSpec& PushT::spec() const {
  static const WorldSpec spec{.name = "pusht",
                              .action_dim = 2,
                              .state_dim = 4 * (kCorners + 1),
                              .robot_dim = 2,
                              .snapshot_dim = 14,
                              .max_steps = kMaxSteps,
                              .action_low = 0.0,
                              .action_high = kSide,
                              .y_down = true};
  return spec;
}

PushT::State PushT::initial_state(uint32_t seed) {
  LegacyRandom random(seed);
  State state;
  for (size_t i = 0; i < 2; ++i) state[i] = random.integer(50, 450);
  for (size_t i = 2; i < 4; ++i) state[i] = random.integer(100, 400);
  state[4] = random.normal() * 2.0 * kPi - kPi;
  return state;
}

PushT::State PushT::mirrored(const State& state) {
  const Vec2 pusher = mirrored(Vec2{state[0], state[1]});
  const Vec2 block = mirrored(Vec2{state[2], state[3]});
  return {pusher.x, pusher.y, block.x, block.y, kPi / 2.0 - state[4]};
}

void PushT::reset(uint64_t seed, uint64_t episode) {
  const uint64_t number = seed + episode;
  if (number < seed || number > 0xffffffffu) {
    throw ValueError(
        fmt::format("pusht: seed {} and episode {} add up to {}; accepted are sums up "
                    "to 4294967295, the seeds of the published environment",
                    seed, episode, number));
  }
  reset_to(initial_state(static_cast<uint32_t>(number)));
}

void PushT::reset_to(const State& state) {
  if (!std::all_of(state.begin(), state.end(), [](double v) { return std::isfinite(v); })) {
    throw ValueError(
        fmt::format("pusht: state is ({}); accepted are finite numbers", fmt::join(state, ", ")));
  }
  // A new space: the solver remembers nothing of the episode before.
  physics_ = std::make_unique<PushTPhysics>();
  physics_->place(state, {});
  physics_->settle();
  now_ = before_ = physics_->state();
  velocity_ = {};
  steps_ = 0;
  best_ = coverage();
}

void PushT::advance(std::span<const double> action) {
  const Vec2 target{std::clamp(action[0], 0.0, kSide), std::clamp(action[1], 0.0, kSide)};
  if (!physics_) {
    physics_ = std::make_unique<PushTPhysics>();
    physics_->place(now_, velocity_);
  }
  physics_->step(target);
  before_ = now_;
  now_ = physics_->state();
  velocity_ = physics_->velocity();
  ++steps_;
  best_ = std::max(best_, coverage());
}

bool PushT::done() const { return best_ > kSuccessCoverage || steps_ >= kMaxSteps; }

EpisodeOutcome PushT::outcome() const {
  return {.success = best_ > kSuccessCoverage,
          .score = std::min(best_ / kSuccessCoverage, 1.0),
          .steps = steps_};
}

std::array<Vec2, PushT::kCorners> PushT::corners(const State& state) {
  const double cosine = std::cos(state[4]);
  const double sine = std::sin(state[4]);
  std::array<Vec2, kCorners> out;
  for (size_t i = 0; i < out.size(); ++i) {
    const Vec2 c = ::flowgrad::kCorners[i];
    out[i] = {state[2] + cosine * c.x - sine * c.y, state[3] + sine * c.x + cosine * c.y};
  }
  return out;
}

double PushT::coverage_of(const State& state) {
  constexpr double kArea = 120.0 * 30.0 + 30.0 * 90.0;
  static const std::array<Polygon, 2> goal = rectangles(kGoal);
  double covered = 0.0;
  for (const Polygon& part : rectangles(state)) {
    for (const Polygon& target : goal) {
      Polygon rest = part;
      for (size_t i = 0; i < target.size() && !rest.empty(); ++i) {
        rest = clip(rest, target[i], target[(i + 1) % target.size()]);
      }
      covered += area(rest);
    }
  }
  return covered / kArea;
}

void PushT::state(std::span<float> out) const {
  size_t at = 0;
  for (const State* s : {&now_, &before_}) {
    for (const Vec2 corner : corners(*s)) {
      out[at++] = static_cast<float>(corner.x);
      out[at++] = static_cast<float>(corner.y);
    }
    out[at++] = static_cast<float>((*s)[0]);
    out[at++] = static_cast<float>((*s)[1]);
  }
}

void PushT::robot(std::span<float> out) const {
  out[0] = static_cast<float>(now_[0]);
  out[1] = static_cast<float>(now_[1]);
}

void PushT::render(std::span<float> out, ImageSize size) const {
  Canvas canvas(out, size.height, size.width, kSide, {1.0f, 1.0f, 1.0f});
  // The canvas has y upwards, the arena downwards: positions and angles are mirrored.
  const auto tee = [&](const State& s, Canvas::Color color) {
    const double cosine = std::cos(s[4]);
    const double sine = std::sin(s[4]);
    const auto part = [&](double along, Vec2 half) {
      canvas.box({s[2] - sine * along, kSide - (s[3] + cosine * along)}, half, cosine, -sine,
                 color);
    };
    part(15.0, {60.0, 15.0});
    part(75.0, {15.0, 45.0});
  };
  tee(kGoal, {0.56f, 0.93f, 0.56f});
  tee(now_, {0.47f, 0.53f, 0.60f});
  canvas.disc({now_[0], kSide - now_[1]}, kPusherRadius, {0.25f, 0.41f, 0.88f});
}

void PushT::snapshot(std::span<double> out) const {
  auto at = std::copy(now_.begin(), now_.end(), out.begin());
  at = std::copy(before_.begin(), before_.end(), at);
  for (const double v : {velocity_.x, velocity_.y, static_cast<double>(steps_), best_}) *at++ = v;
}

void PushT::restore(std::span<const double> numbers) {
  if (!(numbers[12] >= 0.0 && numbers[12] <= static_cast<double>(kMaxSteps))) {
    throw ValueError(fmt::format("pusht: step of a snapshot is {}; accepted are 0 to {}",
                                 numbers[12], kMaxSteps));
  }
  physics_.reset();
  std::copy_n(numbers.begin(), 5, now_.begin());
  std::copy_n(numbers.begin() + 5, 5, before_.begin());
  velocity_ = {numbers[10], numbers[11]};
  steps_ = static_cast<int64_t>(numbers[12]);
  best_ = numbers[13];
}

Demonstrations pusht_demonstrations(const std::string& path, bool mirror) {
  const PushT world;
  const NamedTensors arrays = load_npz(path);
  const auto find = [&](const char* name, DType dtype, int rank, int64_t width) {
    for (const auto& [key, array] : arrays) {
      if (key == name && array.dtype() == dtype && array.rank() == rank &&
          (rank == 1 || array.size(1) == width)) {
        return array;
      }
    }
    throw IoError(fmt::format("pusht_demonstrations: {}: no array {} of {} and shape {}", path,
                              name, name_of(dtype),
                              rank == 1 ? "(E,)" : fmt::format("(T, {})", width)));
  };
  const Tensor states = find("state", DType::float32, 2, 5);
  const Tensor targets = find("action", DType::float32, 2, 2);
  if (targets.size(0) != states.size(0)) {
    throw IoError(fmt::format("pusht_demonstrations: {}: {} actions given for {} states", path,
                              targets.size(0), states.size(0)));
  }
  auto ends = find("episode_ends", DType::int64, 1, 0).to_vector<int64_t>();
  if (ends.empty() || ends.back() != states.size(0)) {
    throw IoError(
        fmt::format("pusht_demonstrations: {}: the last episode ends at {}, and there are "
                    "{} states",
                    path, ends.empty() ? 0 : ends.back(), states.size(0)));
  }
  for (int64_t i = 0, last = 0; i < std::ssize(ends); last = ends[static_cast<size_t>(i++)]) {
    const int64_t end = ends[static_cast<size_t>(i)];
    if (end > last && end <= states.size(0)) continue;
    throw IoError(
        fmt::format("pusht_demonstrations: {}: episode_ends: {} after {}; increasing numbers from "
                    "1 to {} are accepted",
                    path, end, last, states.size(0)));
  }
  std::vector<PushT::State> poses(static_cast<size_t>(states.size(0)));
  const auto numbers = states.to_vector<double>();
  for (size_t i = 0; i < poses.size(); ++i) std::copy_n(&numbers[5 * i], 5, poses[i].begin());
  std::vector<double> actions = targets.to_vector<double>();
  if (mirror) {
    const size_t frames = poses.size(), episodes = ends.size();
    for (size_t i = 0; i < frames; ++i) {
      poses.push_back(PushT::mirrored(poses[i]));
      const Vec2 target = PushT::mirrored(Vec2{actions[2 * i], actions[2 * i + 1]});
      actions.insert(actions.end(), {target.x, target.y});
    }
    for (size_t i = 0; i < episodes; ++i) ends.push_back(ends[i] + static_cast<int64_t>(frames));
  }
  std::vector<double> snapshots;
  int64_t frame = 0;
  for (const int64_t end : ends) {
    for (int64_t step = 0; frame < end && frame < std::ssize(poses); ++frame, ++step) {
      const auto pose = [&](int64_t f) {
        const PushT::State& state = poses[static_cast<size_t>(f)];
        snapshots.insert(snapshots.end(), state.begin(), state.end());
      };
      pose(frame);
      pose(step == 0 ? frame : frame - 1);
      snapshots.insert(snapshots.end(), {0.0, 0.0, static_cast<double>(step), 0.0});
    }
  }
  const int64_t width = world.spec().snapshot_dim;
  const auto rows = static_cast<int64_t>(snapshots.size()) / width;
  try {
    return {world, Tensor::from<double>(snapshots, {rows, width}),
            Tensor::from<double>(actions, {rows, 2}), ends};
  } catch (const Error& e) {  // numbers and ends, which the file holds
    throw IoError(fmt::format("pusht_demonstrations: {}: {}", path, e.what()));
  }
}

}  // namespace flowgrad
