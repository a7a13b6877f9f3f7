#include "flowgrad/plot/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "flowgrad/core/text.h"

namespace flowgrad::plot {
namespace {

constexpr std::string_view kSans =
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
constexpr std::string_view kMono = "ui-monospace, 'SF Mono', Menlo, Consolas, monospace";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Advance widths of Helvetica in thousandths of an em, from U+0020 to U+007E.
constexpr std::array<int, 95> kAdvance{
    278, 278, 355, 556, 556, 889, 667, 222, 333, 333, 389, 584, 278, 333,  278, 278, 556, 556, 556,
    556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667,
    611, 778, 722, 278, 500, 667, 556, 833, 722, 778, 667, 778, 722, 667,  611, 722, 667, 944, 667,
    667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278,  556, 556, 222, 222, 500,
    222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500,  500, 334, 260, 334, 584};

/// Bytes of the character at text[i] that XML admits, or 0.
size_t sequence_length(std::string_view text, size_t i) {
  const std::string_view rest = text.substr(i);
  // U+FFFE and U+FFFF are UTF-8 but not XML.
  if (rest.starts_with("\xEF\xBF\xBE") || rest.starts_with("\xEF\xBF\xBF")) return 0;
  return utf8_sequence(rest);
}

double advance(std::string_view sequence) {
  const auto lead = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) {
    return lead >= 0x20 && lead < 0x7F ? kAdvance[lead - 0x20u] / 1000.0 : 0.6;
  }
  return sequence.size() == 2 || lead < 0xE3 ? 0.6 : 1.0;  // wide from U+3000 on: CJK, emoji
}

std::string_view anchor_name(Anchor anchor) {
  return anchor == Anchor::start ? "start" : anchor == Anchor::middle ? "middle" : "end";
}

std::string stroke_attributes(const LineStyle& style) {
  std::string s =
      fmt::format(" stroke=\"{}\" stroke-width=\"{}\"", style.color, number(style.width));
  if (style.opacity < 1.0) s += fmt::format(" stroke-opacity=\"{}\"", number(style.opacity));
  if (!style.dash.empty()) s += fmt::format(" stroke-dasharray=\"{}\"", style.dash);
  if (style.round) s += " stroke-linecap=\"round\" stroke-linejoin=\"round\"";
  return s;
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = sequence_length(text, i);
    const auto c = static_cast<unsigned char>(text[i]);
    if (length == 0 || (c < 0x20 && c != '\t' && c != '\n' && c != '\r')) {
      out += kReplacement;
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else {
      out += text.substr(i, length);
    }
    i += std::max<size_t>(length, 1);
  }
  return out;
}

std::string number(double value, int digits) {
  if (std::isnan(value)) return "0";
  value = std::clamp(value, -1e7, 1e7);
  std::string s = fmt::format("{:.{}f}", value, digits);
  if (s.find('.') != std::string::npos) {
    s.erase(s.find_last_not_of('0') + 1);
    if (s.back() == '.') s.pop_back();
  }
  return s == "-0" ? "0" : s;
}

double text_width(std::string_view text, double size, bool bold) {
  double width = 0.0;
  for (size_t i = 0; i < text.size();) {
    const size_t length = std::max<size_t>(sequence_length(text, i), 1);
    width += advance(text.substr(i, length));
    i += length;
  }
  return width * size * (bold ? 1.24 : 1.15);
}

std::string fit_text(std::string_view text, double width, double size, bool bold) {
  if (text_width(text, size, bold) <= width) return std::string(text);
  const double room = width - text_width("…", size, bold);
  double used = 0.0;
  size_t end = 0;
  while (end < text.size()) {
    const size_t length = std::max<size_t>(sequence_length(text, end), 1);
    used += text_width(text.substr(end, length), size, bold);
    if (used > room) break;
    end += length;
  }
  while (end > 0 && text[end - 1] == ' ') --end;
  return std::string(text.substr(0, end)) + "…";
}

SvgWriter::SvgWriter(double width, double height, std::string_view title) {
  const std::string name = escape_xml(title);
  out_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2}\" font-family=\"{3}\">\n",
      number(width), number(height), name, kSans);
  if (!name.empty()) out_ += fmt::format("<title>{}</title>\n", name);
  rect(0, 0, width, height, "#ffffff");
}

