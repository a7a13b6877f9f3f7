#include "flowgrad/models/flow_matching.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

FlowMatching::FlowMatching(const FlowMatchingOptions& o, Generator& generator, DType dtype)
    : options_(o),
      time_embed_(add_module("time_embed", std::make_unique<Sequential>())),
      velocity_net_(add_module("velocity_net", std::make_unique<Sequential>())) {
  time_embed_.add<Activation>([width = o.time_dim, scale = o.time_scale](const Tensor& t) {
    return sinusoidal_embedding(t, width, scale);
  });
  time_embed_.add<Linear>(o.time_dim, 2 * o.time_dim, generator, dtype);
  time_embed_.add<Activation>(silu);
  time_embed_.add<Linear>(2 * o.time_dim, o.time_dim, generator, dtype);
  velocity_net_.add<Linear>(o.action_dim + o.condition_dim + o.time_dim, o.hidden, generator, dtype);
  velocity_net_.add<Activation>(silu);
  velocity_net_.add<ResidualBlock>(o.hidden, generator, dtype);
  velocity_net_.add<ResidualBlock>(o.hidden, generator, dtype);
  velocity_net_.add<Linear>(o.hidden, o.action_dim, generator, dtype);
}

void FlowMatching::check(const char* op, const Tensor& x, const Tensor& condition) const {
  if (x.rank() != 2 || x.size(1) != options_.action_dim) {
    throw ShapeError(fmt::format("{}: x has shape {}; (N, {}) is accepted", op, x.shape().to_string(),
                                 options_.action_dim));
  }
  const int64_t width = options_.condition_dim;
  const bool fits = condition.defined()
                        ? condition.rank() == 2 && condition.size(0) == x.size(0) && condition.size(1) == width
                        : width == 0;
  if (!fits) {
    throw ShapeError(fmt::format("{}: condition {} given for x {}; ({}, {}) is accepted", op,
                                 condition.defined() ? condition.shape().to_string() : "absent",
                                 x.shape().to_string(), x.size(0), width));
  }
}

Tensor FlowMatching::velocity_at(const Tensor& x, const Tensor& embedding, const Tensor& condition) {
  return velocity_net_(options_.condition_dim > 0 ? concat({x, condition, embedding}, 1)
                                                  : concat({x, embedding}, 1));
}

Tensor FlowMatching::velocity(const Tensor& x, const Tensor& t, const Tensor& condition) {
  check("velocity", x, condition);
  if (t.rank() != 1 || t.size(0) != x.size(0)) {
    throw ShapeError(fmt::format("velocity: time has shape {}; ({},) is accepted", t.shape().to_string(), x.size(0)));
  }
  return velocity_at(x, time_embed_(t), condition);
}

Tensor FlowMatching::draw_times(int64_t n, Generator& generator, DType dtype) const {
  const Tensor u = rand({n}, generator, dtype);
  return options_.time_law == TimeLaw::uniform ? u : (1.0 - pow(u, 2.0 / 3)) * 0.999;
}

Tensor FlowMatching::loss(const Tensor& x1, const Tensor& condition, Generator& generator, const Tensor& given_x0,
                          const Tensor& given_t) {
  check("loss", x1, condition);
  const Tensor x0 = given_x0.defined() ? given_x0 : randn(x1.shape(), generator, x1.dtype());
  const Tensor t = given_t.defined() ? given_t : draw_times(x1.size(0), generator, x1.dtype());
  const Tensor target = x1 - x0;
  const Tensor xt = x0 + unsqueeze(t, 1) * target;
  return mse_loss(velocity(xt, t, condition), target);
}

Tensor FlowMatching::generate(const Tensor& noise, const Tensor& condition, const GenerateOptions& options) {
  check("generate", noise, condition);
  NoGrad off;
  const int64_t n = noise.size(0);
  const bool guided = options.guidance != 1 && options_.condition_dim > 0;
  const Tensor none = guided ? zeros_like(condition) : Tensor();
  const auto field = [&](double t, const Tensor& x) {
    // One row of the time net serves the batch.
    const Tensor one = time_embed_(full({1}, t, x.dtype()));
    const Tensor embedding = expand(one, {n, one.size(1)});
    const Tensor with = velocity_at(x, embedding, condition);
    if (!guided) return with;
    const Tensor without = velocity_at(x, embedding, none);
    return without + (with - without) * options.guidance;
  };
  return odeint(field, noise, 0, 1, options.solver);
}

Tensor drop_condition(const Tensor& condition, double p, Generator& generator) {
  return condition * bernoulli({condition.size(0), 1}, 1 - p, generator, condition.dtype());
}

}  // namespace flowgrad
