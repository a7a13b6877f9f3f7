#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "flowgrad/plot/chart.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

bool was_timed(const Row& r) { return r.failure.empty() && r.seconds > 0; }

/// What the timed rows have in common.
struct Content {
  std::vector<Row> rows;
  std::vector<std::string> sizes;
  bool several_kernels = false;
  bool operations = false;  ///< all of them count operations
  bool mixed = false;       ///< some do
  bool every_size = true;   ///< every kernel was run at every size
};

Content content_of(const std::vector<Row>& rows) {
  Content c;
  std::map<std::string, std::set<std::string>> sizes_of;
  size_t counting = 0;
  for (const Row& r : rows) {
    if (!was_timed(r)) continue;
    c.rows.push_back(r);
    sizes_of[r.kernel].insert(r.size);
    if (std::find(c.sizes.begin(), c.sizes.end(), r.size) == c.sizes.end())
      c.sizes.push_back(r.size);
    counting += r.gflops > 0;
  }
  c.several_kernels = sizes_of.size() > 1;
  c.operations = counting == c.rows.size();
  c.mixed = counting > 0 && !c.operations;
  for (const auto& [kernel, sizes] : sizes_of)
    c.every_size = c.every_size && sizes.size() == c.sizes.size();
  return c;
}

/// "07 warp tile" of "sgemm 4096x4096x4096"; the library's own choice goes by the kernel's name
/// where the rows have several kernels.
std::string label_of(const Row& r, const Content& c) {
  const std::string label = c.several_kernels && r.impl == "flowgrad" ? r.kernel : r.impl;
  return c.every_size ? label : label + ", " + r.size;
}

}  // namespace

std::string bars_svg(const std::vector<Row>& rows, const std::string& title) {
  const Content c = content_of(rows);
  const bool tera =
      std::any_of(c.rows.begin(), c.rows.end(), [](const Row& r) { return r.gflops >= 1e3; });
  const auto value_of = [&](const Row& r) {
    if (c.mixed) return r.percent_of_limit;
    return !c.operations ? r.gbytes : tera ? r.gflops * 1e-3 : r.gflops;
  };
  plot::BarChart chart;
  chart.title = title;
  chart.height = 460;
  chart.y.label = c.mixed         ? "% of the measured rate of multiply-adds, or of a copy"
                  : !c.operations ? "GB/s"
                  : tera          ? "TFLOP/s"
                                  : "GFLOP/s";
  for (const Row& r : c.rows) {
    const std::string label = label_of(r, c);
    if (std::find(chart.categories.begin(), chart.categories.end(), label) ==
        chart.categories.end())
      chart.categories.push_back(label);
  }
  chart.width = std::clamp(32.0 * static_cast<double>(chart.categories.size()), 1100.0, 4000.0);
  const std::vector<std::string> groups = c.every_size ? c.sizes : std::vector<std::string>{""};
  for (const std::string& size : groups) {
    plot::BarSeries series;
    series.name = size;
    for (const std::string& label : chart.categories) {
      const auto row = std::find_if(c.rows.begin(), c.rows.end(), [&](const Row& r) {
        return (size.empty() || r.size == size) && label_of(r, c) == label;
      });
      series.values.push_back(row == c.rows.end() ? 0 : value_of(*row));
    }
    chart.series.push_back(std::move(series));
  }
  chart.value_labels = groups.size() == 1;
  double low = INFINITY, high = 0;
  for (const plot::BarSeries& s : chart.series) {
    for (const double v : s.values) {
      if (v <= 0) continue;
      low = std::min(low, v);
      high = std::max(high, v);
    }
  }
  if (high > 20 * low) {  // the lowest bars would not be seen
    chart.y.scale = plot::Scale::log;
    chart.y.label += ", log scale";
  }
  return chart.svg();
}

std::string roofline_svg(const std::vector<Row>& rows, const Limits& limits,
                         const std::string& title) {
  plot::LineChart chart;
  chart.title = title;
  chart.subtitle = "under the measured copy rate and the measured rate of float32 multiply-adds";
  chart.width = 900;
  chart.height = 520;
  chart.x = {.label = "intensity", .unit = "FLOP/byte", .scale = plot::Scale::log};
  chart.y = {.label = "rate", .unit = "GFLOP/s", .scale = plot::Scale::log};
  const Content c = content_of(rows);
  double lowest = 1, highest = 1;
  for (const Row& r : c.rows) {
    if (r.gflops == 0 || r.gbytes == 0) continue;
    const double intensity = r.gflops / r.gbytes;
    lowest = std::min(lowest, intensity);
    highest = std::max(highest, intensity);
    const std::string& name = c.several_kernels ? r.kernel : r.size;
    auto series = std::find_if(chart.series.begin(), chart.series.end(),
                               [&](const plot::Series& s) { return s.name == name; });
    if (series == chart.series.end())
      series = chart.series.insert(series, {.name = name, .markers = true});
    // A gap after each, for nothing lies between two of them.
    series->x.insert(series->x.end(), {intensity, intensity});
    series->y.insert(series->y.end(), {r.gflops, NAN});
  }
  const auto exceeds = [&](const Row& r) {
    const bool on_tensor_cores =
        r.impl.find("TF32") != std::string::npos || r.impl.find("bf16") != std::string::npos;
    return on_tensor_cores && r.gflops > limits.gflops;
  };
  if (limits.gflops > 0 && std::any_of(c.rows.begin(), c.rows.end(), exceeds))
    chart.subtitle += ", which TF32 and bf16 on tensor cores exceed";
  if (limits.gflops > 0 && limits.gbytes > 0) {
    const double knee = limits.gflops / limits.gbytes;
    lowest = std::min(lowest, knee);
    chart.series.push_back({.name = "limit",
                            .x = {lowest / 2, knee, std::max(highest, knee) * 2},
                            .y = {limits.gbytes * lowest / 2, limits.gflops, limits.gflops},
                            .color = "#52525b"});
  }
  return chart.svg();
}

}  // namespace flowgrad::bench
