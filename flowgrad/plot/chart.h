#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "flowgrad/plot/axis.h"
#include "flowgrad/plot/palette.h"

/// Charts as SVG text. Each struct is filled in and drawn by svg(). All of them accept any data:
/// values that are not finite, or not positive on a log axis, leave gaps. ShapeError is raised for
/// lists whose lengths differ, ValueError for impossible sizes, axis ends and colours. Colours are
/// "#rrggbb"; an empty one is taken from the colour-blind safe palette by position.
namespace flowgrad::plot {

/// One line of a LineChart.
struct Series {
  std::string name = {};
  std::vector<double> x = {};
  std::vector<double> y = {};
  std::string color = {};
  double width = 2.0;
  bool dashed = false;
  bool markers = false;
  /// Weight of the past in an exponential moving average, in [0, 1). Above 0 the average is drawn
  /// as the line and the raw values stay behind it, faint.
  double smoothing = 0.0;
  /// Ends of a shaded band around the line, such as the range over training seeds: one for each x,
  /// or none.
  std::vector<double> band_lo = {};
  std::vector<double> band_hi = {};
};

/// A labelled straight line across a chart, such as "entropy floor 2.394".
struct Reference {
  double value = 0.0;
  std::string label = {};
  std::string color = "#52525b";
};

/// Lines over a common x. Long series are thinned to the extremes of each pixel column, so that a
/// million steps stay a small picture with every spike in it.
struct LineChart {
  std::string title = {};
  std::string subtitle = {};
  double width = 720.0;
  double height = 380.0;
  AxisOptions x = {};
  AxisOptions y = {};
  std::vector<Series> series = {};
  std::vector<Reference> horizontals = {};  ///< at a y value
  std::vector<Reference> verticals = {};    ///< at an x value
  std::string svg() const;
};

/// How the points of a group are drawn.
enum class Mark {
  dots,
  path,    ///< joined in their order; a point that is not finite breaks the line
  arrows,  ///< from (x, y) by (dx, dy), in the units of the axes
};

/// Points of one colour.
struct PointGroup {
  std::string name = {};
  std::vector<double> x = {};
  std::vector<double> y = {};
  std::string color = {};
  Mark mark = Mark::dots;
  std::vector<double> dx = {};
  std::vector<double> dy = {};
};

struct ScatterPanel {
  std::string title = {};
  std::vector<PointGroup> groups = {};
};

/// Small multiples of point clouds, paths and vector fields on common axes, equally scaled in x and
/// y unless said otherwise.
struct Scatter {
  std::string title = {};
  std::string subtitle = {};
  double panel_size = 230.0;  ///< width of one panel's plot area in pixels
  int columns = 0;            ///< panels side by side; 0 chooses
  AxisOptions x = {};
  AxisOptions y = {};
  bool equal_aspect = true;
  double radius = 1.3;
  double opacity = 0.55;
  std::vector<ScatterPanel> panels = {};
  std::string svg() const;
};

struct BarSeries {
  std::string name = {};
  std::vector<double> values = {};  ///< one for each category
  std::vector<double> errors = {};  ///< half length of an error bar, one for each category, or none
  std::string color = {};
};

/// Grouped vertical bars. A log axis starts a decade boundary below the smallest value.
struct BarChart {
  std::string title = {};
  std::string subtitle = {};
  double width = 720.0;
  double height = 380.0;
  AxisOptions y = {};
  std::vector<std::string> categories = {};
  std::vector<BarSeries> series = {};
  std::vector<Reference> horizontals = {};
  bool value_labels = true;
  std::string svg() const;
};

struct HeatPanel {
  std::string title = {};
  std::vector<double> values = {};  ///< row-major (rows, columns); row 0 lies at the lower end of y
};

/// Arrays as colours, with one colour bar for all panels. x.lo, x.hi, y.lo and y.hi are the outer
/// edges of the array (default 0 to columns and 0 to rows); value.lo and value.hi the ends of the
/// colours (default: the extremes of the data, made symmetric for ColorMap::balance).
struct HeatMap {
  std::string title = {};
  std::string subtitle = {};
  double panel_size = 260.0;  ///< longer side of a panel's plot area in pixels
  int columns_of_panels = 0;  ///< panels side by side; 0 chooses
  int64_t rows = 0;
  int64_t columns = 0;
  AxisOptions x = {};
  AxisOptions y = {};
  AxisOptions value = {};
  ColorMap map = ColorMap::aurora;
  std::vector<HeatPanel> panels = {};
  std::string svg() const;
};

}  // namespace flowgrad::plot
