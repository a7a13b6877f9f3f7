#include "flowgrad/cli/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/options.h"
#include "flowgrad/core/file.h"
#include "flowgrad/plot/chart.h"

namespace flowgrad::cli {
namespace {

int64_t side_of(int64_t width) {
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(width))));
  return side * side == width && side >= 4 ? side : 0;
}

}  // namespace

std::string scatter_picture(const std::vector<std::pair<std::string, Tensor>>& clouds) {
  constexpr int64_t kMost = 4000;
  plot::Scatter scatter;
  scatter.panel_size = 320;
  NoGrad off;
  for (const auto& [title, rows] : clouds) {
    const Tensor some = slice(rows, 0, 0, std::min(kMost, rows.size(0)));
    plot::PointGroup group;
    group.x = select(some, 1, 0).to_vector<double>();
    group.y = select(some, 1, 1).to_vector<double>();
    scatter.panels.push_back({.title = title, .groups = {group}});
  }
  return scatter.svg();
}

bool are_images(const Tensor& rows) { return rows.rank() == 2 && side_of(rows.size(1)) > 0; }

plot::Image image_picture(const Tensor& rows, int columns) {
  constexpr int64_t kMost = 400;
  const int64_t side = side_of(rows.size(1));
  const std::vector<float> values = rows.to_vector<float>();
  std::vector<plot::Image> tiles;
  for (int64_t i = 0; i < std::min(kMost, rows.size(0)); ++i) {
    const std::span<const float> one(values.data() + i * side * side,
                                     static_cast<size_t>(side * side));
    tiles.push_back(plot::Image::from_gray(one, side, side, -1.0f, 1.0f));
  }
  return plot::image_grid(tiles, {.columns = columns, .scale = side < 64 ? 2 : 1});
}

void check_picture(const char* option, const std::string& path, int64_t width) {
  if (width != 2 && side_of(width) == 0) {
    throw UsageError(fmt::format(
        "{}: given for rows of {} numbers; points of 2 coordinates and square images of at "
        "least 16 pixels can be drawn",
        option, width));
  }
  const std::string wanted = width == 2 ? ".svg" : ".png";
  if (std::filesystem::path(path).extension() != wanted) {
    throw UsageError(fmt::format("{}: \"{}\" given; for rows of {} numbers a {} file is accepted",
                                 option, path, width, wanted));
  }
}

void write_picture(const std::string& path, const Tensor& rows, int columns) {
  if (rows.size(1) == 2) {
    write_file_atomic(path, scatter_picture({{fmt::format("{} samples", rows.size(0)), rows}}),
                      "picture");
  } else {
    plot::write_png(path, image_picture(rows, columns));
  }
}

}  // namespace flowgrad::cli
