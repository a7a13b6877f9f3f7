#include "flowgrad/core/error.h"
#include "flowgrad/plot/image.h"
#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad;
using namespace flowgrad::plot;

TEST_CASE("frames appear one after the other and stay", "[animation_test]") {
  const std::vector<Image> frames(4, Image(8, 6, 3));
  const std::string svg = animated_svg(frames, 0.25, 1.0);
  const drawing::Element root = drawing::Reader(svg).document();
  CHECK(root.name == "svg");
  CHECK(root.number("width") == 8);
  REQUIRE(root.children.size() == 4);
  CHECK(root.children[0].children.empty());
  for (size_t i = 1; i < 4; ++i) {
    const drawing::Element& frame = root.children[i];
    CHECK(frame.attributes.at("visibility") == "hidden");
    REQUIRE(frame.children.size() == 1);
    const drawing::Element& animate = frame.children[0];
    CHECK(animate.attributes.at("dur") == "2.000s");
    // Frame i shows after i quarters of two seconds.
    const std::string times = animate.attributes.at("keyTimes");
    CHECK(std::stod(times.substr(2)) == Catch::Approx(0.125 * static_cast<double>(i)));
  }
  CHECK(drawing::Reader(animated_svg(std::span(frames).first(1), 1.0)).document().children.size() ==
        1);
}

TEST_CASE("moving pictures of nothing, of two sizes or of no duration are refused",
          "[animation_test]") {
  CHECK_THROWS_AS(animated_svg({}, 0.1), ShapeError);
  const std::vector<Image> unequal = {Image(8, 6, 3), Image(8, 7, 3)};
  CHECK_THROWS_AS(animated_svg(unequal, 0.1), ShapeError);
  const std::vector<Image> one = {Image(8, 6, 3)};
  CHECK_THROWS_AS(animated_svg(one, 0.0), ValueError);
  CHECK_THROWS_AS(animated_svg(one, 0.1, -1.0), ValueError);
}
