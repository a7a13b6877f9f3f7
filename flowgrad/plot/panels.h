#pragma once

#include "flowgrad/plot/frame.h"

namespace flowgrad::plot {

/// Places of small multiples on a page. Internal to flowgrad/plot.
struct PanelGrid {
  int columns = 1;
  int rows = 1;
  double width = 0.0;  ///< of the whole picture
  double height = 0.0;
  double plot_width = 0.0;
  double plot_height = 0.0;
  double left = 0.0;   ///< room for the labels of the y axis
  double right = 0.0;  ///< room for a colour bar
  double header = 0.0;
  double title_room = 0.0;
  double caption_room = 0.0;
  double y_caption_room = 0.0;

  /// The plot area of panel i.
  Box box(size_t i) const;
  bool in_first_column(size_t i) const { return i % static_cast<size_t>(columns) == 0; }
  /// Whether no panel stands below panel i.
  bool at_bottom(size_t i, size_t count) const { return i + static_cast<size_t>(columns) >= count; }
};

/// What panels share.
struct PanelRequest {
  size_t count = 1;
  int columns = 0;
  double plot_width = 0.0;
  double plot_height = 0.0;
  double label_room = 0.0;
  double right = 0.0;
  bool titles = false;
  bool x_caption = false;
  bool y_caption = false;
};

/// Arranges panels; columns = 0 takes as many as fit in 980 pixels, evened out over the rows.
/// The header's height is added by the caller through `header`.
PanelGrid arrange(const PanelRequest& request);

/// Sets the header's height, and with it the height of the picture.
void set_header(PanelGrid& grid, double header);

}  // namespace flowgrad::plot
