#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/demo.h"
#include "flowgrad/models/checks.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/tasks/toy_densities.h"

namespace flowgrad::cli {
namespace {

constexpr const char* kSet = "moons";

/// `n` rows of the data on a device.
Tensor rows(int64_t n, Generator& generator, Device device, DType dtype = DType::float32) {
  return to(toy::sample(kSet, n, generator, dtype), device);
}

/// Mean of log p over rows, in batches.
SampleMean mean_log_prob(Flow& flow, const Tensor& x) {
  NoGrad off;
  std::vector<double> values;
  for (int64_t at = 0; at < x.size(0); at += 10000) {
    const auto part = flow.log_prob(slice(x, 0, at, std::min<int64_t>(at + 10000, x.size(0))))
                          .to_vector<double>();
    values.insert(values.end(), part.begin(), part.end());
  }
  return sample_mean(values);
}

}  // namespace

DensityResult demo_density(const DemoSettings& settings, const DemoBudget& budget) {
  DensityResult r;
  r.floor = toy::entropy_floor(kSet);
  Generator generator = demo_generator(settings, DemoStream::density);
  r.model = make_model("realnvp", {{"hidden", std::to_string(budget.density_hidden)}}, generator);
  auto& flow = dynamic_cast<Flow&>(r.model->module());
  const Device device = settings.device;
  flow.to(device);
  Generator test_generator = demo_generator(settings, DemoStream::density_test);
  const Tensor validation = rows(10000, test_generator, device);

  r.training.name = "moons";
  r.training.title =
      fmt::format("1/4  RealNVP on two moons by likelihood (floor {:.3f} nats)", r.floor);
  r.training.batch = budget.density_batch;
  r.training.steps = budget.density_steps;
  r.training.learning_rate = budget.density_rate;
  r.training.ema_decay = 0.99;
  r.training.validate_every = std::max<int64_t>(1, budget.density_steps / 20);
  run_training(
      r.training, flow, generator,
      [&](int64_t, int64_t) {
        return -mean(flow.log_prob(rows(budget.density_batch, generator, device)));
      },
      [&] { return -mean_log_prob(flow, validation).value; }, settings);

  // Judged in double, so that the checks see the mathematics and not the rounding.
  Generator unused(0);
  const auto exact_model = make_model("realnvp", r.model->config(), unused, DType::float64);
  exact_model->module().load_state_dict(r.model->module().state_dict());
  exact_model->module().to(device);
  auto& exact = dynamic_cast<Flow&>(exact_model->module());
  const Tensor test = rows(budget.test_points, test_generator, device, DType::float64);
  const SampleMean log_prob = mean_log_prob(exact, test);
  r.nll = -log_prob.value;
  r.standard_error = log_prob.error;
  r.test_points = budget.test_points;
  r.reconstruction = reconstruction_error(exact, slice(test, 0, 0, 10000)).max;
  r.log_det = log_det_error(exact, randn({1000, 2}, test_generator, DType::float64, device)).max;
  const GridOptions grid;
  r.grid = to(grid_log_prob(flow, grid), Device::cpu());
  const double step = 2 * grid.half_width / static_cast<double>(grid.points - 1);
  // The density vanishes at the edge, where the trapezoidal rule would differ from this sum.
  for (double v : r.grid.to_vector<double>()) r.integral += std::exp(v) * step * step;

  constexpr int64_t kShown = 4000;
  r.data = to(slice(validation, 0, 0, kShown), Device::cpu());
  NoGrad off;
  r.samples = to(flow.sample(kShown, test_generator), Device::cpu());
  return r;
}

PathResult demo_path(const DemoSettings& settings, const DemoBudget& budget) {
  PathResult r;
  Generator generator = demo_generator(settings, DemoStream::path);
  r.model = make_model("flow_matching",
                       {{"action_dim", "2"},
                        {"time_dim", "32"},
                        {"time_scale", fmt::format("{}", budget.path_time_scale)},
                        {"hidden", std::to_string(budget.path_hidden)}},
                       generator);
  auto& model = dynamic_cast<FlowMatching&>(r.model->module());
  const Device device = settings.device;
  model.to(device);
  constexpr int64_t kBatch = 512;
  r.training.name = "moons_path";
  r.training.title = "2/4  flow matching on two moons";
  r.training.batch = kBatch;
  r.training.steps = budget.path_steps;
  r.training.learning_rate = budget.path_rate;
  r.training.ema_decay = 0.99;
  run_training(
      r.training, model, generator,
      [&](int64_t, int64_t) { return model.loss(rows(kBatch, generator, device), {}, generator); },
      {}, settings);

  NoGrad off;
  r.times = {0, 0.2, 0.4, 0.6, 0.8, 1};
  const auto field = [&](double t, const Tensor& x) {
    return model.velocity(x, full({x.size(0)}, t, x.dtype(), device));
  };
  Tensor points = randn({2000, 2}, generator, DType::float32, device);
  r.points.push_back(to(points, Device::cpu()));
  for (size_t i = 1; i < r.times.size(); ++i) {
    points =
        odeint(field, points, r.times[i - 1], r.times[i], {.solver = "midpoint", .n_steps = 10});
    r.points.push_back(to(points, Device::cpu()));
  }
  return r;
}

}  // namespace flowgrad::cli
