#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/panels.h"

namespace flowgrad::plot {
namespace {

void check(const Scatter& chart) {
  check_size("scatter", chart.panel_size, chart.panel_size);
  if (!(chart.radius > 0.0 && chart.opacity > 0.0 && chart.opacity <= 1.0)) {
    throw ValueError(
        fmt::format("scatter: radius is {} and opacity is {}; accepted are > 0 and "
                    "(0, 1]",
                    chart.radius, chart.opacity));
  }
  for (const ScatterPanel& panel : chart.panels) {
    for (const PointGroup& group : panel.groups) {
      if (group.x.size() != group.y.size()) {
        throw ShapeError(
            fmt::format("scatter: group '{}' of panel '{}' has {} x values and {} y "
                        "values; they must be equally many",
                        group.name, panel.title, group.x.size(), group.y.size()));
      }
    }
  }
}

/// Dots as zero-length strokes with round ends, the shortest form there is. They are split over
/// several paths because opacity applies to a path as a whole, so crowds look darker than a few;
/// the groups take turns, so that no group hides another.
void draw_points(SvgWriter& svg, const ScatterPanel& panel, const std::vector<std::string>& colors,
                 const Scatter& chart, const Axis& x, const Axis& y) {
  constexpr size_t kPathPoints = 48;
  size_t longest = 0;
  for (const PointGroup& group : panel.groups) longest = std::max(longest, group.x.size());
  for (size_t begin = 0; begin < longest; begin += kPathPoints) {
    for (size_t g = 0; g < panel.groups.size(); ++g) {
      const PointGroup& group = panel.groups[g];
      std::string data;
      for (size_t i = begin; i < std::min(begin + kPathPoints, group.x.size()); ++i) {
        if (!drawable(group.x[i], x.scale()) || !drawable(group.y[i], y.scale())) continue;
        data += 'M';
        data += number(x.pixel(group.x[i]), 1);
        data += ' ';
        data += number(y.pixel(group.y[i]), 1);
        data += "h.01";
      }
      if (data.empty()) continue;
      svg.path(data, {.color = colors[g], .width = 2.0 * chart.radius, .opacity = chart.opacity});
    }
  }
}

/// Groups of equal name share a colour in all panels and one entry of the legend.
struct Colors {
  std::vector<LegendEntry> legend;
  std::string of(const PointGroup& group, size_t i) {
    for (const LegendEntry& entry : legend) {
      if (!group.name.empty() && entry.name == group.name) return entry.color;
    }
    if (group.name.empty()) return color_or(group.color, i);
    legend.push_back({group.name, color_or(group.color, legend.size()), Swatch::dot});
    return legend.back().color;
  }
};

}  // namespace

std::string Scatter::svg() const {
  check(*this);
  Range x_range;
  Range y_range;
  Colors colors;
  bool titles = false;
  for (const ScatterPanel& panel : panels) {
    titles = titles || !panel.title.empty();
    for (size_t g = 0; g < panel.groups.size(); ++g) {
      const PointGroup& group = panel.groups[g];
      colors.of(group, g);
      for (size_t i = 0; i < group.x.size(); ++i) {
        if (!drawable(group.x[i], x.scale) || !drawable(group.y[i], y.scale)) continue;
        x_range.include(group.x[i], x.scale);
        y_range.include(group.y[i], y.scale);
      }
    }
  }
  const Axis x_axis(x, x_range.lo, x_range.hi, 0.04);
  const Axis y_axis(y, y_range.lo, y_range.hi, 0.04);
  double plot_height = panel_size;
  if (equal_aspect && x.scale == Scale::linear && y.scale == Scale::linear) {
    const double aspect = (y_axis.hi() - y_axis.lo()) / (x_axis.hi() - x_axis.lo());
    plot_height = panel_size * std::clamp(aspect, 0.35, 2.0);
  }
  const int y_target = std::clamp(static_cast<int>(plot_height / 45.0), 2, 6);
  const auto y_ticks = y_axis.ticks(y_target);
  const size_t count = std::max<size_t>(panels.size(), 1);
  PanelGrid grid = arrange({.count = count,
                            .columns = columns,
                            .plot_width = panel_size,
                            .plot_height = plot_height,
                            .label_room = tick_room(y_ticks),
                            .titles = titles,
                            .x_caption = !x.caption().empty(),
                            .y_caption = !y.caption().empty()});
  const Header header(title, subtitle, colors.legend, grid.width - 2.0 * kMargin);
  set_header(grid, kMargin + header.height() + 6.0);

  SvgWriter svg(grid.width, grid.height, title);
  header.draw(svg, kMargin, kMargin - 4.0);
  svg.text(kMargin, grid.header + 12.0,
           fit_text(y.caption(), grid.width - 2.0 * kMargin, kCaptionSize),
           {.size = kCaptionSize, .color = kText});
  for (size_t i = 0; i < count; ++i) {
    const Box box = grid.box(i);
    Axis px = x_axis;
    Axis py = y_axis;
    if (equal_aspect && x.scale == Scale::linear && y.scale == Scale::linear) {
      // One pixel measures the same on both axes; the slack is left around the middle.
      const double scale =
          std::min(box.width / (px.hi() - px.lo()), box.height / (py.hi() - py.lo()));
      const double half_x = 0.5 * box.width / scale;
      const double half_y = 0.5 * box.height / scale;
      const double mid_x = 0.5 * (px.lo() + px.hi());
      const double mid_y = 0.5 * (py.lo() + py.hi());
      px = Axis({.lo = mid_x - half_x, .hi = mid_x + half_x}, 0.0, 1.0, 0.0);
      py = Axis({.lo = mid_y - half_y, .hi = mid_y + half_y}, 0.0, 1.0, 0.0);
    }
    px.set_pixels(box.left, box.right());
    py.set_pixels(box.bottom(), box.top);
    draw_y_axis(svg, box, py, py.ticks(y_target), grid.in_first_column(i));
    draw_x_axis(svg, box, px, px.ticks_across(kTickSize), grid.at_bottom(i, count));
    if (i >= panels.size()) {
      draw_empty(svg, box);
      break;
    }
    const ScatterPanel& panel = panels[i];
    svg.text(box.left + box.width / 2.0, box.top - 8.0,
             fit_text(panel.title, box.width, 13.0, true),
             {.size = 13.0, .color = "#27272a", .anchor = Anchor::middle, .bold = true});
    svg.open_clip(box.left, box.top, box.width, box.height);
    std::vector<std::string> shades;
    for (size_t g = 0; g < panel.groups.size(); ++g)
      shades.push_back(colors.of(panel.groups[g], g));
    draw_points(svg, panel, shades, *this, px, py);
    svg.close_clip();
  }
  const double middle =
      kMargin + grid.left + 0.5 * (grid.box(grid.columns - 1).right() - grid.box(0).left);
  svg.text(middle, grid.height - 12.0, x.caption(),
           {.size = kCaptionSize, .color = kText, .anchor = Anchor::middle});
  return svg.finish();
}

}  // namespace flowgrad::plot
