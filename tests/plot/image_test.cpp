#include "flowgrad/plot/image.h"

#include <png.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad;
using namespace flowgrad::plot;

namespace {

/// Decodes with libpng's own simple reader.
Image decode(const std::vector<uint8_t>& bytes) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  REQUIRE(png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()) != 0);
  const bool gray = (png.format & PNG_FORMAT_FLAG_COLOR) == 0;
  png.format = gray ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  Image out(png.width, png.height, gray ? 1 : 3);
  REQUIRE(png_image_finish_read(&png, nullptr, out.pixels().data(), 0, nullptr) != 0);
  return out;
}

bool same(const Image& a, const Image& b) {
  return a.width() == b.width() && a.height() == b.height() && a.channels() == b.channels() &&
         std::equal(a.pixels().begin(), a.pixels().end(), b.pixels().begin());
}

Image pattern(int64_t width, int64_t height, int channels) {
  Image image(width, height, channels);
  for (size_t i = 0; i < image.pixels().size(); ++i)
    image.pixels()[i] = static_cast<uint8_t>(i * 37 + i / 7);
  return image;
}

/// Columns and rows of a region that are not all background.
int64_t inked(const Image& image, int64_t x0, int64_t y0, int64_t x1, int64_t y1) {
  int64_t count = 0;
  for (int64_t y = y0; y < y1; ++y) {
    for (int64_t x = x0; x < x1; ++x) count += image.get(x, y) == Color{255, 255, 255} ? 0 : 1;
  }
  return count;
}

}  // namespace

TEST_CASE("PNG files decode to the same pixels", "[image_test]") {
  for (int channels : {1, 3}) {
    for (auto [w, h] : std::vector<std::pair<int, int>>{{1, 1}, {1, 9}, {28, 28}, {301, 17}}) {
      const Image image = pattern(w, h, channels);
      CHECK(same(decode(encode_png(image)), image));
    }
  }
  CHECK_THROWS_AS(encode_png(Image()), ValueError);
}

TEST_CASE("write_png writes the file or names it in the error", "[image_test]") {
  const std::string path = std::filesystem::temp_directory_path() / "flowgrad_image_test.png";
  const Image image = pattern(30, 20, 3);
  write_png(path, image);
  std::ifstream file(path, std::ios::binary);
  const std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
  CHECK(same(decode(bytes), image));
  std::filesystem::remove(path);
  try {
    write_png("/nonexistent-folder/picture.png", image);
    FAIL("no error");
  } catch (const IoError& error) {
    CHECK(drawing::contains(error.what(), "write_png: /nonexistent-folder/picture.png"));
  }
}

TEST_CASE("images check their sizes", "[image_test]") {
  CHECK_THROWS_AS(Image(0, 5, 1), ValueError);
  CHECK_THROWS_AS(Image(5, 5, 4), ValueError);
  CHECK_THROWS_AS(Image(40000, 1, 1), ValueError);
  const std::vector<float> five(5, 0.0f);
  CHECK_THROWS_AS(Image::from_gray(five, 2, 2), ShapeError);
  CHECK_THROWS_AS(Image::from_gray(five, 5, 1, 1.0f, 1.0f), ValueError);
}

TEST_CASE("gray values are scaled and clamped", "[image_test]") {
  const std::vector<float> values{-2.0f, -1.0f, 0.0f, 1.0f, 3.0f, std::nanf("")};
  const Image image = Image::from_gray(values, 3, 2, -1.0f, 1.0f);
  const std::vector<uint8_t> expected{0, 0, 128, 255, 255, 0};
  CHECK(std::equal(expected.begin(), expected.end(), image.pixels().begin()));
}

TEST_CASE("planes of red, green and blue become pixels", "[image_test]") {
  const std::vector<float> planes{0.0f, 1.0f, 0.2f, 2.0f, 0.4f, std::nanf("")};
  const Image image = Image::from_rgb(planes, 2, 1);
  CHECK(image.get(0, 0) == Color{0, 51, 102});
  CHECK(image.get(1, 0) == Color{255, 255, 0});
  CHECK_THROWS_AS(Image::from_rgb(planes, 1, 1), ShapeError);
}

TEST_CASE("drawing runs over the edge without harm", "[image_test]") {
  Image image(4, 4, 3);
  image.fill_rect(-5, 2, 100, 100, {1, 2, 3});
  CHECK(image.get(0, 1) == Color{255, 255, 255});
  CHECK(image.get(3, 3) == Color{1, 2, 3});
  image.paste(Image(3, 3, 1, {0, 0, 0}), -1, -1);
  CHECK(image.get(1, 1) == Color{0, 0, 0});
  CHECK(image.get(2, 1) == Color{255, 255, 255});
  CHECK(image.enlarged(2).get(3, 3) == Color{0, 0, 0});
  CHECK(image.enlarged(2).get(4, 2) == Color{255, 255, 255});
  CHECK_THROWS_AS(image.enlarged(0), ValueError);
}

