#include "flowgrad/tasks/demonstrations.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/tabletop.h"

namespace flowgrad {
namespace {

std::span<const double> numbers_of(const Tensor& rows, int64_t row) {
  return {rows.data<double>() + row * rows.size(1), static_cast<size_t>(rows.size(1))};
}

Tensor rows_of(std::vector<double> values, int64_t width) {
  return Tensor::from<double>(values, {static_cast<int64_t>(values.size()) / width, width});
}

Tensor copied_rows(const Tensor& rows, int64_t first, int64_t last) {
  const double* data = rows.data<double>();
  return rows_of({data + first * rows.size(1), data + last * rows.size(1)}, rows.size(1));
}

void check_rows(const char* what, const Tensor& rows, int64_t width) {
  if (rows.rank() != 2 || rows.size(1) != width || rows.dtype() != DType::float64 ||
      !rows.is_contiguous()) {
    throw ShapeError(fmt::format("Demonstrations: {} is {} {}; accepted is (T, {}) float64", what,
                                 name_of(rows.dtype()), rows.shape().to_string(), width));
  }
  const double* data = rows.data<double>();
  if (!std::all_of(data, data + rows.numel(), [](double v) { return std::isfinite(v); })) {
    throw ValueError(fmt::format("Demonstrations: {} holds numbers that are not finite", what));
  }
}

}  // namespace

Demonstrations::Demonstrations(const World& world, const Tensor& snapshots, const Tensor& actions,
                               std::vector<int64_t> ends)
    : world_(world.clone()), snapshots_(snapshots), actions_(actions), ends_(std::move(ends)) {
  check_rows("snapshots", snapshots, spec().snapshot_dim);
  check_rows("actions", actions, spec().action_dim);
  if (snapshots.size(0) != actions.size(0)) {
    throw ShapeError(
        fmt::format("Demonstrations: {} snapshots and {} actions; accepted is one "
                    "action a snapshot",
                    snapshots.size(0), actions.size(0)));
  }
  const auto refuse = [this](const std::string& what) {
    throw ValueError(
        fmt::format("Demonstrations: ends: {} given for {} frames; accepted are increasing numbers "
                    "from 1 to that",
                    what, size()));
  };
  if (ends_.empty()) refuse("none");
  for (int64_t i = 0, last = 0; i < episodes(); last = end_frame(i++)) {
    if (end_frame(i) <= last) refuse(fmt::format("{} after {}", end_frame(i), last));
  }
  if (ends_.back() != size()) refuse(fmt::format("a last one of {}", ends_.back()));
}

Demonstrations Demonstrations::slice(int64_t first, int64_t last) const {
  if (first < 0 || first >= last || last > episodes()) {
    throw ValueError(
        fmt::format("Demonstrations::slice: [{}, {}) of {} episodes; accepted is 0 <= "
                    "first < last <= episodes",
                    first, last, episodes()));
  }
  const int64_t begin = first_frame(first);
  std::vector<int64_t> ends(ends_.begin() + first, ends_.begin() + last);
  for (int64_t& end : ends) end -= begin;
  const int64_t end = end_frame(last - 1);
  return {*world_, copied_rows(snapshots_, begin, end), copied_rows(actions_, begin, end), ends};
}

ChunkBatch Demonstrations::batch(std::span<const int64_t> frames, int64_t horizon,
                                 ImageSize images) const {
  if (horizon < 1) {
    throw ValueError(
        fmt::format("Demonstrations::batch: horizon is {}; accepted is >= 1", horizon));
  }
  const auto rows = static_cast<int64_t>(frames.size());
  const int64_t width = spec().action_dim;
  const std::unique_ptr<World> world = world_->clone();
  Observer observer(spec(), rows, images);
  ChunkBatch out;
  out.actions = Tensor::empty({rows, horizon, width});
  out.mask = Tensor::empty({rows, horizon});
  float* action = out.actions.data<float>();
  float* mask = out.mask.data<float>();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t frame = frames[static_cast<size_t>(row)];
    if (frame < 0 || frame >= size()) {
      throw ValueError(fmt::format("Demonstrations::batch: frame is {}; accepted are 0 to {}",
                                   frame, size() - 1));
    }
    world->restore(numbers_of(snapshots_, frame));
    observer.look(row, *world);
    const int64_t end = *std::upper_bound(ends_.begin(), ends_.end(), frame);
    for (int64_t h = 0; h < horizon; ++h) {
      *mask++ = frame + h < end ? 1.0f : 0.0f;
      for (const double a : numbers_of(actions_, std::min(frame + h, end - 1))) {
        *action++ = static_cast<float>(a);
      }
    }
  }
  out.observations = observer.observations();
  return out;
}

Demonstrations scripted_demonstrations(const std::string& name,
                                       const DemonstrationOptions& options) {
  if (name != "tabletop" && name != "fork") {
    throw ValueError(
        fmt::format("scripted_demonstrations: world is '{}'; accepted are tabletop, fork", name));
  }
  if (options.episodes < 1 || !(options.noise >= 0.0 && options.noise <= 0.1)) {
    throw ValueError(
        fmt::format("scripted_demonstrations: {} episodes with noise {}; accepted are "
                    "at least one and noise in [0, 0.1]",
                    options.episodes, options.noise));
  }
  Tabletop world = name == "fork" ? Tabletop::fork() : Tabletop();
  std::vector<double> snapshots;
  std::vector<double> actions;
  std::vector<int64_t> ends;
  std::vector<double> snapshot(static_cast<size_t>(world.spec().snapshot_dim));
  for (uint64_t number = 0; static_cast<int64_t>(ends.size()) < options.episodes; ++number) {
    const uint64_t episode = kFirstDemonstration + number;
    world.reset(options.seed, episode);
    Draws draws(options.seed, demonstrator_stream(episode));
    const int side = draw_side(draws);
    const size_t kept_snapshots = snapshots.size();
    const size_t kept_actions = actions.size();
    while (!world.done()) {
      world.snapshot(snapshot);
      snapshots.insert(snapshots.end(), snapshot.begin(), snapshot.end());
      const Vec2 meant = expert_action(world, side);
      actions.insert(actions.end(), {meant.x, meant.y});
      const double dx = options.noise * draws.normal();
      const double dy = options.noise * draws.normal();
      world.step(std::array{meant.x + dx, meant.y + dy});
    }
    if (world.outcome().success) {
      ends.push_back(static_cast<int64_t>(actions.size()) / world.spec().action_dim);
    } else {
      snapshots.resize(kept_snapshots);
      actions.resize(kept_actions);
    }
  }
  const int64_t snapshot_dim = world.spec().snapshot_dim;
  return {world, rows_of(std::move(snapshots), snapshot_dim), rows_of(std::move(actions), 2), ends};
}

}  // namespace flowgrad
