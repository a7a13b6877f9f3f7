#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/train.h"
#include "flowgrad/models/checks.h"
#include "flowgrad/models/metrics.h"
#include "flowgrad/plot/chart.h"

// What a model of the plane has learned, in pictures: its density, its field with paths through it,
// and the quality of samples against the number of steps.
namespace flowgrad::cli {
namespace {

/// Half the side of a square around the origin that holds the rows.
double reach_of(const Tensor& rows) { return 1.15 * max(abs(rows)).item() + 0.2; }

std::string density_picture(Flow& flow, double reach) {
  constexpr int64_t kPoints = 181;
  const GridOptions grid{.half_width = reach, .points = kPoints};
  const Tensor density = to(exp(grid_log_prob(flow, grid)), Device::cpu());
  return plot::HeatMap{.panel_size = 320,
                       .rows = kPoints,
                       .columns = kPoints,
                       .x = {.lo = -reach, .hi = reach},
                       .y = {.lo = -reach, .hi = reach},
                       // The grid has its first coordinate on the rows, a picture on the columns.
                       .panels = {{.title = "density of the model",
                                   .values = transpose(density).to_vector<double>()}}}
      .svg();
}

Tensor velocity_at(Model& model, const Tensor& x, double t) {
  Generator unused(0);
  QuantityInputs in{.input = x, .time = full({x.size(0)}, t, x.dtype(), x.device())};
  return model.evaluate("velocity", in, {}, unused);
}

plot::PointGroup arrows(Model& model, const Tensor& like, double t, double reach) {
  constexpr int64_t kSide = 17;
  const Tensor at =
      grid_points({.half_width = reach * 0.92, .points = kSide}, like.dtype(), like.device());
  const Tensor v = to(velocity_at(model, at, t), Device::cpu());
  const Tensor host = to(at, Device::cpu());
  // The longest arrow spans one cell of the grid.
  const double longest = std::max(max(sqrt(sum(square(v), {1}))).item(), 1e-12);
  const double scale = 2 * reach / kSide / longest;
  plot::PointGroup group{.name = "velocity", .mark = plot::Mark::arrows};
  group.x = select(host, 1, 0).to_vector<double>();
  group.y = select(host, 1, 1).to_vector<double>();
  group.dx = (select(v, 1, 0) * scale).to_vector<double>();
  group.dy = (select(v, 1, 1) * scale).to_vector<double>();
  return group;
}

/// Paths of a few draws from noise to data.
plot::PointGroup paths(Model& model, const Tensor& like, uint64_t seed) {
  constexpr int64_t kPaths = 40, kSteps = 60;
  Generator generator = generator_of(seed, Stream::validation);
  std::vector<Tensor> at{randn({kPaths, 2}, generator, like.dtype(), like.device())};
  const auto field = [&](double t, const Tensor& x) { return velocity_at(model, x, t); };
  for (int64_t i = 0; i < kSteps; ++i) {
    at.push_back(odeint(field, at.back(), static_cast<double>(i) / kSteps,
                        static_cast<double>(i + 1) / kSteps, {.solver = "midpoint", .n_steps = 1}));
  }
  const Tensor all = to(stack(at, 1), Device::cpu());  // (paths, steps + 1, 2)
  plot::PointGroup group{.name = "paths", .mark = plot::Mark::path};
  for (int64_t p = 0; p < kPaths; ++p) {
    const auto rows = select(all, 0, p).to_vector<double>();
    for (size_t i = 0; i < rows.size(); i += 2) {
      group.x.push_back(rows[i]);
      group.y.push_back(rows[i + 1]);
    }
    group.x.push_back(std::nan(""));
    group.y.push_back(std::nan(""));
  }
  return group;
}

std::string field_picture(Model& model, const Tensor& real, double reach, uint64_t seed) {
  plot::Scatter picture{.panel_size = 270,
                        .columns = 4,
                        .x = {.lo = -reach, .hi = reach},
                        .y = {.lo = -reach, .hi = reach},
                        .radius = 1.1,
                        .opacity = 0.7};
  for (const double t : {0.1, 0.5, 0.9}) {
    picture.panels.push_back(
        {.title = fmt::format("field at t = {}", t), .groups = {arrows(model, real, t, reach)}});
  }
  const Tensor shown = slice(real, 0, 0, std::min<int64_t>(real.size(0), 500));
  const plot::PointGroup data{.name = "data",
                              .x = select(shown, 1, 0).to_vector<double>(),
                              .y = select(shown, 1, 1).to_vector<double>(),
                              .color = "#a1a1aa"};
  picture.panels.push_back(
      {.title = "from noise to data", .groups = {data, paths(model, real, seed)}});
  return picture.svg();
}

std::string quality_picture(Model& model, const Tensor& real, uint64_t seed) {
  const int64_t n = std::min<int64_t>(real.size(0) / 2, 1000);
  const Tensor wanted = slice(real, 0, 0, n);
  plot::Series series{.name = "samples against data", .markers = true};
  for (const int64_t steps : {1, 2, 4, 8, 16, 32, 64}) {
    Generator generator = generator_of(seed, Stream::validation);
    series.x.push_back(static_cast<double>(steps));
    series.y.push_back(wasserstein2(
        model.evaluate("sample", {}, {.n_steps = steps, .solver = "euler", .n_samples = n},
                       generator),
        wanted));
  }
  const double same = wasserstein2(slice(real, 0, n, 2 * n), wanted);
  plot::LineChart chart{
      .title = "Sample quality against function evaluations",
      .x = {.label = "evaluations of the field", .scale = plot::Scale::log},
      .y = {.label = "Wasserstein-2"},
      .series = {series},
      .horizontals = {{.value = same, .label = fmt::format("data against data {:.3f}", same)}}};
  return chart.svg();
}

}  // namespace

std::vector<plot::Figure> model_pictures(Model& model, const Tensor& real, uint64_t seed) {
  std::vector<plot::Figure> out;
  NoGrad off;
  const double reach = reach_of(real);
  if (auto* flow = dynamic_cast<Flow*>(&model.module())) {
    out.push_back({.svg = density_picture(*flow, reach), .caption = "exp(log p) on a grid."});
  }
  if (model.has("velocity")) {
    out.push_back({.svg = field_picture(model, real, reach, seed),
                   .caption = "Arrows are scaled for each time; paths by 60 midpoint steps."});
    if (real.size(0) >= 4) {
      out.push_back({.svg = quality_picture(model, real, seed),
                     .caption = "Euler steps; samples against held-out rows, at most 1,000."});
    }
  }
  return out;
}

}  // namespace flowgrad::cli
