#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/plot/chart.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

/// "07 warp tile" of "sgemm 4096x4096x4096"; the library's own choice goes by the kernel's name
/// where the rows have several kernels.
std::string label_of(const Row& r, const std::vector<Row>& rows) {
  const bool several =
      std::any_of(rows.begin(), rows.end(), [&](const Row& o) { return o.kernel != r.kernel; });
  return several && r.impl == "flowgrad" ? r.kernel : r.impl;
}

bool was_timed(const Row& r) { return r.failure.empty() && r.seconds > 0; }

}  // namespace

std::string bars_svg(const std::vector<Row>& rows, const std::string& title) {
  const bool flops =
      std::any_of(rows.begin(), rows.end(), [](const Row& r) { return r.gflops > 0; });
  plot::BarChart chart;
  chart.title = title;
  chart.width = 1100;
  chart.height = 460;
  const bool tera =
      std::any_of(rows.begin(), rows.end(), [](const Row& r) { return r.gflops >= 1e3; });
  chart.y.label = !flops ? "GB/s" : tera ? "TFLOP/s" : "GFLOP/s";
  std::vector<std::string> sizes;
  for (const Row& r : rows) {
    if (!was_timed(r)) continue;
    if (std::find(sizes.begin(), sizes.end(), r.size) == sizes.end()) sizes.push_back(r.size);
    const std::string label = label_of(r, rows);
    if (std::find(chart.categories.begin(), chart.categories.end(), label) ==
        chart.categories.end())
      chart.categories.push_back(label);
  }
  for (const std::string& size : sizes) {
    plot::BarSeries series;
    series.name = size;
    for (const std::string& label : chart.categories) {
      const auto row = std::find_if(rows.begin(), rows.end(), [&](const Row& r) {
        return was_timed(r) && r.size == size && label_of(r, rows) == label;
      });
      series.values.push_back(row == rows.end() ? 0
                              : !flops          ? row->gbytes
                              : tera            ? row->gflops * 1e-3
                                                : row->gflops);
    }
    chart.series.push_back(std::move(series));
  }
  chart.value_labels = sizes.size() == 1;
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
  double lowest = 1, highest = 1;
  for (const Row& r : rows) {
    if (!was_timed(r) || r.gflops == 0 || r.gbytes == 0) continue;
    const double intensity = r.gflops / r.gbytes;
    lowest = std::min(lowest, intensity);
    highest = std::max(highest, intensity);
    if (chart.series.empty() || chart.series.back().name != r.size)
      chart.series.push_back({.name = r.size, .markers = true});
    chart.series.back().x.push_back(intensity);
    chart.series.back().y.push_back(r.gflops);
  }
  const auto exceeds = [&](const Row& r) {
    const bool on_tensor_cores =
        r.impl.find("TF32") != std::string::npos || r.impl.find("bf16") != std::string::npos;
    return was_timed(r) && on_tensor_cores && r.gflops > limits.gflops;
  };
  if (limits.gflops > 0 && std::any_of(rows.begin(), rows.end(), exceeds))
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
