#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace flowgrad::plot {

/// An sRGB colour, 8 bits a channel.
struct Color {
  uint8_t r = 0;
  uint8_t g = 0;
  uint8_t b = 0;
  friend bool operator==(const Color&, const Color&) = default;
};

/// "#rrggbb".
std::string to_hex(Color color);
/// Reads "#rrggbb"; raises ValueError for anything else.
Color parse_hex(const std::string& text);

/// Colour i of the categorical palette, repeating after 8. The order is chosen so that neighbours
/// stay apart for readers with protanopia, deuteranopia or tritanopia, in hue or in lightness.
Color category_color(size_t i);

/// Lightness and two opponent axes of OKLab (Ottosson 2020, "A perceptual color space for image
/// processing"): equal distances look about equally large.
struct OkLab {
  double l = 0.0;
  double a = 0.0;
  double b = 0.0;
};
OkLab to_oklab(Color color);
/// Nearest sRGB colour; a colour outside the gamut keeps lightness and hue and loses chroma.
Color from_oklab(const OkLab& lab);

/// Continuous colour maps, each interpolated in OKLab between a few control points.
enum class ColorMap {
  aurora,   ///< dark violet, blue, green, yellow: lightness rises evenly; for densities
  ice,      ///< near white to deep blue; for densities on a white page
  balance,  ///< blue, white, red: equal lightness at equal distance from the middle; for signed
            ///< values
  gray,     ///< black to white
};

/// Colour at t in [0, 1]; t outside is clamped, NaN gives a neutral gray.
Color map_color(ColorMap map, double t);

}  // namespace flowgrad::plot
