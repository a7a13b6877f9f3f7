#include <fmt/format.h>

#include <chrono>

#include "flowgrad/cli/demo.h"

// The first demo: a density, a path from noise to data, and garments.
namespace flowgrad::cli {
namespace {

Json figures(const DemoResults& r) {
  const DensityResult& d = r.density;
  const GarmentsResult& g = r.garments;
  return {{"moons",
           {{"nll", d.nll},
            {"standard_error", d.standard_error},
            {"floor", d.floor},
            {"seconds", d.training.seconds}}},
          {"garments",
           {{"agreement", g.agreement},
            {"classifier_accuracy", g.accuracy},
            {"variety", g.variety},
            {"images", g.images.size(0)},
            {"seconds", g.training.seconds}}}};
}

std::string text(const DemoResults& r) {
  const DensityResult& d = r.density;
  const GarmentsResult& g = r.garments;
  return fmt::format(
      "two moons       -log p {:.3f} +- {:.3f} nats on {} fresh points; the floor is {:.3f}\n"
      "Fashion-MNIST   a classifier sees the intended class in {:.1f} % of {} generated garments\n"
      "                (and is right on {:.1f} % of the real ones)\n",
      d.nll, d.standard_error, d.test_points, d.floor, 100 * g.agreement, g.images.size(0),
      100 * g.accuracy);
}

}  // namespace

DemoFindings demo_flows(const DemoSettings& settings) {
  const auto start = std::chrono::steady_clock::now();
  const FashionMnist data =
      FashionMnist::load(settings.data_folder);  // first, as it may be missing
  DemoFindings out;
  out.lock = prepare_run_folder(settings);
  const DemoBudget budget = settings.quick ? DemoBudget::quick() : DemoBudget();
  DemoResults results;
  results.density = demo_density(settings, budget);
  results.path = demo_path(settings, budget);
  results.garments = demo_garments(settings, budget, data);
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_demo_report(settings, budget, results, data);
  out.figures = figures(results);
  out.text = text(results);
  out.checks = demo_checks(results, budget);
  out.seconds = results.seconds;
  return out;
}

std::string demo_next_steps(const std::string& run) {
  return fmt::format(
      "flowgrad=build/release/bin/flowgrad\n"
      "$flowgrad sample --weights {0}/moons.safetensors --n 1000 --output points.npy --picture "
      "points.svg\n"
      "$flowgrad inspect {0}/garments.safetensors\n"
      "$flowgrad train --model realnvp --data pinwheel --run runs/pinwheel",
      run);
}

}  // namespace flowgrad::cli
