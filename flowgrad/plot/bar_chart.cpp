#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/frame.h"

namespace flowgrad::plot {
namespace {

void check(const BarChart& chart) {
  check_size("bar chart", chart.width, chart.height);
  for (const BarSeries& s : chart.series) {
    if (s.values.size() != chart.categories.size()) {
      throw ShapeError(fmt::format("bar chart: series '{}' has {} values; there are {} categories",
                                   s.name, s.values.size(), chart.categories.size()));
    }
    if (!s.errors.empty() && s.errors.size() != s.values.size()) {
      throw ShapeError(
          fmt::format("bar chart: series '{}' has {} errors for {} values; give one a "
                      "value or none",
                      s.name, s.errors.size(), s.values.size()));
    }
  }
}

/// Where bars start: zero, or on a log axis the power of ten below everything drawn.
double base_value(const BarChart& chart, const Range& range) {
  if (chart.y.scale == Scale::linear) return 0.0;
  if (chart.y.lo) return *chart.y.lo;
  if (range.empty()) return 0.1;
  double base = std::pow(10.0, std::floor(std::log10(range.lo)));
  if (range.lo < 1.3 * base) base *= 0.1;  // the smallest bar stays visible
  return base;
}

/// The value axis: bars stand on their base, so only ends away from it get room, for the labels.
Axis value_axis(const BarChart& chart, const Range& range, double base, bool empty) {
  AxisOptions options = chart.y;
  const double head = chart.value_labels ? 0.1 : 0.05;
  if (empty) return Axis(options, range.lo, range.hi, 0.0);
  if (options.scale == Scale::log) {
    if (!options.lo) options.lo = base;
    if (!options.hi) {
      const double top = std::max(range.hi, 1.001 * *options.lo);
      options.hi = top * std::pow(top / *options.lo, head);
    }
  } else {
    const double span = std::max(range.hi, 0.0) - std::min(range.lo, 0.0);
    if (!options.lo) options.lo = range.lo < 0.0 ? range.lo - head * span : 0.0;
    if (!options.hi) options.hi = range.hi > 0.0 ? range.hi + head * span : 0.0;
    if (*options.lo >= *options.hi) options.hi = *options.lo + 1.0;
  }
  return Axis(options, range.lo, range.hi, 0.0);
}

/// Bar with rounded outer corners and a straight foot.
std::string bar_path(double left, double right, double foot, double tip) {
  const double r = std::min({3.0, 0.5 * (right - left), std::abs(foot - tip)});
  const double s = tip < foot ? r : -r;
  return fmt::format("M{0} {1}V{2}Q{0} {3} {4} {3}H{5}Q{6} {3} {6} {2}V{1}Z", number(left),
                     number(foot), number(tip + s), number(tip), number(left + r),
                     number(right - r), number(right));
}

/// Category names below the bars: level where they fit, else slanted; where even slanted lines
/// would touch, only every stride-th name is shown.
struct CategoryLabels {
  static constexpr double kSine = 0.5736;  // of 35 degrees
  static constexpr double kCosine = 0.8192;
  bool slanted = false;
  size_t stride = 1;
  double longest = 0.0;  ///< what slanted names are cut to
  double room = 24.0;    ///< height below the axis

  CategoryLabels(const BarChart& chart, double slot) {
    for (const std::string& c : chart.categories) {
      longest = std::max(longest, text_width(c, kTickSize));
    }
    slanted = longest > slot - 8.0;
    if (!slanted) return;
    longest = std::min({longest, 0.4 * chart.height / kSine, 0.3 * chart.width / kCosine});
    stride = static_cast<size_t>(std::max(1.0, std::ceil(16.0 / (slot * kSine))));
    room = longest * kSine + 20.0;
  }
  /// How far the first name reaches left of its bar.
  double overhang() const { return slanted ? longest * kCosine + 8.0 : 0.0; }

