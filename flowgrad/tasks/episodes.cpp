#include "flowgrad/tasks/episodes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>

#include "flowgrad/core/error.h"
#include "flowgrad/core/normal.h"
#include "flowgrad/tasks/tabletop.h"

namespace flowgrad {
namespace {

/// Counters of a decision's draws lie this far apart.
constexpr uint64_t kDrawSize = uint64_t{1} << 32;

uint64_t counter(int64_t step, int64_t draw) {
  return static_cast<uint64_t>(step * PolicyInput::kDraws + draw) * kDrawSize;
}

/// Sums squared third differences as actions come.
class Jerk {
 public:
  void add(std::span<const double> action) {
    last_.emplace_back(action.begin(), action.end());
    if (last_.size() < 4) return;
    for (size_t i = 0; i < action.size(); ++i) {
      const double third = (last_[3][i] - last_[0][i]) - 3.0 * (last_[2][i] - last_[1][i]);
      sum_ += third * third;
    }
    ++count_;
    last_.pop_front();
  }
  double mean() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }

 private:
  std::deque<std::vector<double>> last_;
  double sum_ = 0.0;
  int64_t count_ = 0;
};

/// One episode under way.
struct Running {
  std::unique_ptr<World> world;
  EpisodeResult result;
  bool recorded = false;
  /// Chunks that are still of use, the oldest first; each began at its step.
  struct Chunk {
    int64_t step;
    std::vector<double> actions;
  };
  std::deque<Chunk> chunks;
  Jerk jerk;

  void record() {
    if (!recorded) return;
    const auto width = static_cast<size_t>(world->spec().snapshot_dim);
    result.snapshots.resize(result.snapshots.size() + width);
    world->snapshot(std::span(result.snapshots).last(width));
  }
};

class Evaluation {
 public:
  Evaluation(const World& world, const Policy& policy, const EvaluationOptions& options)
      : prototype_(world), policy_(policy), options_(options), width_(world.spec().action_dim) {
    check(options.episodes >= 1, "episodes", options.episodes, ">= 1");
    check(options.execute >= 0, "execute", options.execute, ">= 0");
    check(options.lockstep >= 1, "lockstep", options.lockstep, ">= 1");
    check(options.record >= 0, "record", options.record, ">= 0");
    check(options.delay >= 0, "delay", options.delay, ">= 0");
    check(!options.ensemble || options.delay == 0, "delay", options.delay, "0 with ensembling");
    if (!std::isfinite(options.ensemble_decay)) {
      throw ValueError("evaluate: ensemble_decay is not finite; accepted are finite numbers");
    }
  }

  std::vector<EpisodeResult> run() {
    std::vector<EpisodeResult> results;
    for (int64_t first = 0; first < options_.episodes; first += options_.lockstep) {
      begin(first, std::min(first + options_.lockstep, options_.episodes));
      for (int64_t step = 0; !running_.empty(); ++step) advance(step);
      for (EpisodeResult& result : finished_) results.push_back(std::move(result));
    }
    return results;
  }

 private:
  static void check(bool good, const char* what, int64_t value, const std::string& accepted) {
    if (good) return;
    throw ValueError(fmt::format("evaluate: {} is {}; accepted is {}", what, value, accepted));
  }

  void begin(int64_t first, int64_t last) {
    running_.clear();
    finished_.assign(static_cast<size_t>(last - first), {});
    first_ = static_cast<uint64_t>(first);
    for (int64_t i = first; i < last; ++i) {
      Running episode;
      episode.world = prototype_.clone();
      episode.result.episode = static_cast<uint64_t>(i);
      episode.recorded = i < options_.record;
      episode.world->reset(options_.seed, options_.one_scene ? 0 : episode.result.episode);
      episode.record();
      running_.push_back(std::move(episode));
    }
    retire();
  }

  /// Takes out what has ended; a scene may begin solved.
  void retire() {
    for (Running& episode : running_) {
      if (!episode.world->done()) continue;
      episode.result.outcome = episode.world->outcome();
      episode.result.jerk = episode.jerk.mean();
      finished_[episode.result.episode - first_] = std::move(episode.result);
      episode.world.reset();
    }
    std::erase_if(running_, [](const Running& episode) { return !episode.world; });
  }

