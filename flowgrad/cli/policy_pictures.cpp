#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/plot/svg.h"

// What a policy does, in pictures: over the steps, and when it is asked many times.
namespace flowgrad::cli {
namespace {

/// Snapshot `step` of a recorded episode.
std::span<const double> snapshot_of(const World& world, const EpisodeResult& episode,
                                    int64_t step) {
  const auto width = static_cast<size_t>(world.spec().snapshot_dim);
  return std::span(episode.snapshots).subspan(static_cast<size_t>(step) * width, width);
}

/// Chunks for so many episodes that are all at this moment.
Tensor asked(const World& world, const Policy& policy, const EvaluationOptions& options,
             std::span<const double> snapshot, int64_t step, int64_t draws) {
  const std::unique_ptr<World> moment = world.clone();
  moment->restore(snapshot);
  Observer observer(world.spec(), draws, options.images);
  PolicyInput input;
  input.step = step;
  input.seed = options.seed;
  for (int64_t row = 0; row < draws; ++row) {
    observer.look(row, *moment);
    input.episodes.push_back(static_cast<uint64_t>(row));
    input.worlds.push_back(moment.get());
  }
  input.observations = observer.observations();
  return cast(to(policy(input), Device::cpu()), DType::float64);
}

using Row = std::span<const double>;

double distance(Row a, Row b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

struct Rows {
  std::vector<double> values;
  size_t count;
  size_t width() const { return values.size() / count; }
  Row operator[](size_t i) const { return Row(values).subspan(i * width(), width()); }
  /// Of the rows of a group that has some.
  std::vector<double> mean(const std::vector<int>& group, int which) const {
    std::vector<double> out(width(), 0.0);
    double members = 0;
    for (size_t i = 0; i < count; ++i) {
      if (group[i] != which) continue;
      for (size_t k = 0; k < out.size(); ++k) out[k] += (*this)[i][k];
      ++members;
    }
    for (double& v : out) v /= members;
    return out;
  }
  std::vector<double> farthest(Row from) const {
    size_t best = 0;
    for (size_t i = 1; i < count; ++i) {
      if (distance((*this)[i], from) > distance((*this)[best], from)) best = i;
    }
    return {(*this)[best].begin(), (*this)[best].end()};
  }
};

/// See ChunkCloud::separation.
double separation(const Rows& rows, const std::vector<int>& group, Row first, Row second) {
  const double apart = distance(first, second);
  double squares[2] = {0, 0}, members[2] = {0, 0};
  for (size_t i = 0; i < rows.count; ++i) {
    const Row center = group[i] == 0 ? first : second;
    double along = 0;
    for (size_t k = 0; k < center.size(); ++k)
      along += (rows[i][k] - center[k]) * (second[k] - first[k]);
    squares[group[i]] += along * along;
    ++members[group[i]];
  }
  return apart / std::sqrt(0.5 * (squares[0] / members[0] + squares[1] / members[1]));
}

/// A part of the arena in arena units, a square.
struct Window {
  double x = 0, y = 0, side = 1;
};

/// The surroundings of the chunks, a quarter of the arena's side at least.
Window surroundings(const WorldSpec& spec, const Tensor& chunks) {
  const double arena = spec.action_high - spec.action_low;
  const auto range = [&](int64_t i) {
    const Tensor x = select(chunks, 2, i);
    return std::pair{min(x).item(), max(x).item()};
  };
  const auto [x0, x1] = range(0);
  const auto [y0, y1] = range(1);
  const double side = std::clamp(1.5 * std::max(x1 - x0, y1 - y0), 0.25 * arena, arena);
  const auto corner = [&](double lo, double hi) {
    return std::clamp(0.5 * (lo + hi - side), spec.action_low, spec.action_high - side);
  };
  return {corner(x0, x1), corner(y0, y1), side};
}

std::string group_color(const ChunkCloud& cloud, size_t row) {
  const int group = cloud.group.empty() ? 0 : cloud.group[row];
  return plot::to_hex(plot::category_color(static_cast<size_t>(group)));
}

const char* axis_name(int64_t coordinate) { return coordinate == 0 ? "x" : "y"; }

}  // namespace

void split(ChunkCloud& cloud) {
  const Rows rows{cloud.chunks.to_vector<double>(), static_cast<size_t>(cloud.chunks.size(0))};
  cloud.group.assign(rows.count, 0);
  cloud.separation = 0;
  // From two that lie far apart, Lloyd's steps; a few settle a cloud of this size.
  std::vector<double> center[2];
  center[0] = rows.farthest(rows.mean(cloud.group, 0));
  center[1] = rows.farthest(center[0]);
  if (distance(center[0], center[1]) == 0) {
    cloud.group.clear();
    return;
  }
  constexpr int kSteps = 20;
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < rows.count; ++i) {
      const bool second = distance(rows[i], center[1]) < distance(rows[i], center[0]);
      cloud.group[i] = second ? 1 : 0;
    }
    for (int g : {0, 1}) center[g] = rows.mean(cloud.group, g);
  }
  const auto ones = std::count(cloud.group.begin(), cloud.group.end(), 1);
  if (2 * ones > static_cast<int64_t>(rows.count)) {
    for (int& g : cloud.group) g = 1 - g;
    std::swap(center[0], center[1]);
  }
  cloud.separation = separation(rows, cloud.group, center[0], center[1]);
}

