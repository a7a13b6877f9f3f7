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
      if (group.mark == Mark::arrows &&
          (group.dx.size() != group.x.size() || group.dy.size() != group.x.size())) {
        throw ShapeError(fmt::format(
            "scatter: group '{}' of panel '{}' has {} arrows, {} dx and {} dy; they must be "
            "equally many",
            group.name, panel.title, group.x.size(), group.dx.size(), group.dy.size()));
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
  for (const PointGroup& group : panel.groups) {
    if (group.mark == Mark::dots) longest = std::max(longest, group.x.size());
  }
  for (size_t begin = 0; begin < longest; begin += kPathPoints) {
    for (size_t g = 0; g < panel.groups.size(); ++g) {
      const PointGroup& group = panel.groups[g];
      if (group.mark != Mark::dots) continue;
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

void append(std::string& data, char command, double x, double y) {
  data += command;
  data += number(x, 1);
  data += ' ';
  data += number(y, 1);
}

/// A shaft and two strokes for its head, a third of its length and at most 4 pixels long.
void append_arrow(std::string& data, double x, double y, double dx, double dy) {
  const double length = std::hypot(dx, dy);
  if (!(length > 0.3)) return;
  append(data, 'M', x, y);
  append(data, 'L', x + dx, y + dy);
  const double head = std::min(length / 3, 4.0) / length;
  append(data, 'M', x + dx - head * (dx + 0.6 * dy), y + dy - head * (dy - 0.6 * dx));
  append(data, 'L', x + dx, y + dy);
  append(data, 'L', x + dx - head * (dx - 0.6 * dy), y + dy - head * (dy + 0.6 * dx));
}

void draw_strokes(SvgWriter& svg, const PointGroup& group, const std::string& color,
                  const Scatter& chart, const Axis& x, const Axis& y) {
  if (group.mark == Mark::dots) return;
  std::string data;
  bool joined = false;
  for (size_t i = 0; i < group.x.size(); ++i) {
    const bool here = drawable(group.x[i], x.scale()) && drawable(group.y[i], y.scale());
    if (here && group.mark == Mark::path) {
      append(data, joined ? 'L' : 'M', x.pixel(group.x[i]), y.pixel(group.y[i]));
    } else if (here && drawable(group.x[i] + group.dx[i], x.scale()) &&
               drawable(group.y[i] + group.dy[i], y.scale())) {
      const double px = x.pixel(group.x[i]), py = y.pixel(group.y[i]);
      append_arrow(data, px, py, x.pixel(group.x[i] + group.dx[i]) - px,
                   y.pixel(group.y[i] + group.dy[i]) - py);
    }
    joined = here;
  }
  if (!data.empty())
    svg.path(data, {.color = color, .width = 0.8 * chart.radius, .opacity = chart.opacity});
}

/// Widens one of two axes so that a unit is equally long on both in a box of this width / height.
void equalize(Axis& x, Axis& y, double shape) {
  const double half_y = 0.5 * std::max(y.hi() - y.lo(), (x.hi() - x.lo()) / shape);
  const double half_x = half_y * shape;
  const double mid_x = 0.5 * (x.lo() + x.hi());
  const double mid_y = 0.5 * (y.lo() + y.hi());
  x = Axis({.lo = mid_x - half_x, .hi = mid_x + half_x}, 0.0, 1.0, 0.0);
  y = Axis({.lo = mid_y - half_y, .hi = mid_y + half_y}, 0.0, 1.0, 0.0);
}

/// Ticks for both of two equally scaled axes: those that stand side by side on the union of the
/// two.
std::vector<Tick> common_ticks(const Axis& x, const Axis& y, double pixels_per_unit) {
  const double lo = std::min(x.lo(), y.lo());
  const double hi = std::max(x.hi(), y.hi());
  Axis both({.lo = lo, .hi = hi}, 0.0, 1.0, 0.0);
  both.set_pixels(0.0, (hi - lo) * pixels_per_unit);
  return both.ticks_across(kTickSize);
}

void keep_inside(std::vector<Tick>& ticks, const Axis& axis) {
  std::erase_if(ticks, [&](const Tick& t) { return t.value < axis.lo() || t.value > axis.hi(); });
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
  Axis px(x, x_range.lo, x_range.hi, 0.04);
  Axis py(y, y_range.lo, y_range.hi, 0.04);
  double plot_height = panel_size;
  const bool equal = equal_aspect && x.scale == Scale::linear && y.scale == Scale::linear;
  if (equal) {
    const double aspect = (py.hi() - py.lo()) / (px.hi() - px.lo());
    plot_height = panel_size * std::clamp(aspect, 0.35, 2.0);
    equalize(px, py, panel_size / plot_height);
  }
  px.set_pixels(0.0, panel_size);
  auto x_ticks = px.ticks_across(kTickSize);
  auto y_ticks = py.ticks(std::clamp(static_cast<int>(plot_height / 45.0), 2, 6));
  if (equal) {
    std::vector<Tick> common_x = common_ticks(px, py, panel_size / (px.hi() - px.lo()));
    std::vector<Tick> common_y = common_x;
    keep_inside(common_x, px);
    keep_inside(common_y, py);
    if (common_x.size() > 1 && common_y.size() > 1) {  // not where the two ranges lie far apart
      x_ticks = common_x;
      y_ticks = common_y;
    }
  }
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
    px.set_pixels(box.left, box.right());
    py.set_pixels(box.bottom(), box.top);
    draw_y_axis(svg, box, py, y_ticks, grid.in_first_column(i));
    draw_x_axis(svg, box, px, x_ticks, grid.at_bottom(i, count));
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
    for (size_t g = 0; g < panel.groups.size(); ++g)
      draw_strokes(svg, panel.groups[g], shades[g], *this, px, py);
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
