#include "flowgrad/plot/image.h"

#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>

#include "flowgrad/core/error.h"
#include "flowgrad/core/file.h"

namespace flowgrad::plot {
namespace {

constexpr int64_t kMaxSide = 32768;
constexpr size_t kMaxPixels = size_t{1} << 28;

uint8_t lightness(Color c) {
  return static_cast<uint8_t>(std::lround(0.2126 * c.r + 0.7152 * c.g + 0.0722 * c.b));
}

void append_bytes(png_structp png, png_bytep data, png_size_t size) {
  auto* out = static_cast<std::vector<uint8_t>*>(png_get_io_ptr(png));
  out->insert(out->end(), data, data + size);
}

void flush_nothing(png_structp) {}

/// The part of encode_png that libpng may leave by longjmp: it holds no object with a destructor.
bool write_rows(png_structp png, png_infop info, const Image& image, std::vector<uint8_t>* out) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_write_fn(png, out, append_bytes, flush_nothing);
  png_set_compression_level(png, 9);
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width()),
               static_cast<png_uint_32>(image.height()), 8,
               image.channels() == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  const size_t row = static_cast<size_t>(image.width()) * static_cast<size_t>(image.channels());
  for (int64_t y = 0; y < image.height(); ++y) {
    png_write_row(png, image.pixels().data() + static_cast<size_t>(y) * row);
  }
  png_write_end(png, info);
  return true;
}

}  // namespace

Image::Image(int64_t width, int64_t height, int channels, Color fill)
    : width_(width), height_(height), channels_(channels) {
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide) {
    throw ValueError(fmt::format("Image: size is {} x {} pixels; each side must lie in [1, {}]",
                                 width, height, kMaxSide));
  }
  if (channels != 1 && channels != 3) {
    throw ValueError(
        fmt::format("Image: channels is {}; accepted are 1 (gray) and 3 (RGB)", channels));
  }
  const size_t count = static_cast<size_t>(width) * static_cast<size_t>(height);
  if (count > kMaxPixels) {
    throw ValueError(fmt::format("Image: {} x {} pixels are more than the {} that are accepted",
                                 width, height, kMaxPixels));
  }
  pixels_.resize(count * static_cast<size_t>(channels));
  fill_rect(0, 0, width, height, fill);
}

Image Image::from_gray(std::span<const float> values, int64_t width, int64_t height, float lo,
                       float hi) {
  Image image(width, height, 1);
  if (values.size() != image.pixels_.size()) {
    throw ShapeError(fmt::format("Image::from_gray: {} values given; {} x {} pixels need {}",
                                 values.size(), width, height, image.pixels_.size()));
  }
  if (!(lo < hi)) {
    throw ValueError(
        fmt::format("Image::from_gray: lo is {} and hi is {}; lo must be below hi", lo, hi));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const float t = std::isnan(values[i]) ? 0.0f : (values[i] - lo) / (hi - lo);
    image.pixels_[i] = static_cast<uint8_t>(std::lround(255.0f * std::clamp(t, 0.0f, 1.0f)));
  }
  return image;
}

Image Image::from_rgb(std::span<const float> values, int64_t width, int64_t height) {
  Image image(width, height, 3);
  if (values.size() != image.pixels_.size()) {
    throw ShapeError(fmt::format("Image::from_rgb: {} values given; 3 x {} x {} need {}",
                                 values.size(), height, width, image.pixels_.size()));
  }
  const size_t plane = values.size() / 3;
  for (size_t i = 0; i < values.size(); ++i) {
    const float v = values[i % 3 * plane + i / 3];
    const float t = std::isnan(v) ? 0.0f : std::clamp(v, 0.0f, 1.0f);
    image.pixels_[i] = static_cast<uint8_t>(std::lround(255.0f * t));
  }
  return image;
}

Color Image::get(int64_t x, int64_t y) const {
  const uint8_t* p = pixels_.data() + index(x, y);
  return channels_ == 3 ? Color{p[0], p[1], p[2]} : Color{p[0], p[0], p[0]};
}