ChunkCloud clearest_fork(const World& world, const Policy& policy, const EvaluationOptions& options,
                         std::span<const EpisodeResult> episodes, int64_t draws) {
  if (draws < 2)
    throw ValueError(fmt::format("clearest_fork: draws = {} given; 2 are needed", draws));
  constexpr int64_t kFirst = 48;       // to choose by
  constexpr double kNarrowest = 0.25;  // of the widest
  const int64_t stride = options.ensemble ? 1 : std::max<int64_t>(options.execute, 1);
  struct Question {
    const EpisodeResult* episode;
    int64_t step;
    double spread, separation;
  };
  std::vector<Question> questions;
  double widest = 0;
  for (const EpisodeResult& episode : episodes) {
    for (int64_t step = 0; step < episode.outcome.steps; step += stride) {
      ChunkCloud cloud;
      cloud.chunks = asked(world, policy, options, snapshot_of(world, episode, step), step, kFirst);
      split(cloud);
      const double spread = sum(square(cloud.chunks - mean(cloud.chunks, {0}, true))).item();
      questions.push_back({&episode, step, spread, cloud.separation});
      widest = std::max(widest, spread);
    }
  }
  const Question* chosen = nullptr;
  for (const Question& q : questions) {
    if (q.spread < kNarrowest * widest) continue;
    if (!chosen || q.separation > chosen->separation) chosen = &q;
  }
  ChunkCloud out;
  if (!chosen) return out;
  const auto snapshot = snapshot_of(world, *chosen->episode, chosen->step);
  out.snapshot.assign(snapshot.begin(), snapshot.end());
  out.episode = chosen->episode->episode;
  out.step = chosen->step;
  out.chunks = asked(world, policy, options, snapshot, out.step, draws);
  split(out);
  return out;
}

std::string chunks_over_scene(const World& world, const ChunkCloud& cloud) {
  constexpr int64_t kSize = 380;
  const WorldSpec& spec = world.spec();
  const Window window = surroundings(spec, cloud.chunks);
  const double scale = static_cast<double>(kSize) / window.side;
  const double top =
      spec.y_down ? window.y - spec.action_low : spec.action_high - window.y - window.side;
  plot::Image part(kSize, kSize, 3);
  part.paste(
      scene(world, cloud.snapshot, std::llround(scale * (spec.action_high - spec.action_low))),
      -std::llround(scale * (window.x - spec.action_low)), -std::llround(scale * top));
  plot::SvgWriter svg(kSize, kSize, "Chunks of actions from one moment");
  svg.image(0, 0, kSize, kSize, plot::png_data_uri(part));
  const std::vector<double> values = cloud.chunks.to_vector<double>();
  const auto horizon = static_cast<size_t>(cloud.chunks.size(1));
  const auto width = static_cast<size_t>(cloud.chunks.size(2));
  for (size_t row = 0; row < static_cast<size_t>(cloud.chunks.size(0)); ++row) {
    std::vector<std::pair<double, double>> path;
    for (size_t h = 0; h < horizon; ++h) {
      const double* action = &values[(row * horizon + h) * width];
      const double y = scale * (action[1] - window.y);
      path.emplace_back(scale * (action[0] - window.x),
                        spec.y_down ? y : static_cast<double>(kSize) - y);
    }
    const std::string color = group_color(cloud, row);
    svg.polyline(path, {.color = color, .width = 1.2, .opacity = 0.35});
    svg.circle(path.back().first, path.back().second, 2.0, color, 0.7);
  }
  return svg.finish();
}

