#include "flowgrad/models/time_embedding.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

Tensor embedding_frequencies(int64_t width, double scale, DType dtype, Device device) {
  check_embedding_width("sinusoidal_embedding", width);
  const int64_t half = width / 2;
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    frequencies[static_cast<size_t>(i)] =
        scale *
        std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half - 1));
  }
  return Tensor::from(frequencies, {1, half}, dtype, device);
}

Tensor embedding_of(const Tensor& t, const Tensor& frequencies) {
  if (t.rank() != 1) {
    throw ShapeError("sinusoidal_embedding: t has shape " + t.shape().to_string() +
                     "; (N) is accepted");
  }
  const Tensor angle = unsqueeze(t, 1) * frequencies;
  return concat({sin(angle), cos(angle)}, 1);
}

}  // namespace

void check_embedding_width(const char* op, int64_t width) {
  if (width >= 4 && width % 2 == 0) return;
  throw ValueError(fmt::format(
      "{}: width {} of the time embedding given; even numbers from 4 are accepted", op, width));
}

Tensor sinusoidal_embedding(const Tensor& t, int64_t width, double scale) {
  return embedding_of(t, embedding_frequencies(width, scale, t.dtype(), t.device()));
}

SinusoidalEmbedding::SinusoidalEmbedding(int64_t width, double scale, DType dtype)
    : frequencies_(add_constant(embedding_frequencies(width, scale, dtype, Device::cpu()))) {}

Tensor SinusoidalEmbedding::forward(const Tensor& t) { return embedding_of(t, frequencies_); }

}  // namespace flowgrad