TEST_CASE("base 64 follows RFC 4648", "[image_test]") {
  const std::string text = "foobar";
  const char* expected[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
  for (size_t n = 0; n <= 6; ++n) {
    const std::vector<uint8_t> bytes(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(n));
    CHECK(base64(bytes) == expected[n]);
  }
  CHECK(base64(std::vector<uint8_t>{0xfb, 0xff, 0xbf}) == "+/+/");
  CHECK(png_data_uri(Image(1, 1, 1)).starts_with("data:image/png;base64,iVBORw0KGgo"));
}

TEST_CASE("heat images place and colour values", "[image_test]") {
  const std::vector<double> values{0.0, 1.0, 2.0, std::nan("")};
  const Image up = heat_image(values, 2, 2, {.map = ColorMap::gray});
  CHECK(up.get(0, 1) == Color{0, 0, 0});  // row 0 at the bottom
  CHECK(up.get(1, 1) == Color{128, 128, 128});
  CHECK(up.get(0, 0) == Color{255, 255, 255});
  CHECK(up.get(1, 0) == Color{190, 190, 190});
  const Image down = heat_image(
      values, 2, 2, {.lo = 0, .hi = 4, .map = ColorMap::gray, .flip = false, .scale = 3});
  CHECK(down.width() == 6);
  CHECK(down.get(0, 5) == Color{128, 128, 128});
  const Image bar = heat_image(values, 2, 2, {.scale = 40, .color_bar = true});
  CHECK(bar.width() > 80 + 20);
  CHECK(inked(bar, 108, 0, bar.width(), bar.height()) > 10);  // its numbers
  CHECK_THROWS_AS(heat_image(values, 2, 3), ShapeError);
  CHECK_NOTHROW(heat_image(std::vector<double>(4, std::nan("")), 2, 2));
}

TEST_CASE("image grids place tiles and labels", "[image_test]") {
  std::vector<Image> tiles;
  for (int i = 0; i < 6; ++i)
    tiles.emplace_back(8, 8, 1, Color{static_cast<uint8_t>(10 * i), 0, 0});
  const Image plain = image_grid(tiles, {.columns = 3, .padding = 2});
  CHECK(plain.width() == 2 + 3 * 10);
  CHECK(plain.height() == 2 + 2 * 10);
  for (int i = 0; i < 6; ++i) {
    CHECK(plain.get(2 + 10 * (i % 3) + 4, 2 + 10 * (i / 3) + 4) ==
          tiles[static_cast<size_t>(i)].get(0, 0));
    CHECK(plain.get(1 + 10 * (i % 3), 5 + 10 * (i / 3)) == Color{255, 255, 255});
  }
  const Image labelled = image_grid(tiles, {.columns = 3,
                                            .scale = 3,
                                            .row_labels = {"Trouser", "Bag"},
                                            .column_titles = {"a", "b", "c"},
                                            .title = "Title"});
  CHECK(inked(labelled, 0, labelled.height() - 24, 50, labelled.height()) > 5);
  CHECK(inked(labelled, 0, 0, labelled.width(), 20) > 20);
  CHECK_THROWS_AS(image_grid(tiles, {.columns = 3, .row_labels = {"one"}}), ShapeError);
  CHECK_THROWS_AS(image_grid({}, {}), ShapeError);
  CHECK(image_grid(std::span(tiles).first(5)).width() == image_grid(tiles).width());
}

TEST_CASE("every printable character has a glyph of its own", "[image_test]") {
  std::vector<std::vector<uint8_t>> seen;
  for (char c = '!'; c <= '~'; ++c) {
    Image image(40, 40, 1);
    const int width = draw_text(image, 8, 8, std::string(1, c), 20, {0, 0, 0});
    CHECK(width == drawn_width(std::string(1, c), 20));
    CAPTURE(c);
    CHECK(inked(image, 0, 0, 40, 40) > 5);
    CHECK(inked(image, 8 + width + 2, 0, 40, 40) == 0);  // stays inside the width it reports
    const std::vector<uint8_t> pixels(image.pixels().begin(), image.pixels().end());
    CHECK(std::find(seen.begin(), seen.end(), pixels) == seen.end());
    seen.push_back(pixels);
  }
  for (const char* hollow : {"O", "o", "0", "D", "C"}) {
    Image image(40, 40, 1);
    const int width = draw_text(image, 8, 8, hollow, 20, {0, 0, 0});
    const bool small = hollow[0] == 'o';
    CHECK(inked(image, 8 + width / 2 - 4, small ? 18 : 15, 8 + width / 2 - 1, 23) == 0);
  }
  CHECK(drawn_width("−1", 12) == drawn_width("-1", 12));
  CHECK(drawn_width("é", 12) == drawn_width("日", 12));
}
