#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/cli/compare.h"
#include "flowgrad/cli/curves.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/plot/chart.h"
#include "flowgrad/plot/report.h"

// The page of compare.
namespace flowgrad::cli {
namespace {

/// Half the length of the 95 % interval: over training seeds, or of the episodes of a lone one.
double half_interval(const Method& m, const Yardstick& by) {
  const OverSeeds s = over_seeds(m, by.field);
  if (!std::isnan(s.half)) return s.half;
  const EvaluationSummary& one = m.runs[0]->summary;
  return by.field == &EvaluationSummary::score_mean ? 1.96 * one.score_error
                                                    : 0.5 * (one.interval.high - one.interval.low);
}

plot::BarChart bars(const std::vector<Method>& methods, const std::string& world) {
  const Yardstick by = yardstick(world);
  plot::BarChart chart;
  chart.title = fmt::format("{}: {}", world, by.name);
  chart.subtitle = "bars: 95 % intervals over training seeds, or of one seed's episodes";
  chart.y = {.lo = 0.0, .hi = 1.0};
  plot::BarSeries series;
  for (const Method& m : methods) {
    chart.categories.push_back(m.label);
    series.values.push_back(over_seeds(m, by.field).mean);
    series.errors.push_back(half_interval(m, by));
  }
  chart.series = {series};
  return chart;
}

/// One method for each configuration, whatever its steps: those of the training.
std::vector<const Method*> trained(const std::vector<Method>& methods) {
  std::vector<const Method*> out;
  for (const Method& m : methods) {
    const auto same = [&](const Method* other) {
      return other->runs[0]->config == m.runs[0]->config;
    };
    if (std::none_of(out.begin(), out.end(), same)) out.push_back(&m);
  }
  return out;
}

plot::LineChart against_evaluations(const std::vector<Method>& methods, const std::string& world) {
  const Yardstick by = yardstick(world);
  plot::LineChart chart;
  chart.title = fmt::format("{}: {} against evaluations of the network", world, by.name);
  chart.subtitle = "bands: 95 % intervals over training seeds, or of one seed's episodes";
  chart.x = {.label = "evaluations a decision", .scale = plot::Scale::log};
  chart.y = {.label = by.name, .lo = 0.0, .hi = 1.0};
  for (const Method* first : trained(methods)) {
    std::vector<const Method*> steps;
    for (const Method& m : methods) {
      if (m.runs[0]->config == first->runs[0]->config) steps.push_back(&m);
    }
    std::sort(steps.begin(), steps.end(), [](const Method* a, const Method* b) {
      return a->runs[0]->evaluations < b->runs[0]->evaluations;
    });
    plot::Series series{.name = first->name, .markers = true};
    for (const Method* m : steps) {
      const double mean = over_seeds(*m, by.field).mean;
      const double half = half_interval(*m, by);
      series.x.push_back(static_cast<double>(m->runs[0]->evaluations));
      series.y.push_back(mean);
      series.band_lo.push_back(mean - half);
      series.band_hi.push_back(mean + half);
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

void add_learning(plot::Report& report, const std::vector<Method>& methods,
                  const std::string& world) {
  std::vector<MethodHistory> histories;
  for (const Method* m : trained(methods)) {
    histories.push_back({m->name, {}});
    for (const Run* run : m->runs) histories.back().runs.push_back(run->history);
  }
  const plot::LineChart success = equal_compute(histories, yardstick(world).name);
  const plot::LineChart loss = losses(histories);
  if (success.series.empty() && loss.series.empty()) return;
  report.heading("How they learned");
  if (success.series.empty()) {
    report.note("`flowgrad imitate --evaluate-every N` puts evaluations on the way of a training.");
  } else {
    report.figure(
        {.svg = success.svg(), .caption = "Averaged weights, on episodes apart from those above."});
  }
  if (!loss.series.empty()) {
    report.figure({.svg = loss.svg(),
                   .caption = "Each head has a loss of its own: compare shapes, not heights."});
  }
}

}  // namespace

void write_comparison(const std::string& path, const std::string& subtitle, const World& world,
                      const std::vector<Method>& methods,
                      const std::vector<std::vector<std::string>>& table) {
  const WorldSpec& spec = world.spec();
  plot::Report report(fmt::format("Policies on {}", spec.name), subtitle);
  report.heading("Results");
  report.figure({.svg = bars(methods, spec.name).svg()});
  report.table({.columns = table[0],
                .rows = {table.begin() + 1, table.end()},
                .caption =
                    "success and score: means over training seeds with 95 % intervals by Student's "
                    "t; pooled: all episodes of all seeds; failed: ended by a mistake; left: of "
                    "the episodes that took a side; paired: episodes that only the first, and only "
                    "this one solved (McNemar's exact test, which covers episodes and not seeds)"});
  if (trained(methods).size() < methods.size())
    report.figure({.svg = against_evaluations(methods, spec.name).svg()});
  add_learning(report, methods, spec.name);
  report.heading("Episodes");
  for (const Method& m : methods) {
    std::vector<EpisodeResult> shown;
    for (const EpisodeResult& e : m.runs[0]->episodes) {
      if (!e.snapshots.empty()) shown.push_back(e);
    }
    report.heading(m.label, 3);
    report.figures({{.svg = moving_picture(world, shown[0]),
                     .caption = fmt::format("episode 0: {}",
                                            shown[0].outcome.success ? "success" : "no success")},
                    {.image = film_strip(world, shown), .caption = "episodes from start to end"}});
  }
  report.write(path);
}

}  // namespace flowgrad::cli
