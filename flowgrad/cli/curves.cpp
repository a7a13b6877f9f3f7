#include "flowgrad/cli/curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

namespace flowgrad::cli {
namespace {

using Value = std::function<double(const MetricsRow&)>;

/// Over the steps that every run has a finite value for; the time of a step is the mean of theirs.
plot::Series over_time(const MethodHistory& method, const Value& value) {
  struct Point {
    size_t runs = 0;
    double time = 0, sum = 0, lo = HUGE_VAL, hi = -HUGE_VAL;
  };
  std::map<int64_t, Point> points;
  for (const auto& run : method.runs) {
    for (const MetricsRow& row : run) {
      const double y = value(row);
      if (!std::isfinite(y) || !std::isfinite(row.processor_seconds)) continue;
      Point& p = points[row.step];
      ++p.runs;
      p.time += row.processor_seconds;
      p.sum += y;
      p.lo = std::min(p.lo, y);
      p.hi = std::max(p.hi, y);
    }
  }
  plot::Series out{.name = method.name};
  for (const auto& [step, p] : points) {
    if (p.runs != method.runs.size()) continue;
    const auto n = static_cast<double>(p.runs);
    out.x.push_back(p.time / n);
    out.y.push_back(p.sum / n);
    if (method.runs.size() < 2) continue;
    out.band_lo.push_back(p.lo);
    out.band_hi.push_back(p.hi);
  }
  return out;
}

/// Seconds of processor time; by decades where the longest training took many times the shortest.
plot::AxisOptions time_axis(const std::vector<plot::Series>& series) {
  constexpr double kMany = 20;
  double shortest = HUGE_VAL, longest = 0;
  for (const plot::Series& s : series) {
    shortest = std::min(shortest, s.x.back());
    longest = std::max(longest, s.x.back());
  }
  plot::AxisOptions axis{.label = "processor time of the training", .unit = "s"};
  if (longest > kMany * shortest) {
    axis.scale = plot::Scale::log;
  } else {
    axis.lo = 0.0;
  }
  return axis;
}

plot::LineChart chart_of(const std::vector<MethodHistory>& methods, const Value& value) {
  plot::LineChart chart;
  bool bands = false;
  for (size_t i = 0; i < methods.size(); ++i) {
    plot::Series s = over_time(methods[i], value);
    if (s.x.empty()) continue;
    s.color = plot::to_hex(plot::category_color(i));  // of a method, in every chart
    bands |= !s.band_lo.empty();
    chart.series.push_back(std::move(s));
  }
  if (!chart.series.empty()) chart.x = time_axis(chart.series);
  if (bands) chart.subtitle = "means over training seeds; bands: their range";
  return chart;
}

}  // namespace

plot::LineChart learning_curve(const std::vector<MetricsRow>& history,
                               const plot::AxisOptions& loss, const std::string& validation) {
  plot::LineChart chart;
  chart.title = "Learning curve";
  chart.x.label = "step";
  chart.y = loss;
  plot::Series training{.name = validation.empty() ? loss.label : "training", .smoothing = 0.8};
  plot::Series held_out{.name = validation, .markers = true};
  for (const MetricsRow& row : history) {
    training.x.push_back(static_cast<double>(row.step));
    training.y.push_back(row.loss);
    if (validation.empty() || !std::isfinite(row.validation)) continue;
    held_out.x.push_back(static_cast<double>(row.step));
    held_out.y.push_back(row.validation);
  }
  chart.series.push_back(training);
  if (!held_out.x.empty()) chart.series.push_back(held_out);
  return chart;
}

plot::LineChart rate_and_norm(const std::vector<MetricsRow>& history) {
  plot::LineChart chart;
  chart.title = "Gradient norm and learning rate";
  chart.x.label = "step";
  chart.y = {.scale = plot::Scale::log};
  plot::Series norm{.name = "gradient norm before clipping", .smoothing = 0.8};
  plot::Series rate{.name = "learning rate"};
  for (const MetricsRow& row : history) {
    norm.x.push_back(static_cast<double>(row.step));
    norm.y.push_back(row.gradient_norm);
    rate.x.push_back(static_cast<double>(row.step));
    rate.y.push_back(row.learning_rate);
  }
  chart.series = {norm, rate};
  return chart;
}

plot::LineChart equal_compute(const std::vector<MethodHistory>& methods,
                              const std::string& measure) {
  plot::LineChart chart = chart_of(methods, [&](const MetricsRow& row) {
    const auto found = row.measures.find(measure);
    return found == row.measures.end() ? std::nan("") : found->second;
  });
  const char* what = methods.size() > 1 ? "Learning curves at equal compute" : "Learning curve";
  chart.title = fmt::format("{}: {}", what, measure);
  chart.y = {.label = measure, .lo = 0.0, .hi = 1.0};
  for (plot::Series& s : chart.series) s.markers = true;
  return chart;
}

plot::LineChart losses(const std::vector<MethodHistory>& methods) {
  plot::LineChart chart = chart_of(methods, [](const MetricsRow& row) { return row.loss; });
  chart.title = "Training losses";
  chart.y = {.label = "loss", .scale = plot::Scale::log};
  for (plot::Series& s : chart.series) s.smoothing = 0.8;
  return chart;
}

}  // namespace flowgrad::cli