  void draw(SvgWriter& svg, double x, double bottom, const std::string& name, size_t i) const {
    if (i % stride != 0) return;
    if (slanted) {
      svg.text(x + 4.0, bottom + 15.0, fit_text(name, longest, kTickSize),
               {.size = kTickSize, .color = kText, .anchor = Anchor::end, .rotate = -35.0});
    } else {
      svg.text(x, bottom + 19.0, name,
               {.size = kTickSize, .color = kText, .anchor = Anchor::middle});
    }
  }
};

/// Upper and lower end of what is drawn of one bar.
struct Extent {
  double top, bottom;
};

Extent draw_bar(SvgWriter& svg, const Box& box, const Axis& axis, const BarSeries& s, size_t i,
                double left, double right, double foot, const std::string& color) {
  const auto clamped = [&](double v) { return std::clamp(axis.pixel(v), box.top, box.bottom()); };
  const double v = s.values[i];
  const double tip = clamped(v);
  svg.path(bar_path(left, right, foot, tip), {.width = 0.0}, color);
  Extent extent{std::min(tip, foot), std::max(tip, foot)};
  const double e = s.errors.empty() ? 0.0 : s.errors[i];
  if (!(e > 0.0) || !drawable(v + e, axis.scale())) return extent;
  const double high = clamped(v + e);
  const double low = drawable(v - e, axis.scale()) ? clamped(v - e) : box.bottom();
  const double x = 0.5 * (left + right);
  const LineStyle style{.color = kInk, .width = 1.3};
  svg.line(x, high, x, low, style);
  svg.line(x - 4.0, high, x + 4.0, high, style);
  svg.line(x - 4.0, low, x + 4.0, low, style);
  return {std::min(extent.top, high), std::max(extent.bottom, low)};
}

}  // namespace

std::string BarChart::svg() const {
  check(*this);
  Range range;
  std::vector<LegendEntry> legend;
  double widest_value = 0.0;
  for (size_t k = 0; k < series.size(); ++k) {
    for (size_t i = 0; i < series[k].values.size(); ++i) {
      const double v = series[k].values[i];
      if (!drawable(v, y.scale)) continue;
      const double e = series[k].errors.empty() ? 0.0 : series[k].errors[i];
      range.include(v, y.scale);
      range.include(v + e, y.scale);
      range.include(v - e, y.scale);
      widest_value = std::max(widest_value, text_width(pretty_number(v, 3), 11.0));
    }
    legend.push_back({series[k].name, color_or(series[k].color, k), Swatch::box});
  }
  if (series.size() == 1) legend.clear();
  const bool empty = range.empty() || categories.empty();
  for (const Reference& r : horizontals) range.include(r.value, y.scale);
  const double base = base_value(*this, range);
  range.include(base, y.scale);
  Axis axis = value_axis(*this, range, base, empty);

  const Header header(title, subtitle, legend, width - 2.0 * kMargin);
  const auto category_count = static_cast<double>(std::max<size_t>(categories.size(), 1));
  const auto series_count = static_cast<double>(std::max<size_t>(series.size(), 1));
  Box box;
  box.top = kMargin + header.height() + (y.caption().empty() ? 10.0 : 32.0);
  const auto ticks = axis.ticks(std::clamp(static_cast<int>((height - box.top) / 52.0), 2, 8));
  const double ticks_left = kMargin + tick_room(ticks);
  const double right = width - kMargin - 4.0;
  const CategoryLabels names(*this, (right - ticks_left) / category_count);
  // The slanted first name may need more room at the left than the ticks do.
  box.left = std::max(ticks_left, names.overhang() - 0.5 * (right - ticks_left) / category_count);
  box.width = right - box.left;
  box.height = height - box.top - names.room - 10.0;
  if (box.height < 40.0) {
    throw ValueError(
        fmt::format("bar chart: height {} leaves no room for the bars; at least {} is needed",
                    height, std::ceil(height + 40.0 - box.height)));
  }
  axis.set_pixels(box.bottom(), box.top);
  const double foot =
      std::clamp(axis.pixel(std::clamp(base, axis.lo(), axis.hi())), box.top, box.bottom());

  SvgWriter svg(width, height, title);
  header.draw(svg, kMargin, kMargin - 4.0);
  svg.text(kMargin, box.top - 17.0, fit_text(y.caption(), width - 2.0 * kMargin, kCaptionSize),
           {.size = kCaptionSize, .color = kText});
  draw_y_axis(svg, box, axis, ticks);

  LabelPlacer placer(box);
  const double slot = box.width / category_count;
  const double group = std::min(0.78 * slot, 74.0 * series_count);
  const double step = group / series_count;
  const bool labelled = value_labels && widest_value <= step + 2.0;  // all of them or none
  for (size_t i = 0; i < categories.size(); ++i) {
    const double middle = box.left + (static_cast<double>(i) + 0.5) * slot;
    for (size_t k = 0; k < series.size(); ++k) {
      const double v = series[k].values[i];
      if (!drawable(v, y.scale)) continue;
      const double left = middle - group / 2.0 + (static_cast<double>(k) + 0.06) * step;
      const double bar_right = left + 0.88 * step;
      const Extent extent = draw_bar(svg, box, axis, series[k], i, left, bar_right, foot,
                                     color_or(series[k].color, k));
      placer.avoid(Box{left, extent.top, bar_right - left, extent.bottom - extent.top});
      if (!labelled) continue;
      const bool below = v < 0.0 && y.scale == Scale::linear;
      const double at = below ? extent.bottom + 13.0 : extent.top - 5.0;
      svg.text(0.5 * (left + bar_right), at, pretty_number(v, 3),
               {.size = 11.0, .color = "#3f3f46", .anchor = Anchor::middle, .halo = true});
      placer.avoid(Box{left, at - 10.0, bar_right - left, 10.0});
    }
    names.draw(svg, middle, box.bottom(), categories[i], i);
  }
  svg.line(box.left, foot, box.right(), foot, {.color = kAxisLine, .round = false});
  draw_horizontals(svg, box, axis, horizontals, placer);
  if (empty) draw_empty(svg, box);
  return svg.finish();
}

}  // namespace flowgrad::plot
