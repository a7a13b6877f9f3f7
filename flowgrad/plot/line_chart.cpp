#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/frame.h"

namespace flowgrad::plot {
namespace {

using Points = std::vector<std::pair<double, double>>;

void check(const LineChart& chart) {
  check_size("line chart", chart.width, chart.height);
  for (const Series& s : chart.series) {
    if (s.x.size() != s.y.size()) {
      throw ShapeError(
          fmt::format("line chart: series '{}' has {} x values and {} y values; they "
                      "must be equally many",
                      s.name, s.x.size(), s.y.size()));
    }
    if (s.band_lo.size() != s.band_hi.size() ||
        (!s.band_lo.empty() && s.band_lo.size() != s.x.size())) {
      throw ShapeError(
          fmt::format("line chart: the band of series '{}' has {} lower and {} upper ends for {} x "
                      "values; one of each for each x, or none, is accepted",
                      s.name, s.band_lo.size(), s.band_hi.size(), s.x.size()));
    }
    if (!(s.smoothing >= 0.0 && s.smoothing < 1.0)) {
      throw ValueError(
          fmt::format("line chart: smoothing of series '{}' is {}; it must lie in "
                      "[0, 1)",
                      s.name, s.smoothing));
    }
  }
}

/// Exponential moving average, bias-corrected so that it starts at the first value.
std::vector<double> smoothed(const std::vector<double>& y, double keep) {
  std::vector<double> out(y.size());
  double sum = 0.0;
  double weight = 0.0;
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::isfinite(y[i])) {
      sum = keep * sum + (1.0 - keep) * y[i];
      weight = keep * weight + (1.0 - keep);
    }
    out[i] = std::isfinite(y[i]) ? sum / weight : y[i];
  }
  return out;
}

/// The drawable stretches of a series in pixels.
std::vector<Points> stretches(const std::vector<double>& xs, const std::vector<double>& ys,
                              const Axis& x, const Axis& y) {
  std::vector<Points> out(1);
  for (size_t i = 0; i < xs.size(); ++i) {
    if (drawable(xs[i], x.scale()) && drawable(ys[i], y.scale())) {
      out.back().emplace_back(x.pixel(xs[i]), y.pixel(ys[i]));
    } else if (!out.back().empty()) {
      out.emplace_back();
    }
  }
  if (out.back().empty()) out.pop_back();
  return out;
}

/// First, lowest, highest and last point of every pixel column; needs ascending x to change
/// anything.
Points thinned(const Points& points) {
  const bool ascending = std::is_sorted(points.begin(), points.end(),
                                        [](auto& a, auto& b) { return a.first < b.first; });
  if (!ascending || points.size() < 2000) return points;
  Points out;
  for (size_t i = 0; i < points.size();) {
    size_t end = i;
    size_t low = i;
    size_t high = i;
    while (end < points.size() && std::floor(points[end].first) == std::floor(points[i].first)) {
      if (points[end].second < points[low].second) low = end;
      if (points[end].second > points[high].second) high = end;
      ++end;
    }
    for (size_t k : {i, std::min(low, high), std::max(low, high), end - 1}) {
      if (out.empty() || out.back() != points[k]) out.push_back(points[k]);
    }
    i = end;
  }
  return out;
}

/// Closed areas, one for each stretch where both ends of the band can be drawn.
void draw_band(SvgWriter& svg, const Series& s, const std::string& color, const Axis& x,
               const Axis& y) {
  std::vector<double> hi = s.band_hi;
  std::vector<double> lo = s.band_lo;
  for (size_t i = 0; i < lo.size(); ++i) {
    if (!drawable(lo[i], y.scale()) || !drawable(hi[i], y.scale())) lo[i] = hi[i] = std::nan("");
  }
  const std::vector<Points> upper = stretches(s.x, hi, x, y);
  const std::vector<Points> lower = stretches(s.x, lo, x, y);
  for (size_t k = 0; k < upper.size(); ++k) {
    Points edge = upper[k];
    edge.insert(edge.end(), lower[k].rbegin(), lower[k].rend());
    std::string path;
    for (const auto& [px, py] : edge)
      path += fmt::format("{}{} {}", path.empty() ? 'M' : 'L', number(px), number(py));
    svg.path(path + "Z", {.width = 0.0}, color, 0.15);
  }
}

void draw_line(SvgWriter& svg, const std::vector<Points>& parts, const LineStyle& style,
               bool markers) {
  for (const Points& part : parts) {
    if (part.size() > 1) svg.polyline(part, style);
    if (markers || part.size() == 1) {
      for (const auto& [x, y] : part) svg.circle(x, y, style.width + 1.2, style.color);
    }
  }
}

}  // namespace

