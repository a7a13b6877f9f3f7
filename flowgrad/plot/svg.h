#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace flowgrad::plot {

/// Text with & < > " ' replaced by entities; control characters that XML forbids and bytes that are
/// not UTF-8 become U+FFFD, so that the result can stand in any element or quoted attribute.
std::string escape_xml(std::string_view text);

/// Shortest decimal with at most `digits` digits after the point ("12.5", "-3", "0"). Values beyond
/// 1e7 in magnitude are clamped there and NaN becomes 0: coordinates must never break a document.
std::string number(double value, int digits = 2);

/// Width of text in a sans-serif face at the given size. An estimate on the wide side (Helvetica's
/// widths times 1.15), since the reader's font is unknown: layouts made with it do not overlap.
double text_width(std::string_view text, double size, bool bold = false);

/// Text cut to fit `width`, with an ellipsis where something was cut.
std::string fit_text(std::string_view text, double width, double size, bool bold = false);

enum class Anchor { start, middle, end };

struct TextStyle {
  double size = 12.0;
  std::string_view color = "#52525b";
  Anchor anchor = Anchor::start;
  bool bold = false;
  bool halo = false;    ///< a white outline, for text that lies on data
  double rotate = 0.0;  ///< degrees clockwise around (x, y)
  bool mono = false;
};

struct LineStyle {
  std::string_view color = "#000000";
  double width = 1.0;
  double opacity = 1.0;
  std::string_view dash = "";  ///< as stroke-dasharray
  bool round = true;
};

/// Writes one SVG document. It uses neither ids nor style sheets, so any number of its documents
/// can stand inline in one page.
class SvgWriter {
 public:
  /// A document of width x height pixels on a white ground; the title is read by screen readers.
  SvgWriter(double width, double height, std::string_view title);

  void rect(double x, double y, double width, double height, std::string_view fill,
            double radius = 0.0, std::string_view stroke = "", double stroke_width = 1.0);
  void line(double x1, double y1, double x2, double y2, const LineStyle& style);
  void polyline(std::span<const std::pair<double, double>> points, const LineStyle& style);
  /// A path with the given data ("M0 0L1 1").
  void path(std::string_view data, const LineStyle& style, std::string_view fill = "none",
            double fill_opacity = 1.0);
  void circle(double x, double y, double radius, std::string_view fill, double opacity = 1.0);
  void text(double x, double y, std::string_view text, const TextStyle& style);
  /// A raster image given as data URI, stretched over the box without smoothing.
  void image(double x, double y, double width, double height, std::string_view uri);
  /// Opens a box that clips what is drawn in it; coordinates stay those of the document.
  void open_clip(double x, double y, double width, double height);
  void close_clip();
  /// The finished document, without an XML declaration so that it can be put inline in HTML.
  std::string finish();

 private:
  std::string out_;
};

}  // namespace flowgrad::plot