void Image::set(int64_t x, int64_t y, Color color) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_) return;
  uint8_t* p = pixels_.data() + index(x, y);
  if (channels_ == 3) {
    p[0] = color.r;
    p[1] = color.g;
    p[2] = color.b;
  } else {
    p[0] = lightness(color);
  }
}

void Image::fill_rect(int64_t x, int64_t y, int64_t width, int64_t height, Color color) {
  const int64_t right = std::min(x + width, width_);
  const int64_t bottom = std::min(y + height, height_);
  for (int64_t row = std::max<int64_t>(y, 0); row < bottom; ++row) {
    for (int64_t column = std::max<int64_t>(x, 0); column < right; ++column) {
      set(column, row, color);
    }
  }
}

void Image::paste(const Image& source, int64_t x, int64_t y) {
  for (int64_t row = 0; row < source.height_; ++row) {
    for (int64_t column = 0; column < source.width_; ++column) {
      set(x + column, y + row, source.get(column, row));
    }
  }
}

Image Image::enlarged(int factor) const {
  if (factor < 1)
    throw ValueError(fmt::format("Image::enlarged: factor is {}; accepted is >= 1", factor));
  Image out(width_ * factor, height_ * factor, channels_);
  for (int64_t y = 0; y < out.height_; ++y) {
    for (int64_t x = 0; x < out.width_; ++x) out.set(x, y, get(x / factor, y / factor));
  }
  return out;
}

Image Image::to_rgb() const {
  Image out(width_, height_, 3);
  out.paste(*this, 0, 0);
  return out;
}

std::vector<uint8_t> encode_png(const Image& image) {
  if (image.empty()) throw ValueError("encode_png: image is empty; at least one pixel is needed");
  std::vector<uint8_t> out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
  const bool done = info != nullptr && write_rows(png, info, image, &out);
  png_destroy_write_struct(&png, &info);
  if (!done) throw IoError("encode_png: libpng could not encode the image (out of memory)");
  return out;
}

void write_png(const std::string& path, const Image& image) {
  const std::vector<uint8_t> bytes = encode_png(image);
  write_file_atomic(path,
                    std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
                    "write_png");
}

std::string base64(std::span<const uint8_t> bytes) {
  constexpr std::string_view alphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = std::min<size_t>(3, bytes.size() - i);
    uint32_t block = uint32_t{bytes[i]} << 16;
    if (left > 1) block |= uint32_t{bytes[i + 1]} << 8;
    if (left > 2) block |= bytes[i + 2];
    for (size_t k = 0; k < 4; ++k) {
      out += k <= left ? alphabet[(block >> (18 - 6 * k)) & 63u] : '=';
    }
  }
  return out;
}

std::string png_data_uri(const Image& image) {
  return "data:image/png;base64," + base64(encode_png(image));
}

Image heat_image(std::span<const double> values, int64_t rows, int64_t columns,
                 const HeatImageOptions& options) {
  if (rows < 1 || columns < 1 ||
      values.size() != static_cast<size_t>(rows) * static_cast<size_t>(columns)) {
    throw ShapeError(
        fmt::format("heat_image: {} values given for ({}, {}); rows times columns "
                    "values are needed, at least one",
                    values.size(), rows, columns));
  }
  double lo = options.lo;
  double hi = options.hi;
  if (!(lo < hi)) {
    lo = 1e300;
    hi = -1e300;
    for (double v : values) {
      if (!std::isfinite(v)) continue;
      lo = std::min(lo, v);
      hi = std::max(hi, v);
    }
    if (lo > hi) lo = 0.0, hi = 1.0;
  }
  const double span = hi > lo ? hi - lo : 1.0;
  Image image(columns, rows, 3);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const double v = values[static_cast<size_t>(r * columns + c)];
      const double t = std::isfinite(v) ? (v - lo) / span : std::nan("");
      image.set(c, options.flip ? rows - 1 - r : r, map_color(options.map, t));
    }
  }
  if (options.scale > 1) image = image.enlarged(options.scale);
  if (!options.color_bar) return image;

  constexpr int text = 9;
  const std::string high = fmt::format("{:.3g}", hi);
  const std::string low = fmt::format("{:.3g}", lo);
  const int64_t labels = std::max(drawn_width(high, text), drawn_width(low, text));
  const int64_t height = std::max<int64_t>(image.height(), 3 * text);
  Image out(image.width() + 10 + 12 + 6 + labels + 2, height, 3);
  out.paste(image, 0, 0);
  for (int64_t y = 0; y < height; ++y) {
    const double t = 1.0 - (static_cast<double>(y) + 0.5) / static_cast<double>(height);
    out.fill_rect(image.width() + 10, y, 12, 1, map_color(options.map, t));
  }
  draw_text(out, image.width() + 28, 2, high, text);
  draw_text(out, image.width() + 28, height - text - 2, low, text);
  return out;
}

