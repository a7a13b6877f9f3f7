#include "flowgrad/models/flow.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

Tensor standard_normal_log_prob(const Tensor& z) {
  const auto d = static_cast<double>(z.size(-1));
  return sum(square(z), {-1}) * -0.5 - 0.5 * d * std::log(2 * std::numbers::pi);
}

Tensor Flow::base_log_prob(const Tensor& z) { return standard_normal_log_prob(z); }

Tensor Flow::base_sample(int64_t n, Generator& generator) {
  return randn({n, dim()}, generator, dtype(), device());
}

void Flow::initialize_from(const Tensor&, const Tensor&) {}

Tensor Flow::log_prob(const Tensor& x, const Tensor& condition) {
  const Transformed z = inverse(x, condition);
  return base_log_prob(z.value) + z.log_det;
}

namespace {

/// ShapeError unless the condition, where there is one, has a row for each draw, or one for all.
void check_draws(int64_t n, const Tensor& condition) {
  if (!condition.defined()) return;
  if (condition.rank() == 2 && (condition.size(0) == n || condition.size(0) == 1)) return;
  throw ShapeError(
      fmt::format("sample: {} draws asked for and a condition of shape {} given; one row a draw, "
                  "or one for all, is accepted",
                  n, condition.shape().to_string()));
}

}  // namespace

Tensor Flow::sample(int64_t n, Generator& generator, const Tensor& condition) {
  check_draws(n, condition);
  NoGrad off;
  return forward(base_sample(n, generator), condition).value;
}

Sampled Flow::sample_and_log_prob(int64_t n, Generator& generator, const Tensor& condition) {
  check_draws(n, condition);
  const Tensor z = base_sample(n, generator);
  const Transformed x = forward(z, condition);
  return {x.value, base_log_prob(z) - x.log_det};
}

Transformed then(const Transformed& so_far, const Transformed& next) {
  return {next.value, so_far.log_det.defined() ? so_far.log_det + next.log_det : next.log_det};
}

void check_rows(const char* op, const Tensor& x, int64_t dim) {
  if (x.rank() == 2 && x.size(1) == dim) return;
  throw ShapeError(fmt::format("{}: input of shape {} given; (N, {}) is accepted", op,
                               x.shape().to_string(), dim));
}

Tensor check_condition(const char* op, const Tensor& condition, int64_t rows, int64_t width) {
  if (width == 0 && !condition.defined()) return condition;
  if (width > 0 && condition.defined() && condition.rank() == 2 && condition.size(1) == width) {
    if (condition.size(0) == rows) return condition;
    if (condition.size(0) == 1) return expand(condition, {rows, width});
  }
  const std::string given =
      condition.defined() ? "of shape " + condition.shape().to_string() : "absent";
  const std::string wanted =
      width == 0 ? "none is accepted by an unconditional model"
                 : fmt::format("({}, {}) or (1, {}) is accepted", rows, width, width);
  throw ShapeError(fmt::format("{}: condition {} given; {}", op, given, wanted));
}

}  // namespace flowgrad
