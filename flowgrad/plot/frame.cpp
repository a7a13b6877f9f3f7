#include "flowgrad/plot/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"

namespace flowgrad::plot {
namespace {

constexpr double kLegendRow = 20.0;
constexpr double kSwatchWidth = 18.0;

bool overlap(const Box& a, const Box& b) {
  return a.left < b.right() && b.left < a.right() && a.top < b.bottom() && b.top < a.bottom();
}

}  // namespace

bool drawable(double value, Scale scale) {
  return std::isfinite(value) && std::abs(value) < 1e300 &&
         (scale == Scale::linear || value > 1e-300);
}

void Range::include(double value, Scale scale) {
  if (!drawable(value, scale)) return;
  const bool first = empty();
  lo = first ? value : std::min(lo, value);
  hi = first ? value : std::max(hi, value);
}

std::string color_or(const std::string& color, size_t i) {
  return to_hex(color.empty() ? category_color(i) : parse_hex(color));
}

void check_size(const char* chart, double width, double height) {
  const auto fits = [](double v) { return v >= 120.0 && v <= 10000.0; };
  if (!fits(width) || !fits(height)) {
    throw ValueError(fmt::format("{}: size is {} x {} pixels; each side must lie in [120, 10000]",
                                 chart, width, height));
  }
}

Header::Header(std::string title, std::string subtitle, std::vector<LegendEntry> legend,
               double width)
    : title_(std::move(title)),
      subtitle_(std::move(subtitle)),
      legend_(std::move(legend)),
      width_(width) {
  if (!title_.empty()) height_ += 24.0;
  if (!subtitle_.empty()) height_ += 19.0;
  double x = 0.0;
  double y = height_ + 4.0;
  for (size_t i = 0; i < legend_.size(); ++i) {
    if (legend_[i].name.empty()) continue;
    const double room = kSwatchWidth + 6.0 +
                        std::min(text_width(legend_[i].name, kCaptionSize), width - 30.0) + 18.0;
    if (x > 0.0 && x + room - 18.0 > width) {
      x = 0.0;
      y += kLegendRow;
    }
    items_.push_back({i, x, y});
    x += room;
  }
  if (!items_.empty()) height_ = y + kLegendRow;
}

void Header::draw(SvgWriter& svg, double left, double top) const {
  double y = top;
  if (!title_.empty()) {
    svg.text(left, y + 15.0, fit_text(title_, width_, kTitleSize, true),
             {.size = kTitleSize, .color = kInk, .bold = true});
    y += 24.0;
  }
  if (!subtitle_.empty()) {
    svg.text(left, y + 12.0, fit_text(subtitle_, width_, kCaptionSize),
             {.size = kCaptionSize, .color = "#71717a"});
  }
  for (const Item& item : items_) {
    const LegendEntry& entry = legend_[item.entry];
    const double x = left + item.x;
    const double mid = top + item.y + 8.0;
    switch (entry.swatch) {
      case Swatch::dot: svg.circle(x + kSwatchWidth / 2.0, mid, 4.5, entry.color); break;
      case Swatch::box: svg.rect(x + 3.0, mid - 6.0, 12.0, 12.0, entry.color, 2.5); break;
      default:
        svg.line(x + 1.0, mid, x + kSwatchWidth - 1.0, mid,
                 {.color = entry.color,
                  .width = 2.5,
                  .dash = entry.swatch == Swatch::dash ? "5 4.5" : ""});
    }
    svg.text(x + kSwatchWidth + 6.0, mid + 4.3, fit_text(entry.name, width_ - 30.0, kCaptionSize),
             {.size = kCaptionSize, .color = "#3f3f46"});
  }
}

double tick_room(const std::vector<Tick>& ticks) {
  double room = 0.0;
  for (const Tick& tick : ticks) room = std::max(room, text_width(tick.label, kTickSize));
  return room + 9.0;
}

void draw_y_axis(SvgWriter& svg, const Box& box, const Axis& axis, const std::vector<Tick>& ticks,
                 bool labels) {
  // Subdivisions only where a decade is tall enough for nine lines.
  const bool roomy =
      axis.scale() == Scale::log && box.height / std::log10(axis.hi() / axis.lo()) > 80.0;
  for (double v : roomy ? axis.minor_ticks() : std::vector<double>{}) {
    const double y = axis.pixel(v);
    svg.line(box.left, y, box.right(), y, {.color = kFaintGrid, .round = false});
  }
  for (const Tick& tick : ticks) {
    const double y = axis.pixel(tick.value);
    svg.line(box.left, y, box.right(), y, {.color = kGrid, .round = false});
    if (labels) {
      svg.text(box.left - 8.0, y + 4.0, tick.label,
               {.size = kTickSize, .color = kText, .anchor = Anchor::end});
    }
  }
}

void draw_x_axis(SvgWriter& svg, const Box& box, const Axis& axis, const std::vector<Tick>& ticks,
                 bool labels) {
  svg.line(box.left, box.bottom(), box.right(), box.bottom(), {.color = kAxisLine, .round = false});
  for (const Tick& tick : ticks) {
    const double x = axis.pixel(tick.value);
    svg.line(x, box.bottom(), x, box.bottom() + 5.0, {.color = kAxisLine, .round = false});
    if (labels) {
      svg.text(x, box.bottom() + 19.0, tick.label,
               {.size = kTickSize, .color = kText, .anchor = Anchor::middle});
    }
  }
}

void draw_empty(SvgWriter& svg, const Box& box) {
  svg.text(box.left + box.width / 2.0, box.top + box.height / 2.0 + 4.0, "no data",
           {.size = 13.0, .color = "#a1a1aa", .anchor = Anchor::middle, .halo = true});
}

void LabelPlacer::avoid(const std::vector<std::pair<double, double>>& points) {
  for (size_t i = 0; i < points.size(); ++i) {
    ink_.push_back(points[i]);
    if (i == 0) continue;
    const auto [x0, y0] = points[i - 1];
    const auto [x1, y1] = points[i];
    const int steps = std::min(200, static_cast<int>(std::hypot(x1 - x0, y1 - y0) / 4.0));
    for (int k = 1; k < steps; ++k) {
      const double f = static_cast<double>(k) / steps;
      ink_.emplace_back(x0 + f * (x1 - x0), y0 + f * (y1 - y0));
    }
  }
}

void LabelPlacer::avoid(const Box& area) {
  for (double y = area.top; y <= area.bottom(); y += 5.0) {
    for (double x = area.left; x <= area.right(); x += 5.0) ink_.emplace_back(x, y);
  }
}

size_t LabelPlacer::place(const std::vector<Box>& candidates) {
  size_t best = 0;
  double best_cost = 1e300;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Box& c = candidates[i];
    const Box near{c.left - 3.0, c.top - 2.0, c.width + 6.0, c.height + 4.0};
    double cost = 0.0;
    for (const auto& [x, y] : ink_) {
      const bool inside = x > near.left && x < near.right() && y > near.top && y < near.bottom();
      cost += inside ? 1.0 : 0.0;
    }
    for (const Box& box : taken_) cost += overlap(near, box) ? 1e6 : 0.0;
    if (c.left < inside_.left || c.right() > inside_.right() || c.top < inside_.top ||
        c.bottom() > inside_.bottom()) {
      cost += 1e5;
    }
    if (cost < best_cost) {
      best_cost = cost;
      best = i;
    }
  }
  if (!candidates.empty()) taken_.push_back(candidates[best]);
  return best;
}

