#include "flowgrad/models/bijectors.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

ActNorm::ActNorm(int64_t channels, DType dtype, int64_t positions)
    : channels_(channels),
      positions_(positions),
      log_scale_(add_parameter("log_scale", zeros({channels}, dtype))),
      shift_(add_parameter("shift", zeros({channels}, dtype))),
      initialized_(add_state("initialized", zeros({}, DType::int64), 1)) {}

Transformed ActNorm::forward(const Tensor& z, const Tensor&) {
  check_rows("ActNorm", z, dim());
  const Tensor values = reshape(z, {z.size(0), channels_, positions_});
  const Tensor x = values * unsqueeze(exp(log_scale_), 1) + unsqueeze(shift_, 1);
  return {reshape(x, z.shape()),
          expand(sum(log_scale_) * static_cast<double>(positions_), {z.size(0)})};
}

Transformed ActNorm::inverse(const Tensor& x, const Tensor&) {
  check_rows("ActNorm", x, dim());
  const Tensor values = reshape(x, {x.size(0), channels_, positions_});
  const Tensor z = (values - unsqueeze(shift_, 1)) * unsqueeze(exp(-log_scale_), 1);
  return {reshape(z, x.shape()),
          expand(sum(log_scale_) * -static_cast<double>(positions_), {x.size(0)})};
}

void ActNorm::initialize_from(const Tensor& x, const Tensor&) {
  check_rows("ActNorm", x, dim());
  if (initialized_.item() != 0) return;
  NoGrad off;
  const Tensor values = reshape(x.detach(), {x.size(0), channels_, positions_});
  // Glow's floor keeps a constant channel from an infinite scale.
  constexpr double kFloor = 1e-6;
  const Tensor deviation = std(values, {0, 2}, 0) + kFloor;
  if (x.size(0) * positions_ < 2 || all(isfinite(deviation)).item() == 0) {
    throw ValueError(
        fmt::format("ActNorm: a batch of shape {} with {} values a channel given to initialize "
                    "from; at least 2, all finite, are accepted",
                    x.shape().to_string(), x.size(0) * positions_));
  }
  copy_(shift_, mean(values, {0, 2}));
  copy_(log_scale_, log(deviation));
  fill_(initialized_, 1);
}

Permutation::Permutation(int64_t dim, int64_t number) : dim_(dim) {
  // Drawn from the position in the stack, not from the model's seed: weights of any seed then fit.
  Generator generator(0x9e3779b97f4a7c15u, static_cast<uint64_t>(number));
  order_ = add_buffer("order", randperm(dim, generator));
  back_ = add_constant(sort(order_, 0).second);
}

Transformed Permutation::forward(const Tensor& z, const Tensor&) {
  return {index_select(z, 1, order_), zeros({z.size(0)}, z.dtype(), z.device())};
}

Transformed Permutation::inverse(const Tensor& x, const Tensor&) {
  return {index_select(x, 1, back_), zeros({x.size(0)}, x.dtype(), x.device())};
}

}  // namespace flowgrad
