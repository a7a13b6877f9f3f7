#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "flowgrad/tasks/plane.h"

namespace flowgrad {

/// Paints a square piece of the plane into an RGB image of float32 (3, height, width) in [0, 1],
/// first row at the top. Edges are anti-aliased by the signed distance of a shape, at several
/// points of a pixel in small images. Sizes need not be equal, nor the pixels square.
class Canvas {
 public:
  using Color = std::array<float, 3>;

  /// Fills `out` with `background`. The image shows [0, side] x [0, side]. Raises ValueError unless
  /// height and width lie in [1, 4096], ShapeError unless out holds 3 * height * width numbers.
  Canvas(std::span<float> out, int64_t height, int64_t width, double side, Color background);

  void disc(Vec2 center, double radius, Color color);
  /// A rectangle turned to the left by an angle with the given cosine and sine.
  void box(Vec2 center, Vec2 half_size, double cosine, double sine, Color color);

 private:
  template <class Distance>
  void paint(Vec2 center, double reach, Color color, Distance distance);

  std::span<float> out_;
  int64_t height_, width_;
  double pixel_width_, pixel_height_, side_;
};

}  // namespace flowgrad