void draw_horizontals(SvgWriter& svg, const Box& box, const Axis& y,
                      const std::vector<Reference>& references, LabelPlacer& placer) {
  for (const Reference& reference : references) {
    const double at = y.pixel(reference.value);
    if (!drawable(reference.value, y.scale()) || at < box.top - 0.5 || at > box.bottom() + 0.5) {
      continue;
    }
    const std::string color = color_or(reference.color, 0);
    svg.line(box.left, at, box.right(), at, {.color = color, .width = 1.5, .dash = "6 4"});
    placer.avoid({{box.left, at}, {box.right(), at}});
    if (reference.label.empty()) continue;
    const std::string label = fit_text(reference.label, box.width - 12.0, kTickSize);
    const double width = text_width(label, kTickSize);
    std::vector<Box> candidates;
    for (double share : {1.0, 0.0, 0.5, 0.75, 0.25, 0.875, 0.125, 0.625, 0.375}) {
      const double left = box.left + 6.0 + share * (box.width - 12.0 - width);
      for (double top : {at - 18.0, at + 4.0}) candidates.push_back({left, top, width, 14.0});
    }
    const Box chosen = candidates[placer.place(candidates)];
    svg.text(chosen.left + width / 2.0, chosen.top + 11.0, label,
             {.size = kTickSize, .color = color, .anchor = Anchor::middle, .halo = true});
  }
}

void draw_verticals(SvgWriter& svg, const Box& box, const Axis& x,
                    const std::vector<Reference>& references, LabelPlacer& placer) {
  for (const Reference& reference : references) {
    const double at = x.pixel(reference.value);
    if (!drawable(reference.value, x.scale()) || at < box.left - 0.5 || at > box.right() + 0.5) {
      continue;
    }
    const std::string color = color_or(reference.color, 0);
    svg.line(at, box.top, at, box.bottom(), {.color = color, .width = 1.2, .dash = "3 4"});
    placer.avoid({{at, box.top}, {at, box.bottom()}});
    if (reference.label.empty()) continue;
    const std::string label = fit_text(reference.label, box.width - 12.0, kTickSize);
    const double width = text_width(label, kTickSize);
    std::vector<Box> candidates;
    for (double down : {3.0, 21.0, 39.0, 57.0, box.height - 20.0}) {
      for (double left : {at + 5.0, at - 5.0 - width}) {
        candidates.push_back({left, box.top + down, width, 14.0});
      }
    }
    const Box chosen = candidates[placer.place(candidates)];
    svg.text(chosen.left + width / 2.0, chosen.top + 11.0, label,
             {.size = kTickSize, .color = color, .anchor = Anchor::middle, .halo = true});
  }
}

}  // namespace flowgrad::plot
