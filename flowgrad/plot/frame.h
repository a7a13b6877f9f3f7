#pragma once

#include <string>
#include <utility>
#include <vector>

#include "flowgrad/plot/axis.h"
#include "flowgrad/plot/chart.h"
#include "flowgrad/plot/svg.h"

/// What the charts share: sizes, headers with legends, axes. Internal to flowgrad/plot.
namespace flowgrad::plot {

constexpr double kTickSize = 11.5;
constexpr double kCaptionSize = 12.5;
constexpr double kTitleSize = 16.0;
constexpr double kMargin = 18.0;
constexpr const char* kInk = "#18181b";
constexpr const char* kText = "#52525b";
constexpr const char* kGrid = "#e4e4e7";
constexpr const char* kFaintGrid = "#f1f1f4";
constexpr const char* kAxisLine = "#a1a1aa";

enum class Swatch { line, dash, dot, box };

struct LegendEntry {
  std::string name;
  std::string color;
  Swatch swatch = Swatch::line;
};

struct Box {
  double left = 0.0;
  double top = 0.0;
  double width = 0.0;
  double height = 0.0;
  double right() const { return left + width; }
  double bottom() const { return top + height; }
};

/// Whether a value can be drawn: finite and small enough for differences not to overflow.
bool drawable(double value, Scale scale);

/// Smallest and largest drawable value; lo > hi where there is none.
struct Range {
  double lo = 1.0;
  double hi = 0.0;
  void include(double value, Scale scale);
  bool empty() const { return lo > hi; }
};

/// The given colour, checked, or the palette's colour i.
std::string color_or(const std::string& color, size_t i);

/// Raises ValueError naming the chart unless both sizes lie in [120, 10000] pixels.
void check_size(const char* chart, double width, double height);

/// Title, subtitle and legend above a plot, wrapped to `width`.
class Header {
 public:
  Header(std::string title, std::string subtitle, std::vector<LegendEntry> legend, double width);
  double height() const { return height_; }
  void draw(SvgWriter& svg, double left, double top) const;

 private:
  struct Item {
    size_t entry;
    double x;
    double y;
  };
  std::string title_;
  std::string subtitle_;
  std::vector<LegendEntry> legend_;
  std::vector<Item> items_;
  double width_ = 0.0;
  double height_ = 0.0;
};

/// Room needed left of a plot area for the labels of these ticks.
double tick_room(const std::vector<Tick>& ticks);

/// Grid lines, tick labels and base line of a vertical axis on `box`.
void draw_y_axis(SvgWriter& svg, const Box& box, const Axis& axis, const std::vector<Tick>& ticks,
                 bool labels = true);
/// Ticks, labels and base line of a horizontal axis on `box`.
void draw_x_axis(SvgWriter& svg, const Box& box, const Axis& axis, const std::vector<Tick>& ticks,
                 bool labels = true);

/// "no data" in the middle of a plot area.
void draw_empty(SvgWriter& svg, const Box& box);

/// Keeps labels apart: remembers what is occupied and finds the freest of some places.
class LabelPlacer {
 public:
  explicit LabelPlacer(Box inside) : inside_(inside) {}
  /// Marks a polyline as ink to stay away from.
  void avoid(const std::vector<std::pair<double, double>>& points);
  /// Marks a filled area as ink.
  void avoid(const Box& area);
  /// Index of the candidate with the least ink and no overlap with labels placed before; that place
  /// is then taken. Earlier candidates win ties.
  size_t place(const std::vector<Box>& candidates);

 private:
  Box inside_;
  std::vector<std::pair<double, double>> ink_;
  std::vector<Box> taken_;
};

/// Horizontal reference lines with labels where there is room.
void draw_horizontals(SvgWriter& svg, const Box& box, const Axis& y,
                      const std::vector<Reference>& references, LabelPlacer& placer);
/// Vertical reference lines with labels near the top.
void draw_verticals(SvgWriter& svg, const Box& box, const Axis& x,
                    const std::vector<Reference>& references, LabelPlacer& placer);

}  // namespace flowgrad::plot
