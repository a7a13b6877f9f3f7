#include "flowgrad/plot/palette.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>

#include "flowgrad/core/error.h"

namespace flowgrad::plot {
namespace {

constexpr Color kMissing{190, 190, 190};

double to_linear(uint8_t v) {
  const double c = v / 255.0;
  return c <= 0.04045 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4);
}

double from_linear(double c) {
  return c <= 0.0031308 ? 12.92 * c : 1.055 * std::pow(c, 1.0 / 2.4) - 0.055;
}

std::array<double, 3> linear_rgb(const OkLab& lab) {
  const double l = std::pow(lab.l + 0.3963377774 * lab.a + 0.2158037573 * lab.b, 3.0);
  const double m = std::pow(lab.l - 0.1055613458 * lab.a - 0.0638541728 * lab.b, 3.0);
  const double s = std::pow(lab.l - 0.0894841775 * lab.a - 1.2914855480 * lab.b, 3.0);
  return {4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
          -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
          -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
}

bool in_gamut(const std::array<double, 3>& rgb) {
  return std::all_of(rgb.begin(), rgb.end(), [](double c) { return c >= -1e-4 && c <= 1.0001; });
}

/// A control point of a map: lightness, chroma, hue in degrees.
struct Stop {
  double l, c, h;
};

// Lightness is linear along aurora and ice, and along either half of balance, so that equal steps
// of the value are equal steps of brightness, also in gray print.
constexpr std::array<Stop, 6> kAurora{{{0.22, 0.085, 312},
                                       {0.364, 0.115, 284},
                                       {0.508, 0.094, 241},
                                       {0.652, 0.096, 188},
                                       {0.796, 0.150, 145},
                                       {0.94, 0.185, 107}}};
constexpr std::array<Stop, 5> kIce{{{0.985, 0.006, 215},
                                    {0.81, 0.070, 225},
                                    {0.635, 0.115, 240},
                                    {0.46, 0.125, 256},
                                    {0.285, 0.095, 268}}};
constexpr std::array<Stop, 4> kCold{
    {{0.97, 0.006, 245}, {0.79, 0.080, 245}, {0.61, 0.125, 251}, {0.43, 0.125, 258}}};
constexpr std::array<Stop, 4> kWarm{
    {{0.97, 0.006, 45}, {0.79, 0.095, 42}, {0.61, 0.150, 34}, {0.43, 0.140, 27}}};

OkLab lab_of(const Stop& s) {
  return {s.l, s.c * std::cos(s.h * std::numbers::pi / 180.0),
          s.c * std::sin(s.h * std::numbers::pi / 180.0)};
}

/// Monotone cubic (Fritsch and Carlson 1980) through (0, y[0]), (1, y[1]), ...: straight pieces
/// would show as creases at the control points.
double cubic(std::span<const double> y, double at) {
  const size_t last = y.size() - 1;
  const size_t i = std::min(static_cast<size_t>(at), last - 1);
  const auto slope = [&](size_t k) {
    if (k == 0) return y[1] - y[0];
    if (k == last) return y[last] - y[last - 1];
    const double before = y[k] - y[k - 1];
    const double after = y[k + 1] - y[k];
    return before * after <= 0.0 ? 0.0 : 2.0 * before * after / (before + after);
  };
  const double f = at - static_cast<double>(i);
  const double f2 = f * f;
  const double f3 = f2 * f;
  return y[i] * (2.0 * f3 - 3.0 * f2 + 1.0) + slope(i) * (f3 - 2.0 * f2 + f) +
         y[i + 1] * (3.0 * f2 - 2.0 * f3) + slope(i + 1) * (f3 - f2);
}

OkLab interpolate(std::span<const Stop> stops, double t) {
  const double at = t * static_cast<double>(stops.size() - 1);
  std::array<double, 8> l{};
  std::array<double, 8> c{};
  std::array<double, 8> h{};
  for (size_t i = 0; i < stops.size(); ++i) {
    l[i] = stops[i].l;
    c[i] = stops[i].c;
    h[i] = stops[i].h;
  }
  const auto value = [&](const std::array<double, 8>& y) {
    return cubic(std::span(y.data(), stops.size()), at);
  };
  return lab_of({value(l), value(c), value(h)});
}

/// Either arm of balance on its own: a hue between blue and red would tint the neutral middle.
OkLab balanced(double t) {
  return t < 0.5 ? interpolate(kCold, 1.0 - 2.0 * t) : interpolate(kWarm, 2.0 * t - 1.0);
}

}  // namespace

std::string to_hex(Color color) {
  return fmt::format("#{:02x}{:02x}{:02x}", color.r, color.g, color.b);
}

Color parse_hex(const std::string& text) {
  const bool shaped =
      text.size() == 7 && text[0] == '#' &&
      std::all_of(text.begin() + 1, text.end(), [](unsigned char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      });
  if (!shaped) {
    throw ValueError(fmt::format("parse_hex: text is '{}'; accepted is #rrggbb", text));
  }
  const auto channel = [&](size_t at) {
    return static_cast<uint8_t>(std::stoi(text.substr(at, 2), nullptr, 16));
  };
  return {channel(1), channel(3), channel(5)};
}

Color category_color(size_t i) {
  // Wong 2011 ("Points of view: Color blindness", Nature Methods 8) with the yellow darkened, since
  // lines of pure yellow vanish on white.
  constexpr std::array<Color, 8> palette{{{0, 114, 178},
                                          {213, 94, 0},
                                          {0, 158, 115},
                                          {204, 121, 167},
                                          {86, 180, 233},
                                          {230, 159, 0},
                                          {90, 90, 100},
                                          {163, 148, 10}}};
  return palette[i % palette.size()];
}

OkLab to_oklab(Color color) {
  const double r = to_linear(color.r);
  const double g = to_linear(color.g);
  const double b = to_linear(color.b);
  const double l = std::cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const double m = std::cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const double s = std::cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return {0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
          1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
          0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s};
}

Color from_oklab(const OkLab& lab) {
  std::array<double, 3> rgb = linear_rgb(lab);
  if (!in_gamut(rgb)) {
    double lo = 0.0;
    double hi = 1.0;
    for (int i = 0; i < 24; ++i) {
      const double mid = 0.5 * (lo + hi);
      (in_gamut(linear_rgb({lab.l, mid * lab.a, mid * lab.b})) ? lo : hi) = mid;
    }
    rgb = linear_rgb({lab.l, lo * lab.a, lo * lab.b});
  }
  const auto byte = [](double c) {
    return static_cast<uint8_t>(std::lround(255.0 * from_linear(std::clamp(c, 0.0, 1.0))));
  };
  return {byte(rgb[0]), byte(rgb[1]), byte(rgb[2])};
}

Color map_color(ColorMap map, double t) {
  if (std::isnan(t)) return kMissing;
  t = std::clamp(t, 0.0, 1.0);
  switch (map) {
    case ColorMap::aurora: return from_oklab(interpolate(kAurora, t));
    case ColorMap::ice: return from_oklab(interpolate(kIce, t));
    case ColorMap::balance: return from_oklab(balanced(t));
    default: {
      const auto v = static_cast<uint8_t>(std::lround(255.0 * t));
      return {v, v, v};
    }
  }
}

}  // namespace flowgrad::plot