Image image_grid(std::span<const Image> tiles, const ImageGridOptions& options) {
  if (tiles.empty()) throw ShapeError("image_grid: no tiles given; at least one is needed");
  const auto count = static_cast<int64_t>(tiles.size());
  int64_t columns = options.columns;
  if (columns <= 0) {
    columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  }
  const int64_t rows = (count + columns - 1) / columns;
  const auto check = [&](const char* what, size_t given, int64_t needed) {
    if (given != 0 && given != static_cast<size_t>(needed)) {
      throw ShapeError(
          fmt::format("image_grid: {} {} given; the grid has {} of them", given, what, needed));
    }
  };
  check("row labels", options.row_labels.size(), rows);
  check("column titles", options.column_titles.size(), columns);
  if (options.scale < 1 || options.padding < 0) {
    throw ValueError(
        fmt::format("image_grid: scale is {} and padding is {}; accepted are >= 1 and "
                    ">= 0",
                    options.scale, options.padding));
  }
  int64_t tile_width = 1;
  int64_t tile_height = 1;
  for (const Image& tile : tiles) {
    tile_width = std::max(tile_width, tile.width() * options.scale);
    tile_height = std::max(tile_height, tile.height() * options.scale);
  }
  const int text = static_cast<int>(std::clamp<int64_t>(tile_height / 5, 8, 14));
  const int64_t pad = options.padding;
  int64_t left = pad;
  for (const std::string& label : options.row_labels) {
    left = std::max<int64_t>(left, drawn_width(label, text) + 18);
  }
  int64_t title_width =
      options.title.empty() ? 0 : drawn_width(options.title, text + 3) + 2 * pad + 8;
  int64_t column_step = tile_width + pad;
  for (const std::string& title : options.column_titles) {
    column_step = std::max<int64_t>(column_step, drawn_width(title, text) + 8);
  }
  const int64_t title_room = options.title.empty() ? 0 : text + 20;
  const int64_t top =
      title_room + (options.column_titles.empty() ? pad : static_cast<int64_t>(text) + 16);
  const int64_t width = std::max(left + columns * column_step, title_width);
  Image out(width, top + rows * (tile_height + pad), 3, options.background);

  if (!options.title.empty()) {
    draw_text(out, std::max<int64_t>(pad, 8), 8, options.title, text + 3, {24, 24, 27}, true);
  }
  for (size_t c = 0; c < options.column_titles.size(); ++c) {
    const std::string& title = options.column_titles[c];
    const int64_t middle = left + static_cast<int64_t>(c) * column_step + (column_step - pad) / 2;
    draw_text(out, middle - drawn_width(title, text) / 2, title_room + 5, title, text);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t y = top + r * (tile_height + pad);
    if (!options.row_labels.empty()) {
      const std::string& label = options.row_labels[static_cast<size_t>(r)];
      draw_text(out, left - 9 - drawn_width(label, text), y + (tile_height - text) / 2, label,
                text);
    }
    for (int64_t c = 0; c < columns && r * columns + c < count; ++c) {
      const Image& tile = tiles[static_cast<size_t>(r * columns + c)];
      if (tile.empty()) continue;
      const Image big = options.scale > 1 ? tile.enlarged(options.scale) : tile;
      out.paste(big, left + c * column_step + (column_step - pad - tile_width) / 2, y);
    }
  }
  return out;
}

}  // namespace flowgrad::plot
