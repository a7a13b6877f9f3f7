#include <fmt/format.h>

#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/image.h"

namespace flowgrad::plot {

std::string animated_svg(std::span<const Image> frames, double seconds, double hold) {
  if (frames.empty()) throw ShapeError("animated_svg: no frames given; at least one is accepted");
  if (!(seconds > 0 && std::isfinite(seconds) && hold >= 0 && std::isfinite(hold))) {
    throw ValueError(fmt::format(
        "animated_svg: seconds = {}, hold = {} given; above 0 and at least 0 are accepted", seconds,
        hold));
  }
  const int64_t width = frames[0].width();
  const int64_t height = frames[0].height();
  const double total = seconds * static_cast<double>(frames.size()) + hold;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\">\n",
      width, height);
  for (size_t i = 0; i < frames.size(); ++i) {
    if (frames[i].width() != width || frames[i].height() != height) {
      throw ShapeError(fmt::format("animated_svg: frame {} is {} x {}; {} x {} is accepted", i,
                                   frames[i].width(), frames[i].height(), width, height));
    }
    // Each frame covers those before it, and shows from its time on: no gap can flicker.
    out += fmt::format("<image width=\"{}\" height=\"{}\" href=\"{}\" visibility=\"{}\">", width,
                       height, png_data_uri(frames[i]), i == 0 ? "visible" : "hidden");
    if (i > 0) {
      out += fmt::format(
          "<animate attributeName=\"visibility\" calcMode=\"discrete\" values=\"hidden;visible\" "
          "keyTimes=\"0;{:.5f}\" dur=\"{:.3f}s\" repeatCount=\"indefinite\"/>",
          seconds * static_cast<double>(i) / total, total);
    }
    out += "</image>\n";
  }
  return out + "</svg>\n";
}

}  // namespace flowgrad::plot
