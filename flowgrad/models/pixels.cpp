#include "flowgrad/models/pixels.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

void check_levels(const char* op, int64_t levels) {
  if (levels >= 1) return;
  throw ValueError(fmt::format("{}: levels = {} given; at least 1 is accepted", op, levels));
}

void check_alpha(const char* op, double alpha) {
  if (alpha > 0 && alpha < 0.5) return;
  throw ValueError(fmt::format(
      "{}: alpha = {} given; numbers between 0 and 0.5, both excluded, are accepted", op, alpha));
}

}  // namespace

Tensor dequantize(const Tensor& x, Generator& generator, int64_t levels) {
  check_levels("dequantize", levels);
  if (!is_floating(x.dtype())) {
    throw DTypeError(
        fmt::format("dequantize: x is {}; float32 and float64 are accepted", name_of(x.dtype())));
  }
  NoGrad off;
  const Tensor pixels = x.detach();
  const auto top = static_cast<double>(levels);
  // Compared so that a NaN is refused too.
  const Tensor good = logical_and(equal(floor(pixels), pixels),
                                  logical_and(greater_equal(pixels, 0), less(pixels, top)));
  if (all(good).item() == 0) {
    throw ValueError(fmt::format(
        "dequantize: a value is not one of the integers 0 to {} that are accepted", levels - 1));
  }
  const Tensor u = rand(x.shape(), generator, x.dtype(), 0, 1, x.device());
  const double below_one = x.dtype() == DType::float64 ? 1 - 0x1p-53 : 1 - 0x1p-24;
  return clamp((pixels + u) / top, 0, below_one);
}

Transformed to_logits(const Tensor& x, double alpha) {
  check_alpha("to_logits", alpha);
  if (x.rank() != 2)
    throw ShapeError("to_logits: x is " + x.shape().to_string() + "; rows (N, D) are accepted");
  const Tensor p = x * (1 - 2 * alpha) + alpha;
  const Tensor q = (1.0 - x) * (1 - 2 * alpha) + alpha;
  // d logit(p) / dx = (1 - 2 alpha) / (p q).
  return {log(p) - log(q), sum(std::log1p(-2 * alpha) - log(p) - log(q), {1})};
}

Transformed from_logits(const Tensor& y, double alpha) {
  check_alpha("from_logits", alpha);
  if (y.rank() != 2)
    throw ShapeError("from_logits: y is " + y.shape().to_string() + "; rows (N, D) are accepted");
  return {(sigmoid(y) - alpha) / (1 - 2 * alpha),
          sum(logsigmoid(y) + logsigmoid(-y) - std::log1p(-2 * alpha), {1})};
}

Tensor bits_per_dimension(const Tensor& log_prob, int64_t dim, int64_t levels) {
  check_levels("bits_per_dimension", levels);
  if (dim < 1)
    throw ValueError(
        fmt::format("bits_per_dimension: dim = {} given; at least 1 is accepted", dim));
  return log_prob * (-1 / (static_cast<double>(dim) * std::numbers::ln2)) +
         std::log2(static_cast<double>(levels));
}

}  // namespace flowgrad