  void advance(int64_t step) {
    if (step % stride_ == 0) ask(step);
    for (Running& episode : running_) {
      const std::vector<double> action =
          options_.ensemble ? mean(episode, step) : planned(episode, step);
      episode.jerk.add(action);
      if (episode.recorded) {
        auto& actions = episode.result.actions;
        actions.insert(actions.end(), action.begin(), action.end());
      }
      episode.world->step(action);
      episode.record();
    }
    retire();
  }

  void ask(int64_t step) {
    const auto rows = static_cast<int64_t>(running_.size());
    Observer observer(prototype_.spec(), rows, options_.images);
    PolicyInput input;
    input.step = step;
    input.seed = options_.seed;
    for (int64_t row = 0; row < rows; ++row) {
      const Running& episode = running_[static_cast<size_t>(row)];
      observer.look(row, *episode.world);
      input.episodes.push_back(episode.result.episode);
      input.worlds.push_back(episode.world.get());
    }
    input.observations = observer.observations();
    if (step > 0) {
      input.previous = previous(step);
      input.delay = options_.delay;
      input.execute = stride_;
    }
    const Tensor chunk = policy_(input);
    if (horizon_ == 0) begin_horizon(chunk);
    if (chunk.rank() != 3 || chunk.shape() != Shape{rows, horizon_, width_}) {
      throw ShapeError(fmt::format("evaluate: the policy's chunk is {}; accepted is ({}, {}, {})",
                                   chunk.shape().to_string(), rows, horizon_, width_));
    }
    keep(chunk.to_vector<double>(), step);
  }

  /// The first chunk tells the horizon, against which the options are held.
  void begin_horizon(const Tensor& chunk) {
    horizon_ = chunk.rank() == 3 ? chunk.size(1) : 0;
    if (horizon_ < 1) {
      throw ShapeError(fmt::format(
          "evaluate: the policy's chunk is {}; accepted is (N, horizon, {}) with a horizon >= 1",
          chunk.shape().to_string(), width_));
    }
    stride_ = options_.execute;
    if (options_.ensemble) stride_ = 1;
    if (stride_ == 0) stride_ = horizon_ - options_.delay;
    check(stride_ <= horizon_, "execute", stride_, fmt::format("up to the horizon {}", horizon_));
    check(options_.delay <= stride_ && options_.delay + stride_ <= horizon_, "delay",
          options_.delay,
          fmt::format("up to execute ({}), both together up to the horizon {}", stride_, horizon_));
  }

  void keep(const std::vector<double>& values, int64_t step) {
    const auto size = horizon_ * width_;
    for (size_t row = 0; row < running_.size(); ++row) {
      const auto begin = values.begin() + static_cast<int64_t>(row) * size;
      if (!std::all_of(begin, begin + size, [](double a) { return std::isfinite(a); })) {
        throw ValueError(
            fmt::format("evaluate: the policy's actions in episode {} at step {} are not finite",
                        running_[row].result.episode, step));
      }
      auto& chunks = running_[row].chunks;
      chunks.push_back({step, {begin, begin + size}});
      const int64_t oldest = options_.ensemble ? step - horizon_ + 1 : step - stride_;
      while (chunks.front().step < oldest) chunks.pop_front();
    }
  }

  /// Action of a chunk at a step; its last where it has ended.
  std::span<const double> at(const Running::Chunk& chunk, int64_t step) const {
    const int64_t row = std::min(step - chunk.step, horizon_ - 1);
    return std::span(chunk.actions)
        .subspan(static_cast<size_t>(row * width_), static_cast<size_t>(width_));
  }

  std::vector<double> planned(const Running& episode, int64_t step) const {
    const Running::Chunk* chunk = &episode.chunks.back();
    const bool waiting = chunk->step > 0 && step - chunk->step < options_.delay;
    if (waiting) chunk = &episode.chunks.front();
    const auto action = at(*chunk, step);
    return {action.begin(), action.end()};
  }

