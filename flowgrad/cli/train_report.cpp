#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/curves.h"
#include "flowgrad/cli/picture.h"
#include "flowgrad/cli/train.h"
#include "flowgrad/plot/axis.h"
#include "flowgrad/plot/chart.h"
#include "flowgrad/plot/report.h"

namespace flowgrad::cli {
namespace {

/// Of the training and of the rows that it never saw, with the density's own entropy.
plot::LineChart curve_of(const TrainReport& r) {
  const bool density = std::isfinite(r.held_out.log_likelihood);
  plot::LineChart chart = learning_curve(
      r.history,
      {.label = density ? "minus log-likelihood" : "loss", .unit = density ? "nats" : ""},
      "held out");
  if (std::isfinite(r.floor)) {
    chart.horizontals.push_back(
        {.value = r.floor, .label = fmt::format("entropy floor {:.3f}", r.floor)});
  }
  return chart;
}

void add_samples(plot::Report& report, const TrainReport& r) {
  if (!r.samples.defined()) return;
  if (r.samples.size(1) == 2) {
    report.heading("What it learned");
    report.figure({.svg = scatter_picture({{"data", r.real}, {"samples of the model", r.samples}}),
                   .caption = "Held-out points beside draws of the model."});
  } else if (are_images(r.samples)) {
    report.heading("What it learned");
    report.figures({{.image = image_picture(r.real, 8), .caption = "Held-out images."},
                    {.image = image_picture(r.samples, 8),
                     .caption = "Draws of the model for the same conditions."}});
  }
}

}  // namespace

void write_report(const TrainReport& r) {
  plot::Report report(fmt::format("{} on {}", r.model, r.data_name),
                      fmt::format("training run {}", r.run));
  report.heading("Result");
  std::vector<std::pair<std::string, std::string>> facts = {
      {"data", r.data},
      {"steps", fmt::format("{}", r.result.steps_done)},
      {"parameters", fmt::format("{}", r.parameters)},
      {"held-out loss", fmt::format("{:.4f} over {} rows", r.held_out.loss, r.held_out.rows)}};
  if (std::isfinite(r.held_out.log_likelihood)) {
    facts.emplace_back(
        "held-out log-likelihood",
        fmt::format("{:.4f} ± {} nats", r.held_out.log_likelihood, r.held_out.error_text()));
  }
  if (std::isfinite(r.floor))
    facts.emplace_back("no model beats", fmt::format("{:.4f} nats", -r.floor));
  if (r.result.skipped > 0)
    facts.emplace_back("steps left out", fmt::format("{} (not finite)", r.result.skipped));
  facts.emplace_back("time", fmt::format("{:.1f} s", r.history.empty() ? r.result.seconds
                                                                       : r.history.back().seconds));
  facts.emplace_back("seed", fmt::format("{}", r.seed));
  report.facts(facts);
  if (!r.history.empty()) {
    report.heading("How it learned");
    report.figure({.svg = curve_of(r).svg()});
    report.figure({.svg = rate_and_norm(r.history).svg()});
  }
  add_samples(report, r);
  for (const plot::Figure& picture : r.pictures) report.figure(picture);
  report.heading("How to go on");
  report.code(
      fmt::format("flowgrad sample --run {0} --n 1000 --output samples.npy\n"
                  "flowgrad inspect {0}/weights.safetensors\n"
                  "flowgrad train --run {0} --resume --steps {1}",
                  r.run, 2 * r.result.steps_done));
  report.heading("Settings");
  report.facts(r.settings);
  report.write(r.run + "/report.html");
}

}  // namespace flowgrad::cli
