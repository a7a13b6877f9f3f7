#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flowgrad/plot/palette.h"

namespace flowgrad::plot {

/// An 8-bit image, row-major from the top left, with 1 (gray) or 3 (RGB) channels.
class Image {
 public:
  Image() = default;
  /// Filled with one colour (its lightness for gray). Raises ValueError for channels other than 1
  /// or 3, or sides outside [1, 32768].
  Image(int64_t width, int64_t height, int channels, Color fill = {255, 255, 255});
  /// Gray image of values in [lo, hi], clamped; row-major (height, width). Raises ShapeError where
  /// values.size() != width * height, ValueError unless lo < hi.
  static Image from_gray(std::span<const float> values, int64_t width, int64_t height,
                         float lo = 0.0f, float hi = 1.0f);
  /// RGB image of values in [0, 1], clamped; planes of red, green and blue, (3, height, width), as
  /// networks see it. Raises ShapeError where values.size() != 3 * width * height.
  static Image from_rgb(std::span<const float> values, int64_t width, int64_t height);

  int64_t width() const { return width_; }
  int64_t height() const { return height_; }
  int channels() const { return channels_; }
  bool empty() const { return pixels_.empty(); }
  std::span<const uint8_t> pixels() const { return pixels_; }
  std::span<uint8_t> pixels() { return pixels_; }

  /// Colour at column x, row y, which must lie inside.
  Color get(int64_t x, int64_t y) const;
  /// Sets a pixel; one outside the image is ignored, so that drawing may run over the edge.
  void set(int64_t x, int64_t y, Color color);
  void fill_rect(int64_t x, int64_t y, int64_t width, int64_t height, Color color);
  /// Copies `source` with its top left corner at (x, y), clipped to this image.
  void paste(const Image& source, int64_t x, int64_t y);
  /// Every pixel as a square of `factor` x `factor`.
  Image enlarged(int factor) const;
  Image to_rgb() const;

 private:
  size_t index(int64_t x, int64_t y) const {
    return static_cast<size_t>((y * width_ + x) * channels_);
  }
  int64_t width_ = 0;
  int64_t height_ = 0;
  int channels_ = 1;
  std::vector<uint8_t> pixels_;
};

/// The PNG file of an image. Raises ValueError for an empty image.
std::vector<uint8_t> encode_png(const Image& image);
/// Writes a PNG, whole or not at all (core/file.h). Raises IoError naming the
/// path.
void write_png(const std::string& path, const Image& image);

/// RFC 4648 base 64 with padding.
std::string base64(std::span<const uint8_t> bytes);
/// "data:image/png;base64,...", for src and href attributes.
std::string png_data_uri(const Image& image);

struct HeatImageOptions {
  double lo = 0.0;  ///< values at the ends of the colours; lo == hi takes the extremes of the data
  double hi = 0.0;
  ColorMap map = ColorMap::aurora;
  bool flip = true;        ///< row 0 at the bottom, as the lower end of a y axis
  int scale = 1;           ///< pixels a value takes in each direction
  bool color_bar = false;  ///< a bar at the right with its two end values
};

/// Colours of a (rows, columns) row-major array; values that are not finite are gray. Raises
/// ShapeError where values.size() != rows * columns or a size is zero.
Image heat_image(std::span<const double> values, int64_t rows, int64_t columns,
                 const HeatImageOptions& options = {});

struct ImageGridOptions {
  int columns = 0;  ///< tiles a row; 0 makes the grid about square
  int scale = 1;    ///< enlargement of every tile
  int padding = 2;  ///< pixels between tiles, after enlargement
  Color background = {255, 255, 255};
  std::vector<std::string> row_labels = {};     ///< left of the rows; one a row, or none
  std::vector<std::string> column_titles = {};  ///< above the columns; one a column, or none
  std::string title = {};
};

/// Tiles in rows, all of the size of the largest, gray or RGB. Labels are drawn into the pixels.
/// Raises ShapeError for no tiles or a wrong number of labels.
Image image_grid(std::span<const Image> tiles, const ImageGridOptions& options = {});

/// A moving picture as one SVG element that every browser plays, over and over, without scripts:
/// the frames one after the other, each for `seconds`. `hold` seconds are added to the last. Raises
/// ShapeError for no frames or frames of different sizes, ValueError unless seconds > 0 and hold >=
/// 0.
std::string animated_svg(std::span<const Image> frames, double seconds, double hold = 1.0);

/// Draws one line of text with its top left corner at (x, y); `size` is the height of a capital in
/// pixels. Characters outside ASCII appear as a box. Returns the width in pixels.
int draw_text(Image& image, int64_t x, int64_t y, std::string_view text, int size,
              Color color = {63, 63, 70}, bool bold = false);
/// The width that draw_text takes.
int drawn_width(std::string_view text, int size);

}  // namespace flowgrad::plot