void SvgWriter::rect(double x, double y, double width, double height, std::string_view fill,
                     double radius, std::string_view stroke, double stroke_width) {
  out_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"", number(x),
                      number(y), number(std::max(width, 0.0)), number(std::max(height, 0.0)), fill);
  if (radius > 0.0) out_ += fmt::format(" rx=\"{}\"", number(radius));
  if (!stroke.empty()) {
    out_ += fmt::format(" stroke=\"{}\" stroke-width=\"{}\"", stroke, number(stroke_width));
  }
  out_ += "/>\n";
}

void SvgWriter::line(double x1, double y1, double x2, double y2, const LineStyle& style) {
  out_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"{}/>\n", number(x1), number(y1),
                      number(x2), number(y2), stroke_attributes(style));
}

void SvgWriter::polyline(std::span<const std::pair<double, double>> points,
                         const LineStyle& style) {
  if (points.empty()) return;
  out_ += "<polyline points=\"";
  for (size_t i = 0; i < points.size(); ++i) {
    if (i > 0) out_ += ' ';
    out_ += number(points[i].first);
    out_ += ',';
    out_ += number(points[i].second);
  }
  out_ += fmt::format("\" fill=\"none\"{}/>\n", stroke_attributes(style));
}

void SvgWriter::path(std::string_view data, const LineStyle& style, std::string_view fill,
                     double fill_opacity) {
  out_ += fmt::format("<path d=\"{}\" fill=\"{}\"", data, fill);
  if (fill_opacity < 1.0) out_ += fmt::format(" fill-opacity=\"{}\"", number(fill_opacity));
  if (style.width > 0.0) out_ += stroke_attributes(style);
  out_ += "/>\n";
}

void SvgWriter::circle(double x, double y, double radius, std::string_view fill, double opacity) {
  out_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\"", number(x), number(y),
                      number(radius), fill);
  if (opacity < 1.0) out_ += fmt::format(" fill-opacity=\"{}\"", number(opacity));
  out_ += "/>\n";
}

void SvgWriter::text(double x, double y, std::string_view text, const TextStyle& style) {
  if (text.empty()) return;
  out_ += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\"", number(x), number(y),
                      number(style.size), style.color);
  if (style.anchor != Anchor::start) {
    out_ += fmt::format(" text-anchor=\"{}\"", anchor_name(style.anchor));
  }
  if (style.bold) out_ += " font-weight=\"600\"";
  if (style.mono) out_ += fmt::format(" font-family=\"{}\"", kMono);
  if (style.halo) {
    out_ +=
        " paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"4\" stroke-linejoin=\"round\"";
  }
  if (style.rotate != 0.0) {
    out_ +=
        fmt::format(" transform=\"rotate({} {} {})\"", number(style.rotate), number(x), number(y));
  }
  out_ += fmt::format(">{}</text>\n", escape_xml(text));
}

void SvgWriter::image(double x, double y, double width, double height, std::string_view uri) {
  out_ += fmt::format(
      "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" "
      "image-rendering=\"optimizeSpeed\" href=\"{}\"/>\n",
      number(x), number(y), number(width), number(height), uri);
}

void SvgWriter::open_clip(double x, double y, double width, double height) {
  // A nested viewport clips without needing a clipPath with an id.
  out_ += fmt::format(
      "<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"{0} {1} {2} {3}\" "
      "overflow=\"hidden\">\n",
      number(x), number(y), number(width), number(height));
}

void SvgWriter::close_clip() { out_ += "</svg>\n"; }

std::string SvgWriter::finish() {
  out_ += "</svg>\n";
  return std::move(out_);
}

}  // namespace flowgrad::plot
