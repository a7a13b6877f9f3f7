#include "flowgrad/models/flow_matching.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

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

}  // namespace

void check_draw(const char* name, const Tensor& t, const Shape& shape) {
  if (t.shape() == shape) return;
  throw ShapeError(fmt::format("loss: {} of shape {} given; {} is accepted", name,
                               t.shape().to_string(), shape.to_string()));
}

Tensor state_of(const Module& model, const Tensor& noise, const Tensor& condition) {
  const DType dtype = promote(noise.dtype(), model.dtype());
  return cast(noise, condition.defined() ? promote(dtype, condition.dtype()) : dtype);
}

void check_guidance(const GenerateOptions& options, const Tensor& condition) {
  if (options.guidance == 1 || condition.defined()) return;
  throw ValueError(
      fmt::format("generate: guidance = {} given to a model without condition; 1 is accepted",
                  options.guidance));
}

const std::vector<std::string>& time_law_names() {
  static const std::vector<std::string> names = {"uniform", "beta"};
  return names;
}

FlowMatching::FlowMatching(const FlowMatchingOptions& o, Generator& generator, DType dtype)
    : TimeNet("velocity_net", o.network(), generator, dtype), options_(o) {
  if (!(o.sigma >= 0) || !std::isfinite(o.sigma)) {
    throw ValueError(
        fmt::format("FlowMatching: sigma = {} given; at least 0 is accepted", o.sigma));
  }
}

Tensor FlowMatching::draw_times(int64_t n, Generator& generator, DType dtype, Device device) const {
  const Tensor u = rand({n}, generator, dtype, 0, 1, device);
  return options_.time_law == TimeLaw::uniform ? u : (1.0 - pow(u, 2.0 / 3)) * 0.999;
}

Tensor FlowMatching::loss(const Tensor& x1, const Tensor& condition, Generator& generator,
                          const Tensor& x0, const Tensor& t) {
  const Matching m = match(x1, condition, generator, x0, t);
  return mse_loss(m.velocity, m.target);
}

Matching FlowMatching::match(const Tensor& x1, const Tensor& condition, Generator& generator,
                             const Tensor& given_x0, const Tensor& given_t) {
  check("loss", x1, condition);
  Tensor x0 = given_x0.defined() ? given_x0 : randn(x1.shape(), generator, x1.dtype(), x1.device());
  const Tensor t =
      given_t.defined() ? given_t : draw_times(x1.size(0), generator, x1.dtype(), x1.device());
  check_draw("noise", x0, x1.shape());
  check_draw("time", t, {x1.size(0)});
  if (!given_x0.defined()) x0 = couple(x0, x1, options_.coupling, generator);
  const Tensor target = x1 - x0;
  Tensor xt = x0 + unsqueeze(t, 1) * target;
  if (options_.sigma > 0)
    xt = xt + randn(x1.shape(), generator, x1.dtype(), x1.device()) * options_.sigma;
  return {xt, t, velocity(xt, t, condition), target};
}

Tensor FlowMatching::generate(const Tensor& given_noise, const Tensor& given,
                              const GenerateOptions& options) {
  const Tensor condition = check("generate", given_noise, given);
  check_guidance(options, condition);
  NoGrad off;
  const Tensor noise = state_of(*this, given_noise, condition);
  // The first layer reads x, condition and embedded time. Only x changes from one evaluation to the
  // next by more than a time known beforehand, so the other columns are multiplied once.
  const Tensor w_x = weight_of_x();
  const auto of_time = [&](const Tensor& t) { return rows_of_time(t); };
  const std::vector<double> times = field_times(0, 1, options.solver);
  const Tensor from_condition = condition.defined() ? rows_of_condition(condition) : Tensor();
  const auto stages = sampler_stages(solver_stages(0, 1, options.solver));
  if (tail() && !stages.empty() && times.size() <= TimeTable::kMost &&
      can_fuse(*tail(), noise, from_condition)) {
    const Tensor rows = of_time(
        Tensor::from(times, {static_cast<int64_t>(times.size())}, noise.dtype(), noise.device()));
    return sample_net(folded_.with(*tail(), w_x, rows, from_condition, false), stages, noise,
                      {.guidance = options.guidance});
  }
  const TimeTable rows(times, of_time, noise.dtype(), noise.device());
  const auto field = [&](double t, const Tensor& x) {
    const Tensor in = linear(x, w_x, rows(t));
    if (!condition.defined()) return after_first(in);
    const Tensor with = after_first(in + from_condition);
    if (options.guidance == 1) return with;
    const Tensor without = after_first(in);
    return without + (with - without) * options.guidance;
  };
  return odeint(field, noise, 0, 1, options.solver);
}

VelocityField velocity_field(FlowMatching& model, const Tensor& condition) {
  return [&model, condition](double t, const Tensor& x) {
    return model.velocity(x, full({1}, t, x.dtype(), x.device()), condition);
  };
}

Tensor drop_condition(const Tensor& condition, double p, Generator& generator) {
  return condition *
         bernoulli({condition.size(0), 1}, 1 - p, generator, condition.dtype(), condition.device());
}

}  // namespace flowgrad