  std::vector<double> mean(const Running& episode, int64_t step) const {
    std::vector<double> sum(static_cast<size_t>(width_), 0.0);
    double total = 0.0;
    double age = 0.0;
    for (const Running::Chunk& chunk : episode.chunks) {
      const double weight = std::exp(-options_.ensemble_decay * age);
      const auto action = at(chunk, step);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * action[i];
      total += weight;
      age += 1.0;
    }
    for (double& s : sum) s /= total;
    return sum;
  }

  Tensor previous(int64_t step) const {
    const auto rows = static_cast<int64_t>(running_.size());
    Tensor out = Tensor::empty({rows, horizon_, width_});
    float* data = out.data<float>();
    for (const Running& episode : running_) {
      for (int64_t h = 0; h < horizon_; ++h) {
        for (const double a : at(episode.chunks.back(), step + h)) *data++ = static_cast<float>(a);
      }
    }
    return out;
  }

  const World& prototype_;
  const Policy& policy_;
  EvaluationOptions options_;
  int64_t width_;
  int64_t horizon_ = 0;
  int64_t stride_ = 1;
  uint64_t first_ = 0;
  std::vector<Running> running_;
  std::vector<EpisodeResult> finished_;
};

}  // namespace

Tensor PolicyInput::noise(const Shape& row, int64_t draw, DType dtype) const {
  if (draw < 0 || draw >= kDraws) {
    throw ValueError(
        fmt::format("PolicyInput::noise: draw is {}; accepted are 0 to {}", draw, kDraws - 1));
  }
  Shape shape{static_cast<int64_t>(episodes.size())};
  for (const int64_t size : row) shape.push_back(size);
  return visit_floating("PolicyInput::noise", dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Tensor out = Tensor::empty(shape, dtype);
    T* data = out.data<T>();
    const auto count = static_cast<uint64_t>(numel(row));
    for (const uint64_t episode : episodes) {
      const uint64_t first = counter(step, draw);
      for (uint64_t k = 0; k < count; ++k) {
        *data++ = static_cast<T>(normal_at(seed, sampler_stream(episode), first + k));
      }
    }
    return out;
  });
}

std::vector<EpisodeResult> evaluate(const World& world, const Policy& policy,
                                    const EvaluationOptions& options) {
  return Evaluation(world, policy, options).run();
}

Policy expert_policy(int64_t horizon) {
  return [horizon](const PolicyInput& input) {
    const auto rows = static_cast<int64_t>(input.worlds.size());
    const Tensor out = Tensor::empty({rows, horizon, 2}, DType::float64);
    double* action = out.data<double>();
    for (size_t row = 0; row < input.worlds.size(); ++row) {
      const auto* seen = dynamic_cast<const Tabletop*>(input.worlds[row]);
      if (seen == nullptr) {
        throw ValueError(fmt::format("expert_policy: world is {}; accepted are tabletop, fork",
                                     input.worlds[row]->spec().name));
      }
      Tabletop world = *seen;
      Draws coin(input.seed, demonstrator_stream(input.episodes[row]));
      const int side = draw_side(coin);
      Vec2 target = world.pusher();
      for (int64_t h = 0; h < horizon; ++h) {
        if (!world.done()) {
          target = expert_action(world, side);
          world.step(std::array{target.x, target.y});
        }
        *action++ = target.x;
        *action++ = target.y;
      }
    }
    return out;
  };
}

Policy random_policy(const WorldSpec& spec, int64_t horizon) {
  return [spec, horizon](const PolicyInput& input) {
    const auto rows = static_cast<int64_t>(input.episodes.size());
    const Tensor out = Tensor::empty({rows, horizon, spec.action_dim}, DType::float64);
    double* action = out.data<double>();
    for (const uint64_t episode : input.episodes) {
      const uint64_t first = counter(input.step, 0);
      for (int64_t k = 0; k < horizon * spec.action_dim; ++k) {
        const double u =
            uniform_at(input.seed, sampler_stream(episode), first + static_cast<uint64_t>(k));
        *action++ = spec.action_low + (spec.action_high - spec.action_low) * u;
      }
    }
    return out;
  };
}

}  // namespace flowgrad
