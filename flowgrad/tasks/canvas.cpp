#include "flowgrad/tasks/canvas.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/core/error.h"

namespace flowgrad {

Canvas::Canvas(std::span<float> out, int64_t height, int64_t width, double side, Color background)
    : out_(out), height_(height), width_(width), side_(side) {
  constexpr int64_t kMost = 4096;
  if (height < 1 || width < 1 || height > kMost || width > kMost) {
    throw ValueError(fmt::format("render: the image is {} x {}; accepted are sides of 1 to {}",
                                 height, width, kMost));
  }
  const auto pixels = static_cast<size_t>(height * width);
  if (out.size() != 3 * pixels) {
    throw ShapeError(fmt::format("render: out has {} numbers; an image of 3 x {} x {} has {}",
                                 out.size(), height, width, 3 * pixels));
  }
  pixel_width_ = side / static_cast<double>(width);
  pixel_height_ = side / static_cast<double>(height);
  for (size_t channel = 0; channel < 3; ++channel) {
    std::fill_n(out_.begin() + static_cast<std::ptrdiff_t>(channel * pixels), pixels,
                background[channel]);
  }
}

template <class Distance>
void Canvas::paint(Vec2 center, double reach, Color color, Distance distance) {
  const double pixel = 0.5 * (pixel_width_ + pixel_height_);
  const double half_diagonal = 0.5 * norm({pixel_width_, pixel_height_});
  // Pixels that are large beside the shapes are averaged over k x k points, each a pixel itself.
  constexpr int64_t kFine = 64;
  const auto k = static_cast<int>((kFine - 1) / std::min({height_, width_, kFine}) + 1);
  const auto coverage = [&](Vec2 at) {
    const double away = distance(at);
    if (std::abs(away) >= half_diagonal) return away > 0.0 ? 0.0 : 1.0;
    double sum = 0.0;
    for (int i = 0; i < k * k; ++i) {
      const double dx = (i % k + 0.5) / k - 0.5;
      const double dy = (i / k + 0.5) / k - 0.5;
      const double near = distance(at + Vec2{dx * pixel_width_, dy * pixel_height_});
      sum += std::clamp(0.5 - k * near / pixel, 0.0, 1.0);
    }
    return sum / (k * k);
  };
  const double around = reach + half_diagonal;
  const auto range = [](double low, double high, double step, int64_t count) {
    const double last = static_cast<double>(count);
    return std::pair{static_cast<int64_t>(std::clamp(std::floor(low / step), 0.0, last)),
                     static_cast<int64_t>(std::clamp(std::ceil(high / step), 0.0, last))};
  };
  const auto [left, right] = range(center.x - around, center.x + around, pixel_width_, width_);
  const auto [top, bottom] =
      range(side_ - center.y - around, side_ - center.y + around, pixel_height_, height_);
  const auto pixels = static_cast<size_t>(height_ * width_);
  for (int64_t row = top; row < bottom; ++row) {
    const double y = side_ - (static_cast<double>(row) + 0.5) * pixel_height_ - center.y;
    for (int64_t column = left; column < right; ++column) {
      const double x = (static_cast<double>(column) + 0.5) * pixel_width_ - center.x;
      const auto alpha = static_cast<float>(coverage({x, y}));
      if (alpha == 0.0f) continue;
      const auto at = static_cast<size_t>(row * width_ + column);
      for (size_t channel = 0; channel < 3; ++channel) {
        float& value = out_[channel * pixels + at];
        value += alpha * (color[channel] - value);
      }
    }
  }
}

void Canvas::disc(Vec2 center, double radius, Color color) {
  paint(center, radius, color, [&](Vec2 p) { return norm(p) - radius; });
}

void Canvas::box(Vec2 center, Vec2 half_size, double cosine, double sine, Color color) {
  paint(center, norm(half_size), color, [&](Vec2 p) {
    const double dx = std::abs(cosine * p.x + sine * p.y) - half_size.x;
    const double dy = std::abs(cosine * p.y - sine * p.x) - half_size.y;
    const double outside = norm({std::max(dx, 0.0), std::max(dy, 0.0)});
    return outside + std::min(std::max(dx, dy), 0.0);
  });
}

}  // namespace flowgrad
