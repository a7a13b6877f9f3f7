#include "flowgrad/models/hierarchical.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/flow.h"

namespace flowgrad {
namespace {

const HierarchicalOptions& checked(const HierarchicalOptions& o) {
  if (o.condition_dim < 0 || o.action_dim < 1 || o.sequence_length < 1 || o.latent_dim < 2 ||
      o.decoder_hidden < 1 || o.hidden < 1) {
    throw ValueError(fmt::format(
        "HierarchicalFlow: condition_dim = {}, action_dim = {}, sequence_length = {}, latent_dim = "
        "{}, decoder_hidden = {}, hidden = {} given; at least 1 is accepted, 0 for no condition, "
        "and a latent of 2",
        o.condition_dim, o.action_dim, o.sequence_length, o.latent_dim, o.decoder_hidden,
        o.hidden));
  }
  if (!(o.noise_correlation >= 0 && o.noise_correlation <= 1)) {
    throw ValueError(fmt::format(
        "HierarchicalFlow: noise_correlation = {} given; 0 to 1 is accepted", o.noise_correlation));
  }
  return o;
}

std::unique_ptr<FlowMatching> flow(const HierarchicalOptions& o, int64_t condition, int64_t width,
                                   Generator& generator, DType dtype) {
  FlowMatchingOptions f;
  f.condition_dim = condition;
  f.action_dim = width;
  f.hidden = o.hidden;
  f.time_dim = o.time_dim;
  return std::make_unique<FlowMatching>(f, generator, dtype);
}

/// Rows that turn independent unit normals into a stationary autoregressive sequence of unit
/// variance: e_i = rho e_(i-1) + sqrt(1 - rho^2) n_i.
Tensor autoregressive(int64_t n, double rho, DType dtype) {
  std::vector<double> rows(static_cast<size_t>(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      rows[static_cast<size_t>(i * n + j)] =
          std::pow(rho, static_cast<double>(i - j)) * (j == 0 ? 1 : std::sqrt(1 - rho * rho));
    }
  }
  return Tensor::from(rows, {n, n}, dtype);
}

}  // namespace

HierarchicalFlow::HierarchicalFlow(const HierarchicalOptions& o, Generator& generator, DType dtype)
    : options_(checked(o)),
      high_(
          add_module("high_level_flow", flow(o, o.condition_dim, o.latent_dim, generator, dtype))),
      low_(add_module("low_level_flow",
                      flow(o, o.decoder_hidden + o.condition_dim, o.action_dim, generator, dtype))),
      decoder_(add_module("sequence_decoder",
                          std::make_unique<Lstm>(o.latent_dim, o.decoder_hidden, generator, dtype,
                                                 LstmOptions{.layers = 2}))),
      encoder_(add_module("action_encoder", std::make_unique<Lstm>(o.action_dim, o.decoder_hidden,
                                                                   generator, dtype))),
      to_latent_(add_module(
          "to_latent", std::make_unique<Linear>(o.decoder_hidden, o.latent_dim, generator, dtype))),
      mixing_(add_constant(autoregressive(o.sequence_length, o.noise_correlation, dtype))) {}

Tensor HierarchicalFlow::sequences(const char* op, const Tensor& x) const {
  const int64_t l = options_.sequence_length, a = options_.action_dim;
  const bool fits =
      (x.rank() == 3 && x.size(1) == l && x.size(2) == a) || (x.rank() == 2 && x.size(1) == l * a);
  if (!fits) {
    throw ShapeError(fmt::format("{}: actions {} given; (N, {}, {}) or (N, {}) is accepted", op,
                                 x.shape().to_string(), l, a, l * a));
  }
  return reshape(x, {x.size(0), l, a});
}

Tensor HierarchicalFlow::latent(const Tensor& actions) {
  const Tensor last = select(encoder_.forward(sequences("latent", actions)).h, 0, 0);
  return layer_norm(to_latent_(last), {options_.latent_dim});
}

Tensor HierarchicalFlow::step_conditions(const Tensor& latent, const Tensor& condition) {
  const int64_t n = latent.size(0), l = options_.sequence_length;
  const auto every_step = [&](const Tensor& x) {
    return expand(unsqueeze(x, 1), {n, l, x.size(1)});
  };
  Tensor steps = decoder_.forward(every_step(latent)).output;
  if (condition.defined()) steps = concat({steps, every_step(condition)}, 2);
  return reshape(steps, {n * l, steps.size(2)});
}

Tensor HierarchicalFlow::loss(const Tensor& given_actions, const Tensor& given_condition,
                              Generator& generator, const Tensor& noise, const Tensor& time) {
  const Tensor actions = sequences("loss", given_actions);
  const int64_t n = actions.size(0), l = options_.sequence_length;
  const Tensor condition = check_condition("loss", given_condition, n, options_.condition_dim);
  Tensor high_noise, low_noise, high_time, low_time;
  if (noise.defined()) {
    check_draw("noise", noise, {n, noise_width()});
    high_noise = slice(noise, 1, 0, options_.latent_dim);
    low_noise =
        reshape(slice(noise, 1, options_.latent_dim, noise_width()), {n * l, options_.action_dim});
  }
  if (time.defined()) {
    check_draw("time", time, {n, 1 + l});
    high_time = select(time, 1, 0);
    low_time = reshape(slice(time, 1, 1, 1 + l), {n * l});
  }
  const Tensor z = latent(actions);
  const Tensor high = high_.loss(z.detach(), condition, generator, high_noise, high_time);
  const Tensor low = low_.loss(reshape(actions, {n * l, options_.action_dim}),
                               step_conditions(z, condition), generator, low_noise, low_time);
  return high + low;
}

Tensor HierarchicalFlow::generate(const Tensor& noise, const Tensor& given,
                                  const GenerateOptions& options) {
  check_rows("generate", noise, noise_width());
  if (options.guidance != 1) {
    // Half of what conditions the low level is no condition but the decoded latent.
    throw ValueError(fmt::format("generate: guidance = {} given; 1 is accepted by two levels",
                                 options.guidance));
  }
  const int64_t n = noise.size(0), l = options_.sequence_length;
  const Tensor condition = check_condition("generate", given, n, options_.condition_dim);
  NoGrad off;
  const Tensor z = high_.generate(slice(noise, 1, 0, options_.latent_dim), condition, options);
  const Tensor steps = matmul(mixing_, reshape(slice(noise, 1, options_.latent_dim, noise_width()),
                                               {n, l, options_.action_dim}));
  const Tensor actions = low_.generate(reshape(steps, {n * l, options_.action_dim}),
                                       step_conditions(z, condition), options);
  return reshape(actions, {n, l, options_.action_dim});
}

Tensor mean_squared_jerk(const Tensor& x) {
  if (x.rank() != 3) {
    throw ShapeError(fmt::format("mean_squared_jerk: sequences {} given; (N, L, A) is accepted",
                                 x.shape().to_string()));
  }
  const int64_t l = x.size(1);
  if (l < 4) return zeros({x.size(0)}, x.dtype(), x.device());
  const auto from = [&](int64_t first) { return slice(x, 1, first, l - 3 + first); };
  const Tensor third = (from(3) - from(0)) - (from(2) - from(1)) * 3.0;
  return mean(sum(square(third), {2}), {1});
}

}  // namespace flowgrad
