#include "flowgrad/plot/palette.h"

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"

using namespace flowgrad;
using namespace flowgrad::plot;

namespace {

double distance(Color a, Color b) {
  const OkLab p = to_oklab(a);
  const OkLab q = to_oklab(b);
  return std::hypot(p.l - q.l, std::hypot(p.a - q.a, p.b - q.b));
}

/// What a reader without one kind of cone sees (Viénot, Brettel and Mollon 1999), roughly.
Color dichromat(Color c, bool protan) {
  const auto linear = [](uint8_t v) { return std::pow(v / 255.0, 2.2); };
  const double r = linear(c.r), g = linear(c.g), b = linear(c.b);
  const double x = protan ? 0.11238 * r + 0.88762 * g : 0.29275 * r + 0.70725 * g;
  const double z = protan ? 0.00401 * r - 0.00401 * g + b : -0.02234 * r + 0.02234 * g + b;
  const auto byte = [](double v) {
    return static_cast<uint8_t>(std::lround(255.0 * std::pow(std::clamp(v, 0.0, 1.0), 1.0 / 2.2)));
  };
  return {byte(x), byte(x), byte(z)};
}

}  // namespace

TEST_CASE("hexadecimal colours", "[palette_test]") {
  CHECK(to_hex({1, 171, 255}) == "#01abff");
  CHECK(parse_hex("#01ABff") == Color{1, 171, 255});
  for (const char* bad : {"", "#fff", "red", "#12345g", "#1234567", "123456#"}) {
    CHECK_THROWS_AS(parse_hex(bad), ValueError);
  }
}

TEST_CASE("OKLab has its published values and inverts", "[palette_test]") {
  // Ottosson 2020: white is (1, 0, 0); pure red is (0.628, 0.225, 0.126).
  const OkLab white = to_oklab({255, 255, 255});
  CHECK(white.l == Catch::Approx(1.0).margin(1e-3));
  CHECK(white.a == Catch::Approx(0.0).margin(1e-3));
  const OkLab red = to_oklab({255, 0, 0});
  CHECK(red.l == Catch::Approx(0.62796).margin(1e-3));
  CHECK(red.a == Catch::Approx(0.22486).margin(1e-3));
  CHECK(red.b == Catch::Approx(0.12585).margin(1e-3));
  for (int v = 0; v < 4096; v += 7) {
    const auto channel = [&](int shift) { return static_cast<uint8_t>(((v >> shift) & 15) * 17); };
    const Color c{channel(8), channel(4), channel(0)};
    CHECK(from_oklab(to_oklab(c)) == c);
  }
}

TEST_CASE("sequential maps have evenly rising lightness", "[palette_test]") {
  for (ColorMap map : {ColorMap::aurora, ColorMap::ice}) {
    const double first = to_oklab(map_color(map, 0.0)).l;
    const double last = to_oklab(map_color(map, 1.0)).l;
    CHECK(std::abs(last - first) > 0.65);
    for (int i = 0; i <= 200; ++i) {
      const double t = i / 200.0;
      const double l = to_oklab(map_color(map, t)).l;
      CHECK(l == Catch::Approx(first + t * (last - first)).margin(0.012));
    }
  }
}

TEST_CASE("maps have no jump and no flat stretch", "[palette_test]") {
  for (ColorMap map : {ColorMap::aurora, ColorMap::ice, ColorMap::balance}) {
    for (int i = 0; i < 64; ++i) {
      const double step = distance(map_color(map, i / 64.0), map_color(map, (i + 1) / 64.0));
      CHECK(step < 0.045);
      CHECK(step > 0.005);
    }
  }
}

TEST_CASE("the balance map treats both signs alike", "[palette_test]") {
  for (int i = 0; i <= 50; ++i) {
    const double t = i / 100.0;
    CHECK(to_oklab(map_color(ColorMap::balance, t)).l ==
          Catch::Approx(to_oklab(map_color(ColorMap::balance, 1.0 - t)).l).margin(0.012));
  }
  CHECK(to_oklab(map_color(ColorMap::balance, 0.5)).l > 0.95);
}

TEST_CASE("maps clamp and show missing values", "[palette_test]") {
  CHECK(map_color(ColorMap::gray, -3.0) == Color{0, 0, 0});
  CHECK(map_color(ColorMap::gray, 7.0) == Color{255, 255, 255});
  CHECK(map_color(ColorMap::aurora, std::nan("")) == Color{190, 190, 190});
}

TEST_CASE("categories stay apart, also without red or green cones", "[palette_test]") {
  for (size_t i = 0; i < 8; ++i) {
    CHECK(category_color(i) == category_color(i + 8));
    CHECK(to_oklab(category_color(i)).l < 0.8);  // readable on white
    for (size_t j = 0; j < i; ++j) {
      CAPTURE(i, j);
      CHECK(distance(category_color(i), category_color(j)) > 0.09);
      if (i < 4) {
        for (bool protan : {true, false}) {
          CHECK(distance(dichromat(category_color(i), protan),
                         dichromat(category_color(j), protan)) > 0.06);
        }
      }
    }
  }
}
