#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/cli/curves.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/plot/report.h"

// The page of rollout.
namespace flowgrad::cli {
namespace {

std::string words_of(const EpisodeOutcome& o) {
  const std::string end = o.success           ? "success"
                          : o.failure.empty() ? "no success"
                                              : fmt::format("failed: {}", o.failure);
  return fmt::format("{} after {} steps, score {:.2f}", end, o.steps, o.score);
}

void add_episodes(plot::Report& report, const World& world,
                  const std::vector<EpisodeResult>& episodes) {
  report.heading("Episodes");
  report.figure(
      {.image = film_strip(world, episodes), .caption = "From start to end, a row each."});
  for (const EpisodeResult& e : episodes) {
    report.figures({{.svg = moving_picture(world, e), .caption = words_of(e.outcome)},
                    {.svg = trajectory(world, e).svg()}});
  }
}

void add_training(plot::Report& report, const std::vector<MetricsRow>& history,
                  const std::string& measure) {
  if (history.empty()) return;
  report.heading("How it learned");
  const plot::LineChart success = equal_compute({{"", {history}}}, measure);
  if (!success.series.empty()) {
    report.figure({.svg = success.svg(),
                   .caption = "Averaged weights on the way, on episodes apart from these."});
  }
  report.figure(
      {.svg = learning_curve(history, {.label = "loss", .scale = plot::Scale::log}).svg()});
  report.figure({.svg = rate_and_norm(history).svg()});
}

}  // namespace

void add_chunks(plot::Report& report, const World& world, const ChunkCloud& cloud) {
  if (!cloud.chunks.defined()) return;
  report.heading("What it might have done");
  report.paragraph(fmt::format(
      "Of all questions in these episodes, one whose answers differ widely and fall most clearly "
      "in two: step {} of episode {}, asked {} times, with noise of its own each time.",
      cloud.step, cloud.episode, cloud.chunks.size(0)));
  std::string caption =
      fmt::format("Chunks of {} actions; dots: their ends.", cloud.chunks.size(1));
  if (!cloud.group.empty()) {
    constexpr double kPoints = 1e6;
    caption += fmt::format(
        " Colours: two groups of {} and {}, {}.",
        std::count(cloud.group.begin(), cloud.group.end(), 0),
        std::count(cloud.group.begin(), cloud.group.end(), 1),
        cloud.separation > kPoints
            ? "each a single answer"
            : fmt::format("whose centres lie {:.1f} deviations apart (halves of a normal cloud: "
                          "2.7)",
                          cloud.separation));
  }
  const plot::Scatter pairs = projections(world, cloud);
  std::vector<plot::Figure> figures = {
      {.svg = chunks_over_scene(world, cloud), .caption = caption}};
  if (!pairs.panels.empty()) figures.push_back({.svg = pairs.svg()});
  report.figures(figures);
  if (pairs.panels.empty())
    report.note("Every answer is the same: this policy draws nothing when it decides.");
}

void write_rollout(const RolloutReport& r, const World& world, const Policy& policy,
                   const EvaluationOptions& options) {
  constexpr int64_t kDraws = 256;
  plot::Report report(r.title, r.subtitle);
  report.heading("Results");
  report.table({.columns = r.table[0],
                .rows = {r.table.begin() + 1, r.table.end()},
                .caption = "95 %: Wilson's interval of the success; score: mean with its standard "
                           "error; failed: ended by a mistake; jerk: mean squared third difference "
                           "of the actions"});
  add_episodes(report, world, r.episodes);
  add_chunks(report, world, clearest_fork(world, policy, options, r.episodes, kDraws));
  add_training(report, r.history, yardstick(world.spec().name).name);
  report.write(r.path);
}

}  // namespace flowgrad::cli