std::string LineChart::svg() const {
  check(*this);
  Range x_range;
  Range y_range;
  std::vector<LegendEntry> legend;
  for (size_t k = 0; k < series.size(); ++k) {
    const Series& s = series[k];
    for (size_t i = 0; i < s.x.size(); ++i) {
      if (!drawable(s.x[i], x.scale) || !drawable(s.y[i], y.scale)) continue;
      if ((x.lo && s.x[i] < *x.lo) || (x.hi && s.x[i] > *x.hi)) continue;
      x_range.include(s.x[i], x.scale);
      y_range.include(s.y[i], y.scale);
      if (s.band_lo.empty()) continue;
      y_range.include(s.band_lo[i], y.scale);
      y_range.include(s.band_hi[i], y.scale);
    }
    legend.push_back({s.name, color_or(s.color, k), s.dashed ? Swatch::dash : Swatch::line});
  }
  const bool empty = x_range.empty();
  for (const Reference& r : horizontals) y_range.include(r.value, y.scale);
  for (const Reference& r : verticals) x_range.include(r.value, x.scale);
  Axis x_axis(x, x_range.lo, x_range.hi, 0.0);
  Axis y_axis(y, y_range.lo, y_range.hi, 0.06);

  // One line needs no legend where the axis already says what it is.
  if (series.size() == 1 && (series[0].name == y.label || series[0].name.empty())) legend.clear();
  const Header header(title, subtitle, legend, width - 2.0 * kMargin);
  Box box;
  box.top = kMargin + header.height() + (y.caption().empty() ? 10.0 : 32.0);
  box.height = height - box.top - 28.0 - (x.caption().empty() ? 0.0 : 20.0) - 10.0;
  if (box.height < 40.0) {
    throw ValueError(
        fmt::format("line chart: height {} leaves no room for the plot below title and "
                    "legend; at least {} is needed",
                    height, std::ceil(height + 40.0 - box.height)));
  }
  y_axis.set_pixels(box.bottom(), box.top);
  const auto y_ticks = y_axis.ticks(std::clamp(static_cast<int>(box.height / 48.0), 2, 8));
  box.left = kMargin + tick_room(y_ticks);
  box.width = width - box.left - kMargin - 8.0;
  x_axis.set_pixels(box.left, box.right());

  SvgWriter svg(width, height, title);
  header.draw(svg, kMargin, kMargin - 4.0);
  svg.text(kMargin, box.top - 17.0, fit_text(y.caption(), width - 2.0 * kMargin, kCaptionSize),
           {.size = kCaptionSize, .color = kText});
  draw_y_axis(svg, box, y_axis, y_ticks);
  draw_x_axis(svg, box, x_axis, x_axis.ticks_across(kTickSize));
  svg.text(box.left + box.width / 2.0, box.bottom() + 39.0, x.caption(),
           {.size = kCaptionSize, .color = kText, .anchor = Anchor::middle});

  LabelPlacer placer(box);
  svg.open_clip(box.left - 3.0, box.top - 3.0, box.width + 6.0, box.height + 6.0);
  for (size_t k = 0; k < series.size(); ++k)
    if (!series[k].band_lo.empty())
      draw_band(svg, series[k], color_or(series[k].color, k), x_axis, y_axis);
  for (size_t k = 0; k < series.size(); ++k) {
    const Series& s = series[k];
    const std::string color = color_or(s.color, k);
    const bool smooth = s.smoothing > 0.0;
    std::vector<Points> parts;
    for (const Points& part : stretches(s.x, s.y, x_axis, y_axis)) parts.push_back(thinned(part));
    if (smooth) {
      draw_line(svg, parts, {.color = color, .width = 1.0, .opacity = 0.28}, false);
      parts.clear();
      for (const Points& part : stretches(s.x, smoothed(s.y, s.smoothing), x_axis, y_axis)) {
        parts.push_back(thinned(part));
      }
    }
    draw_line(svg, parts, {.color = color, .width = s.width, .dash = s.dashed ? "7 5" : ""},
              s.markers);
    for (const Points& part : parts) placer.avoid(part);
  }
  svg.close_clip();
  draw_verticals(svg, box, x_axis, verticals, placer);
  draw_horizontals(svg, box, y_axis, horizontals, placer);
  if (empty) draw_empty(svg, box);
  return svg.finish();
}

}  // namespace flowgrad::plot
