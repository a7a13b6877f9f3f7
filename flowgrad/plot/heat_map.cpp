#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/image.h"
#include "flowgrad/plot/panels.h"

namespace flowgrad::plot {
namespace {

constexpr double kBarWidth = 14.0;
constexpr double kBarGap = 18.0;

void check(const HeatMap& chart) {
  check_size("heat map", chart.panel_size, chart.panel_size);
  if (chart.rows < 1 || chart.columns < 1) {
    throw ShapeError(fmt::format("heat map: array is ({}, {}); both sizes must be at least 1",
                                 chart.rows, chart.columns));
  }
  for (const HeatPanel& panel : chart.panels) {
    if (panel.values.size() != static_cast<size_t>(chart.rows * chart.columns)) {
      throw ShapeError(fmt::format("heat map: panel '{}' has {} values; ({}, {}) needs {}",
                                   panel.title, panel.values.size(), chart.rows, chart.columns,
                                   chart.rows * chart.columns));
    }
  }
  if (chart.x.scale == Scale::log || chart.y.scale == Scale::log) {
    throw ValueError("heat map: x and y must be linear; only the value may be on a log scale");
  }
}

/// The colour axis: ends from the options or the data, around zero for a map with a middle.
Axis value_axis(const HeatMap& chart) {
  Range range;
  for (const HeatPanel& panel : chart.panels) {
    for (double v : panel.values) range.include(v, chart.value.scale);
  }
  AxisOptions options = chart.value;
  if (chart.map == ColorMap::balance && options.scale == Scale::linear && !options.lo &&
      !options.hi && !range.empty()) {
    const double reach = std::max(std::abs(range.lo), std::abs(range.hi));
    range.lo = -reach;
    range.hi = reach;
  }
  return Axis(options, range.lo, range.hi, 0.0);
}

Image panel_image(const HeatMap& chart, const HeatPanel& panel, const Axis& axis) {
  std::vector<double> shade(panel.values.size());
  for (size_t i = 0; i < shade.size(); ++i) {
    const double v = panel.values[i];
    if (std::isnan(v)) {
      shade[i] = v;
    } else if (v == HUGE_VAL || v == -HUGE_VAL || (chart.value.scale == Scale::log && v <= 0.0)) {
      shade[i] = v > 0.0 ? 1.0 : 0.0;  // log densities of nothing are at the bottom, not missing
    } else {
      shade[i] = axis.pixel(v);
    }
  }
  return heat_image(shade, chart.rows, chart.columns, {.lo = 0.0, .hi = 1.0, .map = chart.map});
}

}  // namespace

std::string HeatMap::svg() const {
  check(*this);
  AxisOptions x_options = x;
  AxisOptions y_options = y;
  if (!x_options.lo) x_options.lo = 0.0;
  if (!x_options.hi) x_options.hi = *x_options.lo + static_cast<double>(columns);
  if (!y_options.lo) y_options.lo = 0.0;
  if (!y_options.hi) y_options.hi = *y_options.lo + static_cast<double>(rows);
  Axis x_axis(x_options, 0.0, 1.0, 0.0);
  Axis y_axis(y_options, 0.0, 1.0, 0.0);
  Axis shade = value_axis(*this);
  shade.set_pixels(0.0, 1.0);

  const double aspect =
      std::clamp((y_axis.hi() - y_axis.lo()) / (x_axis.hi() - x_axis.lo()), 0.2, 5.0);
  const double plot_width = aspect > 1.0 ? std::max(panel_size / aspect, 60.0) : panel_size;
  const double plot_height = aspect > 1.0 ? panel_size : std::max(panel_size * aspect, 60.0);
  const int y_target = std::clamp(static_cast<int>(plot_height / 45.0), 2, 6);
  const size_t count = std::max<size_t>(panels.size(), 1);
  const bool titles = std::any_of(panels.begin(), panels.end(),
                                  [](const HeatPanel& p) { return !p.title.empty(); });
  const auto value_ticks = shade.ticks(std::clamp(static_cast<int>(plot_height / 40.0), 2, 7));
  const double bar_room = kBarGap + kBarWidth + tick_room(value_ticks);
  PanelGrid grid = arrange({.count = count,
                            .columns = columns_of_panels,
                            .plot_width = plot_width,
                            .plot_height = plot_height,
                            .label_room = tick_room(y_axis.ticks(y_target)),
                            .right = bar_room,
                            .titles = titles,
                            .x_caption = !x.caption().empty(),
                            .y_caption = !y.caption().empty() || !value.caption().empty()});
  const Header header(title, subtitle, {}, grid.width - 2.0 * kMargin);
  set_header(grid, kMargin + header.height() + 6.0);

  SvgWriter svg(grid.width, grid.height, title);
  header.draw(svg, kMargin, kMargin - 4.0);
  const double half = 0.5 * (grid.width - 2.0 * kMargin);
  svg.text(kMargin, grid.header + 12.0, fit_text(y.caption(), half - 8.0, kCaptionSize),
           {.size = kCaptionSize, .color = kText});
  svg.text(grid.width - kMargin, grid.header + 12.0,
           fit_text(value.caption(), half - 8.0, kCaptionSize),
           {.size = kCaptionSize, .color = kText, .anchor = Anchor::end});
  for (size_t i = 0; i < count; ++i) {
    const Box box = grid.box(i);
    x_axis.set_pixels(box.left, box.right());
    y_axis.set_pixels(box.bottom(), box.top);
    draw_y_axis(svg, box, y_axis, y_axis.ticks(y_target), grid.in_first_column(i));
    draw_x_axis(svg, box, x_axis, x_axis.ticks_across(kTickSize), grid.at_bottom(i, count));
    if (i >= panels.size()) {
      draw_empty(svg, box);
      break;
    }
    svg.image(box.left, box.top, box.width, box.height,
              png_data_uri(panel_image(*this, panels[i], shade)));
    svg.text(box.left + box.width / 2.0, box.top - 8.0,
             fit_text(panels[i].title, box.width, 13.0, true),
             {.size = 13.0, .color = "#27272a", .anchor = Anchor::middle, .bold = true});
  }

  const Box last = grid.box(static_cast<size_t>(grid.columns - 1));
  const Box bar{last.right() + kBarGap, last.top, kBarWidth, last.height};
  Image colors(1, 256, 3);
  for (int64_t i = 0; i < 256; ++i) {
    colors.set(0, i, map_color(map, 1.0 - static_cast<double>(i) / 255.0));
  }
  svg.image(bar.left, bar.top, bar.width, bar.height, png_data_uri(colors));
  shade.set_pixels(bar.bottom(), bar.top);
  for (const Tick& tick : value_ticks) {
    const double at = shade.pixel(tick.value);
    svg.line(bar.right(), at, bar.right() + 4.0, at, {.color = kAxisLine, .round = false});
    svg.text(bar.right() + 8.0, at + 4.0, tick.label, {.size = kTickSize, .color = kText});
  }
  const double middle = 0.5 * (grid.box(0).left + last.right());
  svg.text(middle, grid.height - 12.0, x.caption(),
           {.size = kCaptionSize, .color = kText, .anchor = Anchor::middle});
  return svg.finish();
}

}  // namespace flowgrad::plot
