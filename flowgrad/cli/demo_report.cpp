#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/demo.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/plot/chart.h"
#include "flowgrad/plot/image.h"

namespace flowgrad::cli {
namespace {

using namespace plot;

// What the pictures of the moons show: [-4, 4] x [-3, 3].
const AxisOptions kX{.lo = -4, .hi = 4};
const AxisOptions kY{.lo = -3, .hi = 3};

std::vector<double> column(const Tensor& x, int64_t i) {
  return select(x, 1, i).to_vector<double>();
}

PointGroup points(const Tensor& x, size_t color) {
  return {.x = column(x, 0), .y = column(x, 1), .color = to_hex(category_color(color))};
}

/// Loss over the steps, and the validation where there was one.
std::vector<Series> curves(const DemoTraining& t, const std::string& loss,
                           const std::string& validation) {
  Series train{.name = loss, .color = to_hex(category_color(0)), .smoothing = 0.5};
  Series test{.name = validation, .color = to_hex(category_color(1)), .markers = true};
  for (const MetricsRow& row : t.rows) {
    train.x.push_back(static_cast<double>(row.step));
    train.y.push_back(row.loss);
    if (std::isnan(row.validation)) continue;
    test.x.push_back(static_cast<double>(row.step));
    test.y.push_back(row.validation);
  }
  if (test.x.empty()) return {train};
  return {train, test};
}

std::string density_curve(const DensityResult& d) {
  return LineChart{
      .title = "RealNVP on two moons: learning curve",
      .subtitle = "mean of −log p, in nats; nothing can lie below the floor on fresh points",
      .height = 330,
      .x = {.label = "step"},
      .y = {.label = "−log p", .unit = "nats", .lo = d.floor - 0.15, .hi = d.floor + 0.85},
      .series = curves(d.training, "training batches", "10,000 held-out points"),
      .horizontals = {{.value = d.floor, .label = fmt::format("entropy floor {:.3f}", d.floor)}}}
      .svg();
}

/// The learned density where the pictures look; row 0 lies at the lower end of y.
struct DensityArray {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<double> values;
};

/// Every `stride`-th value of the grid, whose first axis is x.
DensityArray shown_density(const DensityResult& d, size_t stride) {
  const auto log_p = d.grid.to_vector<double>();
  const auto n = static_cast<size_t>(d.grid.size(0));
  const auto index = [&](double at) {
    return static_cast<size_t>(std::lround((at + 8) / 16 * static_cast<double>(n - 1)));
  };
  DensityArray out;
  for (size_t j = index(*kY.lo); j <= index(*kY.hi); j += stride, ++out.rows) {
    out.columns = 0;
    for (size_t i = index(*kX.lo); i <= index(*kX.hi); i += stride, ++out.columns) {
      out.values.push_back(std::exp(log_p[i * n + j]));
    }
  }
  return out;
}

std::string density_map(const DensityResult& d) {
  DensityArray array = shown_density(d, 2);
  return HeatMap{.panel_size = 240,
                 .rows = array.rows,
                 .columns = array.columns,
                 .x = kX,
                 .y = kY,
                 .value = {.lo = 0},
                 .panels = {{.title = "learned density", .values = std::move(array.values)}}}
      .svg();
}

std::string density_points(const DensityResult& d) {
  return Scatter{.panel_size = 240,
                 .columns = 2,
                 .x = kX,
                 .y = kY,
                 .radius = 1.0,
                 .opacity = 0.5,
                 .panels = {{.title = "data", .groups = {points(d.data, 0)}},
                            {.title = "samples of the model", .groups = {points(d.samples, 1)}}}}
      .svg();
}

std::string path_points(const PathResult& p) {
  Scatter chart{.panel_size = 270, .columns = 3, .x = kX, .y = kY, .radius = 1.0, .opacity = 0.5};
  for (size_t i = 0; i < p.times.size(); ++i) {
    const char* end = i == 0 ? " (noise)" : i + 1 == p.times.size() ? " (samples)" : "";
    chart.panels.push_back({.title = fmt::format("t = {:.1f}{}", p.times[i], end),
                            .groups = {points(p.points[i], 2)}});
  }
  return chart.svg();
}

/// Row i of (n, 784) in [-1, 1].
Image tile(const Tensor& images, int64_t i) {
  return Image::from_gray(select(images, 0, i).to_vector<float>(), ImageSet::kSide, ImageSet::kSide,
                          -1, 1);
}

std::vector<std::string> class_names() {
  return {FashionMnist::class_names().begin(), FashionMnist::class_names().end()};
}

Image garment_grid(const GarmentsResult& g, const FashionMnist& data) {
  constexpr int64_t kGenerated = 10, kReal = 5;
  const int64_t each = g.images.size(0) / FashionMnist::kClasses;
  std::vector<Image> generated, real;
  int64_t next = 0;
  for (int64_t c = 0; c < FashionMnist::kClasses; ++c) {
    for (int64_t i = 0; i < kGenerated; ++i) generated.push_back(tile(g.images, c * each + i));
    next = 0;
    for (int64_t shown = 0; shown < kReal; ++next) {
      if (data.test.label(next) != c) continue;
      const std::vector<int64_t> index{next};
      real.push_back(tile(data.test.images(index), 0));
      ++shown;
    }
  }
  const Image left = image_grid(
      generated,
      {.columns = kGenerated, .scale = 2, .row_labels = class_names(), .title = "generated"});
  const Image right = image_grid(real, {.columns = kReal, .scale = 2, .title = "real (test set)"});
  constexpr int64_t kGap = 28;
  Image both(left.width() + kGap + right.width(), std::max(left.height(), right.height()), 3);
  both.paste(left.to_rgb(), 0, 0);
  both.paste(right.to_rgb(), left.width() + kGap, 0);
  return both;
}

Image garment_strip(const GarmentsResult& g) {
  std::vector<Image> tiles;
  std::vector<std::string> titles;
  for (double t : g.times) titles.push_back(fmt::format("{:.1f}", t));
  for (int64_t c = 0; c < FashionMnist::kClasses; ++c) {
    for (const Tensor& images : g.path) tiles.push_back(tile(images, c));
  }
  return image_grid(tiles, {.columns = static_cast<int>(g.times.size()),
                            .scale = 2,
                            .row_labels = class_names(),
                            .column_titles = std::move(titles)});
}

std::string garment_curve(const GarmentsResult& g) {
  std::vector<Series> series = curves(g.training, "matching loss", "");
  // The first steps, far above the rest, would flatten the curve.
  double highest = 0;
  for (size_t i = series[0].y.size() / 20; i < series[0].y.size(); ++i)
    highest = std::max(highest, series[0].y[i]);
  return LineChart{.title = "Flow matching on Fashion-MNIST: learning curve",
                   .subtitle = "mean squared error of the velocity, per component",
                   .height = 300,
                   .x = {.label = "step"},
                   .y = {.label = "loss", .hi = highest * 1.05},
                   .series = std::move(series)}
      .svg();
}

std::string agreement_bars(const GarmentsResult& g) {
  return BarChart{.title = "How often the classifier sees the intended class",
                  .height = 330,
                  .y = {.label = "share of images", .lo = 0, .hi = 1},
                  .categories = class_names(),
                  .series = {{.name = "generated", .values = g.agreement_by_class},
                             {.name = "real (test set)", .values = g.accuracy_by_class}},
                  .value_labels = false}
      .svg();
}

Table trainings(const DemoResults& r) {
  Table out{
      .columns = {"training", "parameters", "steps", "batch", "peak learning rate", "seconds"}};
  const auto add = [&](const char* name, const DemoTraining& t) {
    out.rows.push_back({name,
                        fmt::format("{}", pretty_number(static_cast<double>(t.parameters), 9)),
                        std::to_string(t.steps), std::to_string(t.batch),
                        fmt::format("{:g}", t.learning_rate), fmt::format("{:.1f}", t.seconds)});
  };
  add("RealNVP, two moons", r.density.training);
  add("flow matching, two moons", r.path.training);
  add("classifier, Fashion-MNIST", r.garments.classifier_training);
  add("flow matching, Fashion-MNIST", r.garments.training);
  return out;
}

std::string metrics(const DemoResults& r) {
  std::string out;
  for (const DemoTraining* t : {&r.density.training, &r.path.training,
                                &r.garments.classifier_training, &r.garments.training}) {
    for (const MetricsRow& row : t->rows) {
      out += fmt::format("{{\"part\":\"{}\",{}\n", t->name, to_json(row).substr(1));
    }
  }
  return out;
}

}  // namespace

std::vector<Check> demo_checks(const DemoResults& r, const DemoBudget& b) {
  const DensityResult& d = r.density;
  const GarmentsResult& g = r.garments;
  return {
      {.name = "RealNVP: test −log p above the entropy floor",
       .measured = d.nll - d.floor,
       .demand = Check::Demand::between,
       .bound = -3 * d.standard_error,
       .upper = b.largest_gap,
       .unit = "nats",
       .note = fmt::format(
           "−log p = {:.4f} ± {:.4f} on {} fresh points, floor {:.4f}; three standard errors below "
           "the floor would be an error in the log-determinant",
           d.nll, d.standard_error, pretty_number(static_cast<double>(d.test_points), 9), d.floor)},
      {.name = "RealNVP: reconstruction error, data to noise and back",
       .measured = d.reconstruction,
       .bound = 1e-12,
       .note = "largest |x' − x| / (1 + |x|) over 10,000 test points, in double"},
      {.name = "RealNVP: log-determinant against the autodiff Jacobian",
       .measured = d.log_det,
       .bound = 1e-9,
       .note = "largest error over 1,000 points, in double; the Jacobian comes from the tape"},
      {.name = "RealNVP: integral of the density, distance from 1",
       .measured = std::abs(d.integral - 1),
       .bound = 1e-3,
       .note = "801 × 801 points on [−8, 8]²"},
      {.name = "classifier: accuracy on real test images",
       .measured = g.accuracy,
       .demand = Check::Demand::at_least,
       .bound = b.least_accuracy,
       .note = "it judges the generated images and has never seen one"},
      {.name = "garments: the classifier sees the intended class",
       .measured = g.agreement,
       .demand = Check::Demand::at_least,
       .bound = b.least_agreement,
       .note = fmt::format("share of {} generated images",
                           pretty_number(static_cast<double>(g.images.size(0)), 9))},
      {.name = "garments: variety within a class",
       .measured = g.variety,
       .demand = Check::Demand::at_least,
       .bound = b.least_variety,
       .note = "standard deviation of a pixel within its class, generated over real; a model that "
               "draws one picture a "
               "class has 0"},
  };
}

void write_demo_report(const DemoSettings& settings, const DemoBudget& budget, const DemoResults& r,
                       const FashionMnist& data) {
  const DensityResult& d = r.density;
  const GarmentsResult& g = r.garments;
  const auto in_run = [&](const char* name) { return settings.run + "/" + name; };
  const auto drawing = [&](const char* name, std::string svg) {
    write_file_atomic(in_run(name), svg);
    return svg;
  };
  const auto picture = [&](const char* name, Image image) {
    write_png(in_run(name), image);
    return image;
  };

  Report report(
      "flowgrad demo",
      fmt::format("Flow models trained from nothing in {:.0f} seconds{}, and what they learned.",
                  r.seconds, settings.quick ? " (the quick version)" : ""));
  report.heading("Checks");
  report.paragraph(
      "Every figure below was measured in this run. Demands were set beforehand; `flowgrad demo` "
      "ends with exit code 1 "
      "when one is not met.");
  if (settings.quick) {
    report.note(
        "This is the quick version: small networks, few steps, and demands to match. "
        "`./run demo` is the real one.");
  }
  report.checks(demo_checks(r, budget));

  report.heading("A density by likelihood");
  report.paragraph(
      "RealNVP maps a normal distribution to the data by invertible couplings, so the density of "
      "any point is known "
      "exactly, and training makes the data likely. Two moons has a known entropy: the floor that "
      "no model can beat.");
  report.figure(
      {.svg = drawing("moons_curve.svg", density_curve(d)),
       .caption = fmt::format(
           "After training: −log p = {:.4f} ± {:.4f} nats on {} fresh points, {:.4f} above "
           "the floor of {:.4f}.",
           d.nll, d.standard_error, pretty_number(static_cast<double>(d.test_points), 9),
           d.nll - d.floor, d.floor)});
  report.figures(
      {{.svg = drawing("moons_density.svg", density_map(d)), .caption = "exp(log p) on a grid"},
       {.svg = drawing("moons_points.svg", density_points(d)),
        .caption = "4,000 points of the data and as many drawn from the model"}});

  const DensityArray array = shown_density(d, 1);
  picture("moons.png", heat_image(array.values, array.rows, array.columns));

  report.heading("From noise to data");
  report.paragraph(
      "Flow matching learns a velocity: where a point must move at time t so that noise at t = 0 "
      "becomes data at t = 1. "
      "These 2,000 points follow the velocity that a small network learned from the same moons.");
  report.figure({.svg = drawing("moons_path.svg", path_points(r.path))});

  report.heading("Garments");
  report.paragraph(
      fmt::format("The same method on 60,000 photographs of garments. A point is now an image, "
                  "given by its {} strongest principal "
                  "components, which hold {:.1f} % of the variance of the pixels, and the network "
                  "is also told the class. {} images "
                  "were drawn with {} steps of the solver and guidance {:g}; none was picked out.",
                  g.components.basis.size(1), 100 * g.components.share,
                  pretty_number(static_cast<double>(g.images.size(0)), 9), budget.solver_steps,
                  budget.guidance));
  report.figure(
      {.image = picture("garments.png", garment_grid(g, data)),
       .caption = "One row a class: the first ten generated images, and real ones beside them."});
  report.figure(
      {.image = picture("garments_path.png", garment_strip(g)),
       .caption = "One garment of each class on its way from noise (t = 0) to image (t = 1)."});
  report.figure({.svg = drawing("garments_agreement.svg", agreement_bars(g)),
                 .caption = fmt::format(
                     "Overall {:.1f} % of the generated images, against {:.1f} % of the real ones.",
                     100 * g.agreement, 100 * g.accuracy)});
  report.figure({.svg = drawing("garments_curve.svg", garment_curve(g))});

  report.heading("Settings and times");
  report.table(trainings(r));
  report.facts({{"seed", std::to_string(settings.seed)},
                {"threads", std::to_string(settings.threads)},
                {"drawing the garments", fmt::format("{:.1f} s", g.generate_seconds)},
                {"in all", fmt::format("{:.0f} s", r.seconds)}});
  report.paragraph(
      "The same seed gives the same numbers at any number of threads on this kind of processor.");

  report.heading("How to go on");
  report.paragraph(fmt::format("The trained weights lie in `{}`, with PyTorch's names and layouts:",
                               settings.run));
  report.code(demo_next_steps(settings.run));
  report.list(
      {"`metrics.jsonl`: loss, learning rate and gradient norm of every training, a line of JSON "
       "each",
       "`*.svg`, `*.png`: the pictures of this page, made by the same program",
       "`./run demo --seed 1`: another seed; `--help` lists the options",
       "`./run demo vla`: the same for a robot that sees, reads and acts",
       "`docs/tape.md`: how the derivatives come about"});
  report.write(in_run("report.html"));

  write_file_atomic(in_run("metrics.jsonl"), metrics(r));
  for (const auto& [name, model] : {std::pair{"moons.safetensors", r.density.model.get()},
                                    {"moons_path.safetensors", r.path.model.get()},
                                    {"garments.safetensors", g.model.get()}}) {
    save_safetensors(in_run(name), model->module().state_dict(), weights_metadata(*model));
  }
  save_safetensors(in_run("garments_components.safetensors"),
                   {{"mean", g.components.mean}, {"basis", g.components.basis}});
  save_safetensors(in_run("classifier.safetensors"), g.classifier->state_dict());
}

}  // namespace flowgrad::cli
