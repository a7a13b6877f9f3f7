#include "flowgrad/models/time_net.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/flow.h"
#include "flowgrad/models/time_embedding.h"

namespace flowgrad {

Tensor selu(const Tensor& x) { return elu(x, 1.6732632423543772) * 1.0507009873554805; }

TimeNet::TimeNet(const char* body, const TimeNetOptions& o, Generator& generator, DType dtype)
    : action_dim_(o.action_dim),
      condition_dim_(o.condition_dim),
      time_embed_(add_module("time_embed", std::make_unique<Sequential>())),
      body_(add_module(body, std::make_unique<Sequential>())) {
  if (o.condition_dim < 0) {
    throw ValueError(
        fmt::format("TimeNet: condition_dim = {} given; at least 0 is accepted", o.condition_dim));
  }
  if (!std::isfinite(o.time_scale)) {
    throw ValueError(
        fmt::format("TimeNet: time_scale = {} given; a finite number is accepted", o.time_scale));
  }
  const int64_t inputs = o.action_dim + o.condition_dim;
  if (o.net == NetKind::mlp) {
    if (o.depth < 1)
      throw ValueError(fmt::format("TimeNet: depth = {} given; at least 1 is accepted", o.depth));
    time_embed_.add<Activation>([](const Tensor& t) { return unsqueeze(t, 1); });
    first_ = &body_.add<Linear>(inputs + 1, o.hidden, generator, dtype);
    for (int64_t i = 1; i < o.depth; ++i) {
      body_.add<Activation>(selu);
      body_.add<Linear>(o.hidden, o.hidden, generator, dtype);
    }
    body_.add<Activation>(selu);
    body_.add<Linear>(o.hidden, o.action_dim, generator, dtype);
    return;
  }
  check_embedding_width("TimeNet", o.time_dim);
  time_embed_.add<SinusoidalEmbedding>(o.time_dim, o.time_scale, dtype);
  time_embed_.add<Linear>(o.time_dim, 2 * o.time_dim, generator, dtype);
  time_embed_.add<Activation>(silu);
  time_embed_.add<Linear>(2 * o.time_dim, o.time_dim, generator, dtype);
  first_ = &body_.add<Linear>(inputs + o.time_dim, o.hidden, generator, dtype);
  body_.add<Activation>(silu);
  tail_.one = &body_.add<ResidualBlock>(o.hidden, generator, dtype);
  tail_.two = &body_.add<ResidualBlock>(o.hidden, generator, dtype);
  tail_.last = &body_.add<Linear>(o.hidden, o.action_dim, generator, dtype);
}

Tensor TimeNet::check(const char* op, const Tensor& x, const Tensor& condition) const {
  if (x.rank() != 2 || x.size(1) != action_dim_) {
    throw ShapeError(fmt::format("{}: x has shape {}; (N, {}) is accepted", op,
                                 x.shape().to_string(), action_dim_));
  }
  return check_condition(op, condition, x.size(0), condition_dim_);
}

Tensor TimeNet::evaluate(const char* op, const Tensor& x, const Tensor& t, const Tensor& given) {
  const Tensor condition = check(op, x, given);
  if (t.rank() != 1 || (t.size(0) != x.size(0) && t.size(0) != 1)) {
    throw ShapeError(fmt::format("{}: time has shape {}; ({},) or (1,) is accepted", op,
                                 t.shape().to_string(), x.size(0)));
  }
  const Tensor one = time_embed_(t);
  const Tensor embedding = expand(one, {x.size(0), one.size(1)});
  return body_(condition.defined() ? concat({x, condition, embedding}, 1)
                                   : concat({x, embedding}, 1));
}

Tensor TimeNet::weight_of_x() const {
  return contiguous(slice(first_->weight(), 1, 0, action_dim_));
}

Tensor TimeNet::rows_of_time(const Tensor& t) {
  const int64_t from = action_dim_ + condition_dim_;
  return linear(time_embed_(t), contiguous(slice(first_->weight(), 1, from, first_->in_features())),
                first_->bias());
}

Tensor TimeNet::rows_of_condition(const Tensor& condition) const {
  return linear(condition,
                contiguous(slice(first_->weight(), 1, action_dim_, action_dim_ + condition_dim_)));
}

}  // namespace flowgrad
