#include "flowgrad/plot/panels.h"

#include <algorithm>
#include <cmath>

namespace flowgrad::plot {
namespace {

constexpr double kGap = 22.0;
constexpr double kPageWidth = 980.0;

double row_height(const PanelGrid& grid) { return grid.title_room + grid.plot_height + 30.0; }

}  // namespace

Box PanelGrid::box(size_t i) const {
  const double column = static_cast<double>(i % static_cast<size_t>(columns));
  const double row = static_cast<double>(i / static_cast<size_t>(columns));
  return {kMargin + left + column * (plot_width + kGap),
          header + y_caption_room + row * row_height(*this) + title_room, plot_width, plot_height};
}

PanelGrid arrange(const PanelRequest& request) {
  PanelGrid grid;
  grid.plot_width = request.plot_width;
  grid.plot_height = request.plot_height;
  grid.left = request.label_room;
  grid.right = request.right;
  grid.title_room = request.titles ? 22.0 : 8.0;
  grid.caption_room = request.x_caption ? 20.0 : 0.0;
  grid.y_caption_room = request.y_caption ? 20.0 : 0.0;
  const int count = static_cast<int>(std::max<size_t>(request.count, 1));
  if (request.columns > 0) {
    grid.columns = std::min(request.columns, count);
  } else {
    const double room = kPageWidth - 2.0 * kMargin - grid.left - grid.right + kGap;
    const int most = std::max(1, static_cast<int>(room / (grid.plot_width + kGap)));
    const int rows = (count + most - 1) / most;
    grid.columns = (count + rows - 1) / rows;
  }
  grid.rows = (count + grid.columns - 1) / grid.columns;
  grid.width =
      2.0 * kMargin + grid.left + grid.columns * (grid.plot_width + kGap) - kGap + grid.right + 8.0;
  return grid;
}

void set_header(PanelGrid& grid, double header) {
  grid.header = header;
  grid.height =
      header + grid.y_caption_room + grid.rows * row_height(grid) + grid.caption_room + 8.0;
}

}  // namespace flowgrad::plot
