#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numbers>

#include "flowgrad/plot/image.h"

/// A single-stroke face for labels inside images, where no system font can be asked for. Glyphs are
/// strokes on a grid with capitals 14 high, small letters 10, descenders to -4, y upwards; they are
/// drawn as the distance to the nearest stroke, which anti-aliases at every size.
namespace flowgrad::plot {
namespace {

constexpr double kCapHeight = 14.0;
constexpr double kSpacing = 3.8;

struct Glyph {
  double width;
  /// "M x y L x y ..." for lines; "O cx cy rx ry a b" for an arc of an ellipse from a to b degrees.
  const char* strokes;
};

constexpr std::array<Glyph, 95> kGlyphs{{
    {4.5, ""},                                                            // space
    {1, "M.5 14L.5 4.5M.5 .2L.5 .4"},                                     // !
    {4, "M.5 14L.5 10.5M3.5 14L3.5 10.5"},                                // "
    {10, "M2.5 0L4.5 14M6.5 0L8.5 14M.5 9.5L10 9.5M0 4.5L9.5 4.5"},       // #
    {9, "O4.5 10.5 4 3.5 35 270O4.5 3.5 4.5 3.5 90 -145M4.5 16L4.5 -2"},  // $
    {12, "O2.5 11 2.5 3 0 360O9.5 3 2.5 3 0 360M10.5 14L1.5 0"},          // %
    {10.5,
     "M10.5 0L2.6 9.2O4.6 11.2 2.7 2.8 222 -45M6.5 9.2L1.9 6.6O3.9 3.5 3.9 3.5 122 285"
     "O4.2 6.5 6 6.5 270 348"},                                                                 // &
    {1, "M.5 14L.5 10.5"},                                                                      // '
    {3, "O6 5.5 6 10 120 240"},                                                                 // (
    {3, "O-3 5.5 6 10 60 -60"},                                                                 // )
    {7, "M3.5 13.5L3.5 7.5M1 12L6 9M6 12L1 9"},                                                 // *
    {9, "M4.5 2L4.5 11M0 6.5L9 6.5"},                                                           // +
    {1.5, "M1.2 .6L.2 -2.6"},                                                                   // ,
    {5.5, "M0 6L5.5 6"},                                                                        // -
    {1, "M.5 .2L.5 .4"},                                                                        // .
    {7, "M0 -1L7 15"},                                                                          // /
    {8, "O4 7 4 7 0 360"},                                                                      // 0
    {6, "M.5 11L4 14L4 0"},                                                                     // 1
    {8, "O4 10.1 3.9 3.9 165 -38M7.1 7.7L0 0L8 0"},                                             // 2
    {8, "O4 10.6 3.4 3.4 155 -90O4 3.6 4 3.6 90 -155"},                                         // 3
    {8.5, "M6.3 0L6.3 14L0 4L8.5 4"},                                                           // 4
    {8, "M7.3 14L1.2 14L.6 7.2O4 4.5 4 4.5 143 -150"},                                          // 5
    {8, "O4 4.5 4 4.5 0 360O8 4.5 8 9.5 180 98"},                                               // 6
    {8, "M0 14L8 14L2.8 0"},                                                                    // 7
    {8, "O4 10.6 3.4 3.4 0 360O4 3.6 4 3.6 0 360"},                                             // 8
    {8, "O4 9.5 4 4.5 0 360O0 9.5 8 9.5 0 -82"},                                                // 9
    {1, "M.5 .2L.5 .4M.5 8.6L.5 8.8"},                                                          // :
    {1.5, "M1.2 .6L.2 -2.6M1 8.6L1 8.8"},                                                       // ;
    {8, "M8 11.5L0 6.5L8 1.5"},                                                                 // <
    {9, "M0 8.7L9 8.7M0 4.3L9 4.3"},                                                            // =
    {8, "M0 11.5L8 6.5L0 1.5"},                                                                 // >
    {7.5, "O3.8 10.3 3.7 3.7 165 -50M6.2 7.5L4 5.6L4 4.4M4 .2L4 .4"},                           // ?
    {13, "O6.5 5.5 6.5 7.5 -60 295O6.2 5.5 2.8 3.2 0 360M9 8.7L9 4.4O10.6 4.4 1.6 2 180 330"},  // @
    {10, "M0 0L5 14L10 0M1.9 5L8.1 5"},                                                         // A
    {9, "M4.5 14L0 14L0 0L5 0M0 7.4L5 7.4O4.7 10.7 3.6 3.3 90 -90O5 3.7 4 3.7 90 -90"},         // B
    {10, "O6 7 6 7 48 312"},                                                                    // C
    {10, "M4 14L0 14L0 0L4 0O4 7 6 7 90 -90"},                                                  // D
    {8, "M8 0L0 0L0 14L8 14M0 7.4L7 7.4"},                                                      // E
    {8, "M0 0L0 14L8 14M0 7.4L7 7.4"},                                                          // F
    {11, "O6 7 6 7 48 330M11.2 3.5L11.2 6.6L6.8 6.6"},                                          // G
    {10, "M0 0L0 14M10 0L10 14M0 7.4L10 7.4"},                                                  // H
    {1, "M.5 0L.5 14"},                                                                         // I
    {7, "M7 14L7 3.6O3.5 3.6 3.5 3.6 0 -165"},                                                  // J
    {9.5, "M0 0L0 14M9 14L0 5.2M3.4 8.5L9.5 0"},                                                // K
    {7.5, "M0 14L0 0L7.5 0"},                                                                   // L
    {12, "M0 0L0 14L6 3L12 14L12 0"},                                                           // M
    {10, "M0 0L0 14L10 0L10 14"},                                                               // N
    {12, "O6 7 6 7 0 360"},                                                                     // O
    {9, "M0 0L0 14L5 14M5 6.5L0 6.5O5 10.25 4 3.75 90 -90"},                                    // P
    {12, "O6 7 6 7 0 360M7.3 3.6L12 -1.2"},                                                     // Q
    {9.3, "M0 0L0 14L5 14M5 6.8L0 6.8O5 10.4 3.9 3.6 90 -90M4.6 6.8L9.3 0"},                    // R
    {9, "O4.5 10.5 4 3.5 35 270O4.5 3.5 4.5 3.5 90 -145"},                                      // S
    {10, "M0 14L10 14M5 14L5 0"},                                                               // T
    {10, "M0 14L0 5M10 14L10 5O5 5 5 5 180 360"},                                               // U
    {10, "M0 14L5 0L10 14"},                                                                    // V
    {15, "M0 14L3.75 0L7.5 14L11.25 0L15 14"},                                                  // W
    {9.5, "M0 0L9.5 14M0 14L9.5 0"},                                                            // X
    {10, "M0 14L5 7L10 14M5 7L5 0"},                                                            // Y
    {9, "M0 14L9 14L0 0L9 0"},                                                                  // Z
    {3.5, "M3.5 16L0 16L0 -3L3.5 -3"},                                                          // [
    {7, "M0 15L7 -1"},                                                            // backslash
    {3.5, "M0 16L3.5 16L3.5 -3L0 -3"},                                            // ]
    {8, "M0 8L4 14L8 8"},                                                         // ^
    {9, "M0 -3L9 -3"},                                                            // _
    {3, "M0 14L2.5 11"},                                                          // `
    {7.6, "O3.8 5 3.8 5 0 360M7.6 10L7.6 0"},                                     // a
    {7.6, "M0 14L0 0O3.8 5 3.8 5 0 360"},                                         // b
    {7, "O3.9 5 3.9 5 48 312"},                                                   // c
    {7.6, "O3.8 5 3.8 5 0 360M7.6 14L7.6 0"},                                     // d
    {7.8, "M0 5L7.8 5O3.9 5 3.9 5 0 310"},                                        // e
    {4.5, "M1.8 0L1.8 11O4.6 11 2.8 3 180 90M0 9.6L4.4 9.6"},                     // f
    {7.6, "O3.8 5 3.8 5 0 360M7.6 10L7.6 -.6O3.8 -.6 3.8 3.6 0 -150"},            // g
    {7.2, "M0 0L0 14O3.6 6.2 3.6 3.8 180 0M7.2 6.2L7.2 0"},                       // h
    {1, "M.5 0L.5 10M.5 13.6L.5 13.8"},                                           // i
    {2.5, "M2 10L2 -1.8O-.4 -1.8 2.4 2.4 0 -80M2 13.6L2 13.8"},                   // j
    {7, "M0 0L0 14M6.4 10L0 3.8M2.7 6.4L7 0"},                                    // k
    {2.8, "M.5 14L.5 2.4O2.9 2.4 2.4 2.4 180 268"},                               // l
    {12, "M0 0L0 10O3 6.8 3 3.2 180 0M6 6.8L6 0O9 6.8 3 3.2 180 0M12 6.8L12 0"},  // m
    {7.2, "M0 0L0 10O3.6 6.2 3.6 3.8 180 0M7.2 6.2L7.2 0"},                       // n
    {8, "O4 5 4 5 0 360"},                                                        // o
    {7.6, "M0 10L0 -4O3.8 5 3.8 5 0 360"},                                        // p
    {7.6, "M7.6 10L7.6 -4O3.8 5 3.8 5 0 360"},                                    // q
    {4.4, "M0 0L0 10O3.8 6 3.8 4 180 78"},                                        // r
    {6.6, "O3.3 7.55 2.9 2.45 32 270O3.3 2.55 3.3 2.55 90 -148"},                 // s
    {4.8, "M1.8 13L1.8 3O4.6 3 2.8 3 180 275M0 9.6L4.6 9.6"},                     // t
    {7.2, "M0 10L0 3.8M7.2 10L7.2 0O3.6 3.8 3.6 3.8 180 360"},                    // u
    {7.6, "M0 10L3.8 0L7.6 10"},                                                  // v
    {12, "M0 10L3 0L6 10L9 0L12 10"},                                             // w
    {7.2, "M0 0L7.2 10M0 10L7.2 0"},                                              // x
    {7.6, "M0 10L3.8 .2M7.6 10L3.4 -1.6O1 -1.4 2.5 2.6 -5 -90"},                  // y
    {7, "M0 10L7 10L0 0L7 0"},                                                    // z
    {5, "M5 16L3.4 15.6L2.6 14.4L2.6 8.4L0 6.5L2.6 4.6L2.6 -1.4L3.4 -2.6L5 -3"},  // {
    {1, "M.5 16L.5 -3"},                                                          // |
    {5, "M0 16L1.6 15.6L2.4 14.4L2.4 8.4L5 6.5L2.4 4.6L2.4 -1.4L1.6 -2.6L0 -3"},  // }
    {9, "M0 5.6L1.4 7L3 7.2L6 5.6L7.6 5.8L9 7.2"},                                // ~
}};
constexpr Glyph kUnknown{8, "M0 0L0 14L8 14L8 0L0 0"};

struct Segment {
  double x0, y0, x1, y1;
};

std::vector<Segment> segments_of(const Glyph& glyph) {
  std::vector<Segment> out;
  double x = 0.0;
  double y = 0.0;
  const char* at = glyph.strokes;
  const auto read = [&] {
    char* end = nullptr;
    const double v = std::strtod(at, &end);
    at = end;
    return v;
  };
  while (*at != '\0') {
    const char command = *at++;
    if (command == 'O') {
      const double cx = read(), cy = read(), rx = read(), ry = read();
      const double a = read() * std::numbers::pi / 180.0;
      const double b = read() * std::numbers::pi / 180.0;
      const int steps = std::max(2, static_cast<int>(std::abs(b - a) / 0.2));
      x = cx + rx * std::cos(a);
      y = cy + ry * std::sin(a);
      for (int i = 1; i <= steps; ++i) {
        const double angle = a + (b - a) * i / steps;
        const double nx = cx + rx * std::cos(angle);
        const double ny = cy + ry * std::sin(angle);
        out.push_back({x, y, nx, ny});
        x = nx;
        y = ny;
      }
      continue;
    }
    const double nx = read();
    const double ny = read();
    if (command == 'L') out.push_back({x, y, nx, ny});
    x = nx;
    y = ny;
  }
  return out;
}

double distance(const Segment& s, double x, double y) {
  const double dx = s.x1 - s.x0;
  const double dy = s.y1 - s.y0;
  const double length2 = dx * dx + dy * dy;
  const double along = length2 > 0.0 ? ((x - s.x0) * dx + (y - s.y0) * dy) / length2 : 0.0;
  const double t = std::clamp(along, 0.0, 1.0);
  return std::hypot(x - s.x0 - t * dx, y - s.y0 - t * dy);
}

/// The characters of a UTF-8 text, with the typographic minus read as "-" and the rest unknown.
std::vector<const Glyph*> glyphs_of(std::string_view text) {
  std::vector<const Glyph*> out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c < 0x7F) {
      out.push_back(&kGlyphs[c - 0x20u]);
    } else if (text.substr(i).starts_with("−")) {
      out.push_back(&kGlyphs['-' - 0x20]);
    } else if ((c & 0xC0u) != 0x80u) {  // the rest of a sequence adds nothing
      out.push_back(&kUnknown);
    }
  }
  return out;
}

