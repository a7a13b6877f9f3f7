#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flowgrad/plot/image.h"

namespace flowgrad::plot {

/// A figure measured against a figure demanded.
struct Check {
  enum class Demand { at_most, at_least, between };
  std::string name = {};
  double measured = 0.0;
  Demand demand = Demand::at_most;
  double bound = 0.0;  ///< the bound; the lower one of `between`
  double upper = 0.0;  ///< the upper bound of `between`
  std::string unit = {};
  std::string note = {};  ///< what is measured, in a line of small print
  /// Whether the demand is met; a NaN never meets one.
  bool passed() const;
  /// "≤ 1×10⁻⁵", "≥ 0.8", "2.385 to 2.444".
  std::string demanded() const;
};

struct Table {
  std::vector<std::string> columns = {};
  std::vector<std::vector<std::string>> rows = {};
  std::string caption = {};
};

/// A drawing with the text below it: SVG text of a chart, or an image.
struct Figure {
  std::string svg = {};
  Image image = {};
  std::string caption = {};
  /// Width in pixels on the page, 0 for the natural one; never wider than the page.
  int width = 0;
};

/// A page in one HTML file: style, drawings and images are inside it, nothing is loaded and nothing
/// runs. All text is escaped; in running text, `back ticks` mark code and nothing else is special.
class Report {
 public:
  explicit Report(std::string title, std::string subtitle = "");

  /// Level 2 (chapters, listed at the top of the page) or 3. Raises ValueError for others.
  Report& heading(std::string_view text, int level = 2);
  Report& paragraph(std::string_view text);
  /// A paragraph set apart.
  Report& note(std::string_view text);
  Report& list(const std::vector<std::string>& items);
  Report& code(std::string_view text, std::string_view caption = "");
  /// Names and values side by side, such as the settings of a run.
  Report& facts(const std::vector<std::pair<std::string, std::string>>& pairs);
  /// Raises ShapeError where a row has not one cell for each column.
  Report& table(const Table& table);
  /// A table of measured against demanded with marks; the page's head says how many passed.
  Report& checks(const std::vector<Check>& checks);
  /// Raises ValueError where there is neither an SVG nor an image, or both, or where the SVG is not
  /// a lone <svg> element without scripts.
  Report& figure(const Figure& figure);
  /// Figures side by side, wrapping on a narrow page.
  Report& figures(const std::vector<Figure>& figures);

  int checks_passed() const { return passed_; }
  int checks_total() const { return total_; }
  /// The whole page.
  std::string html() const;
  /// Writes the page, whole or not at all (core/file.h). Raises IoError naming the path.
  void write(const std::string& path) const;

 private:
  std::string title_;
  std::string subtitle_;
  std::string body_;
  std::vector<std::string> chapters_;
  int passed_ = 0;
  int total_ = 0;
};

}  // namespace flowgrad::plot
