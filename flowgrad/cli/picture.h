#pragma once

#include <string>
#include <utility>
#include <vector>

#include "flowgrad/core/tensor.h"
#include "flowgrad/plot/image.h"

namespace flowgrad::cli {

/// Rows (N, 2) of several clouds side by side, as SVG. At most 4,000 points of each are drawn.
std::string scatter_picture(const std::vector<std::pair<std::string, Tensor>>& clouds);

/// True for rows whose length is that of a square image of at least 4 by 4 pixels.
bool are_images(const Tensor& rows);
/// Rows of square gray images with values in [-1, 1] as tiles, `columns` a line (0 makes a square
/// grid); at most 400 are drawn.
plot::Image image_picture(const Tensor& rows, int columns = 0);

/// Raises UsageError naming `option` unless rows of this width can be drawn and the path ends in
/// what they are drawn as: .svg for 2, .png for images.
void check_picture(const char* option, const std::string& path, int64_t width);
/// Draws rows into a file.
void write_picture(const std::string& path, const Tensor& rows, int columns = 0);

}  // namespace flowgrad::cli