void blend(Image& image, int64_t x, int64_t y, Color ink, double cover) {
  if (x < 0 || y < 0 || x >= image.width() || y >= image.height()) return;
  const Color under = image.get(x, y);
  const auto mix = [&](uint8_t below, uint8_t above) {
    return static_cast<uint8_t>(std::lround(below + cover * (above - below)));
  };
  image.set(x, y, {mix(under.r, ink.r), mix(under.g, ink.g), mix(under.b, ink.b)});
}

}  // namespace

int draw_text(Image& image, int64_t x, int64_t y, std::string_view text, int size, Color color,
              bool bold) {
  const double unit = size / kCapHeight;
  const double half = std::max(0.55, (bold ? 0.95 : 0.68) * unit);
  double pen = static_cast<double>(x) + 0.5;
  const double baseline = static_cast<double>(y) + size - 0.5;
  for (const Glyph* glyph : glyphs_of(text)) {
    const std::vector<Segment> strokes = segments_of(*glyph);
    const auto left = static_cast<int64_t>(std::floor(pen - half - 1.0));
    const auto right = static_cast<int64_t>(std::ceil(pen + (glyph->width + 1.0) * unit + half));
    const auto top = static_cast<int64_t>(std::floor(baseline - 16.0 * unit - half - 1.0));
    const auto bottom = static_cast<int64_t>(std::ceil(baseline + 4.5 * unit + half + 1.0));
    for (int64_t py = top; py <= bottom && !strokes.empty(); ++py) {
      for (int64_t px = left; px <= right; ++px) {
        const double gx = (static_cast<double>(px) + 0.5 - pen) / unit;
        const double gy = (baseline - static_cast<double>(py) - 0.5) / unit;
        double nearest = 1e9;
        for (const Segment& s : strokes) nearest = std::min(nearest, distance(s, gx, gy));
        const double cover = std::clamp(half + 0.5 - nearest * unit, 0.0, 1.0);
        if (cover > 0.0) blend(image, px, py, color, cover);
      }
    }
    pen += (glyph->width + kSpacing) * unit;
  }
  return drawn_width(text, size);
}

int drawn_width(std::string_view text, int size) {
  double width = 0.0;
  for (const Glyph* glyph : glyphs_of(text)) width += glyph->width + kSpacing;
  return static_cast<int>(std::ceil(width * size / kCapHeight)) + 1;
}

}  // namespace flowgrad::plot
