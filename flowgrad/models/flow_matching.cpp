#include "flowgrad/models/flow_matching.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/flow.h"

namespace flowgrad {
namespace {

/// Rows of a function of time, for all times of a solve in one batch; beyond `kMost` times row by
/// row, to bound the memory.
class TimeTable {
 public:
  static constexpr size_t kMost = 4096;
  TimeTable(std::vector<double> times, std::function<Tensor(const Tensor& t)> f, DType dtype,
            Device device)
      : times_(std::move(times)), f_(std::move(f)), dtype_(dtype), device_(device) {
    std::sort(times_.begin(), times_.end());
    times_.erase(std::unique(times_.begin(), times_.end()), times_.end());
    if (times_.size() <= kMost) rows_ = unbind(of(times_));
  }
  Tensor operator()(double t) const {
    if (rows_.empty()) return select(of({t}), 0, 0);
    // The nearest time: a compiler may round t0 + i h + c h differently in two places.
    auto i =
        static_cast<size_t>(std::lower_bound(times_.begin(), times_.end(), t) - times_.begin());
    if (i == times_.size() || (i > 0 && t - times_[i - 1] < times_[i] - t)) --i;
    return rows_[i];
  }

 private:
  Tensor of(const std::vector<double>& times) const {
    return f_(Tensor::from(times, {static_cast<int64_t>(times.size())}, dtype_, device_));
  }
  std::vector<double> times_;
  std::function<Tensor(const Tensor&)> f_;
  DType dtype_;
  Device device_;
  std::vector<Tensor> rows_;
};

void check_draw(const char* name, const Tensor& t, const Shape& shape) {
  if (t.shape() == shape) return;
  throw ShapeError(fmt::format("loss: {} of shape {} given; {} is accepted", name,
                               t.shape().to_string(), shape.to_string()));
}

}  // namespace

FlowMatching::FlowMatching(const FlowMatchingOptions& o, Generator& generator, DType dtype)
    : options_(o),
      time_embed_(add_module("time_embed", std::make_unique<Sequential>())),
      velocity_net_(add_module("velocity_net", std::make_unique<Sequential>())) {
  check_embedding_width("FlowMatching", o.time_dim);
  time_embed_.add<Activation>([width = o.time_dim, scale = o.time_scale](const Tensor& t) {
    return sinusoidal_embedding(t, width, scale);
  });
  time_embed_.add<Linear>(o.time_dim, 2 * o.time_dim, generator, dtype);
  time_embed_.add<Activation>(silu);
  time_embed_.add<Linear>(2 * o.time_dim, o.time_dim, generator, dtype);
  first_ = &velocity_net_.add<Linear>(o.action_dim + o.condition_dim + o.time_dim, o.hidden,
                                      generator, dtype);
  velocity_net_.add<Activation>(silu);
  tail_.one = &velocity_net_.add<ResidualBlock>(o.hidden, generator, dtype);
  tail_.two = &velocity_net_.add<ResidualBlock>(o.hidden, generator, dtype);
  tail_.last = &velocity_net_.add<Linear>(o.hidden, o.action_dim, generator, dtype);
}

Tensor FlowMatching::check(const char* op, const Tensor& x, const Tensor& condition) const {
  if (x.rank() != 2 || x.size(1) != options_.action_dim) {
    throw ShapeError(fmt::format("{}: x has shape {}; (N, {}) is accepted", op,
                                 x.shape().to_string(), options_.action_dim));
  }
  return check_condition(op, condition, x.size(0), options_.condition_dim);
}

Tensor FlowMatching::velocity(const Tensor& x, const Tensor& t, const Tensor& given) {
  const Tensor condition = check("velocity", x, given);
  if (t.rank() != 1 || t.size(0) != x.size(0)) {
    throw ShapeError(fmt::format("velocity: time has shape {}; ({},) is accepted",
                                 t.shape().to_string(), x.size(0)));
  }
  const Tensor embedding = time_embed_(t);
  return velocity_net_(condition.defined() ? concat({x, condition, embedding}, 1)
                                           : concat({x, embedding}, 1));
}

Tensor FlowMatching::draw_times(int64_t n, Generator& generator, DType dtype, Device device) const {
  const Tensor u = rand({n}, generator, dtype, 0, 1, device);
  return options_.time_law == TimeLaw::uniform ? u : (1.0 - pow(u, 2.0 / 3)) * 0.999;
}

Tensor FlowMatching::loss(const Tensor& x1, const Tensor& condition, Generator& generator,
                          const Tensor& given_x0, const Tensor& given_t) {
  check("loss", x1, condition);
  const Tensor x0 =
      given_x0.defined() ? given_x0 : randn(x1.shape(), generator, x1.dtype(), x1.device());
  const Tensor t =
      given_t.defined() ? given_t : draw_times(x1.size(0), generator, x1.dtype(), x1.device());
  check_draw("noise", x0, x1.shape());
  check_draw("time", t, {x1.size(0)});
  const Tensor target = x1 - x0;
  const Tensor xt = x0 + unsqueeze(t, 1) * target;
  return mse_loss(velocity(xt, t, condition), target);
}

Tensor FlowMatching::generate(const Tensor& noise, const Tensor& given,
                              const GenerateOptions& options) {
  const Tensor condition = check("generate", noise, given);
  if (options.guidance != 1 && !condition.defined()) {
    throw ValueError(
        fmt::format("generate: guidance = {} given to a model without condition; 1 is accepted",
                    options.guidance));
  }
  NoGrad off;
  // The first layer reads x, condition and embedded time. Only x changes from one evaluation to the
  // next by more than a time known beforehand, so the other columns are multiplied once.
  const int64_t a = options_.action_dim;
  const int64_t c = options_.condition_dim;
  const auto columns = [&](int64_t from, int64_t to) {
    return contiguous(slice(first_->weight(), 1, from, to));
  };
  const Tensor w_x = columns(0, a);
  const Tensor w_time = columns(a + c, a + c + options_.time_dim);
  const auto of_time = [&](const Tensor& t) {
    return linear(time_embed_(t), w_time, first_->bias());
  };
  const std::vector<double> times = field_times(0, 1, options.solver);
  const Tensor from_condition =
      condition.defined() ? linear(condition, columns(a, a + c)) : Tensor();
  const auto stages = sampler_stages(solver_stages(0, 1, options.solver));
  if (!stages.empty() && times.size() <= TimeTable::kMost &&
      can_fuse(tail_, noise, from_condition)) {
    const Tensor rows = of_time(
        Tensor::from(times, {static_cast<int64_t>(times.size())}, noise.dtype(), noise.device()));
    return sample_net(folded(tail_, w_x, rows, from_condition, false), stages, noise,
                      {.guidance = options.guidance});
  }
  const TimeTable rows(times, of_time, noise.dtype(), noise.device());
  const auto field = [&](double t, const Tensor& x) {
    const Tensor in = linear(x, w_x, rows(t));
    if (!condition.defined()) return velocity_net_.forward_from(1, in);
    const Tensor with = velocity_net_.forward_from(1, in + from_condition);
    if (options.guidance == 1) return with;
    const Tensor without = velocity_net_.forward_from(1, in);
    return without + (with - without) * options.guidance;
  };
  return odeint(field, noise, 0, 1, options.solver);
}

Tensor drop_condition(const Tensor& condition, double p, Generator& generator) {
  return condition *
         bernoulli({condition.size(0), 1}, 1 - p, generator, condition.dtype(), condition.device());
}

}  // namespace flowgrad