plot::Scatter projections(const World& world, const ChunkCloud& cloud) {
  plot::Scatter chart{.panel_size = 200, .columns = 3, .radius = 1.6, .opacity = 0.6};
  chart.title = "Pairwise projections of the chunks";
  chart.subtitle = "standard deviations from the mean; 1 is the first action of a chunk";
  const int64_t last = cloud.chunks.size(1) - 1;
  struct Coordinate {
    std::string name;
    std::vector<double> values;
  };
  std::vector<Coordinate> coordinates;
  for (const int64_t h : {int64_t{0}, last}) {
    for (int64_t i = 0; i < std::min<int64_t>(world.spec().action_dim, 2); ++i) {
      const Tensor x = select(select(cloud.chunks, 2, i), 1, h);
      const Tensor centred = x - mean(x);
      const double deviation = std::sqrt(mean(square(centred)).item());
      if (!(deviation > 1e-9 * (world.spec().action_high - world.spec().action_low))) continue;
      coordinates.push_back({fmt::format("{} of {}", axis_name(i), h + 1),
                             (centred / deviation).to_vector<double>()});
    }
    if (last == 0) break;
  }
  for (size_t a = 0; a < coordinates.size(); ++a) {
    for (size_t b = a + 1; b < coordinates.size(); ++b) {
      plot::ScatterPanel panel{
          .title = fmt::format("{} over {}", coordinates[b].name, coordinates[a].name),
          .groups = {{}, {}}};
      for (size_t row = 0; row < coordinates[a].values.size(); ++row) {
        plot::PointGroup& group = panel.groups[static_cast<size_t>(cloud.group[row])];
        group.color = group_color(cloud, row);
        group.x.push_back(coordinates[a].values[row]);
        group.y.push_back(coordinates[b].values[row]);
      }
      chart.panels.push_back(std::move(panel));
    }
  }
  return chart;
}

plot::LineChart trajectory(const World& prototype, const EpisodeResult& episode) {
  const WorldSpec& spec = prototype.spec();
  const std::unique_ptr<World> world = prototype.clone();
  const auto width = static_cast<size_t>(spec.action_dim);
  const size_t shown = std::min(width, static_cast<size_t>(spec.robot_dim));
  plot::LineChart chart{.title = fmt::format("Episode {}", episode.episode),
                        .subtitle = "dashed: where the pusher should be; line: where it is",
                        .width = 480,
                        .height = 280,
                        .x = {.label = "step"},
                        .y = {.lo = spec.action_low, .hi = spec.action_high}};
  std::vector<float> robot(static_cast<size_t>(spec.robot_dim));
  for (size_t i = 0; i < shown; ++i) {
    const std::string color = plot::to_hex(plot::category_color(i));
    const char* name = axis_name(static_cast<int64_t>(i));
    plot::Series action{.name = fmt::format("action, {}", name), .color = color, .dashed = true};
    plot::Series place{.name = fmt::format("pusher, {}", name), .color = color};
    for (int64_t step = 0; step <= episode.outcome.steps; ++step) {
      world->restore(snapshot_of(prototype, episode, step));
      world->robot(robot);
      place.x.push_back(static_cast<double>(step));
      place.y.push_back(static_cast<double>(robot[i]));
      if (step == episode.outcome.steps) break;
      action.x.push_back(static_cast<double>(step));
      action.y.push_back(episode.actions[static_cast<size_t>(step) * width + i]);
    }
    chart.series.push_back(std::move(action));
    chart.series.push_back(std::move(place));
  }
  return chart;
}

}  // namespace flowgrad::cli
