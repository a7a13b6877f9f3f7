#include "flowgrad/cli/demo.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/kernels/parallel.h"

// demo: the whole project in one command, from nothing to a page that shows what was learned.
namespace flowgrad::cli {
namespace {

/// Makes the run folder and writes into it, before anything is computed.
std::unique_ptr<FolderLock> prepare_run_folder(const DemoSettings& settings) {
  if (settings.run.empty()) throw UsageError("--run: nothing given; a folder is accepted");
  std::error_code error;
  std::filesystem::create_directories(settings.run, error);
  if (error)
    throw IoError(
        fmt::format("--run: {}: cannot make this folder: {}", settings.run, error.message()));
  auto lock = std::make_unique<FolderLock>(settings.run, "--run");
  remove_stale_temporaries(settings.run);
  write_file_atomic(settings.run + "/config.json",
                    json_text({{"command", "demo"},
                               {"seed", settings.seed},
                               {"quick", settings.quick},
                               {"device", settings.device.to_string()},
                               {"threads", settings.threads}},
                              2) +
                        "\n");
  // A page of an earlier run must not stand there as the result of this one.
  std::filesystem::remove(settings.run + "/report.html", error);
  return lock;
}

Json summary(const DemoSettings& settings, const DemoResults& r,
             const std::vector<plot::Check>& checks) {
  Json rows = Json::array();
  for (const plot::Check& c : checks) {
    rows.push_back({{"name", c.name},
                    {"measured", c.measured},
                    {"demanded", c.demanded()},
                    {"passed", c.passed()}});
  }
  const DensityResult& d = r.density;
  const GarmentsResult& g = r.garments;
  return {{"report", settings.run + "/report.html"},
          {"seed", settings.seed},
          {"quick", settings.quick},
          {"threads", settings.threads},
          {"seconds", r.seconds},
          {"moons",
           {{"nll", d.nll},
            {"standard_error", d.standard_error},
            {"floor", d.floor},
            {"seconds", d.training.seconds}}},
          {"garments",
           {{"agreement", g.agreement},
            {"classifier_accuracy", g.accuracy},
            {"variety", g.variety},
            {"images", g.images.size(0)},
            {"seconds", g.training.seconds}}},
          {"checks", rows}};
}

std::string summary_text(const DemoSettings& settings, const DemoResults& r,
                         const std::vector<plot::Check>& checks) {
  const DensityResult& d = r.density;
  const GarmentsResult& g = r.garments;
  std::string out = fmt::format(
      "two moons       -log p {:.3f} +- {:.3f} nats on {} fresh points; the floor is {:.3f}\n"
      "Fashion-MNIST   a classifier sees the intended class in {:.1f} % of {} generated garments\n"
      "                (and is right on {:.1f} % of the real ones)\n",
      d.nll, d.standard_error, d.test_points, d.floor, 100 * g.agreement, g.images.size(0),
      100 * g.accuracy);
  const auto passed =
      std::count_if(checks.begin(), checks.end(), [](const auto& c) { return c.passed(); });
  out += fmt::format("checks          {} of {} passed\n", passed, checks.size());
  for (const plot::Check& c : checks) {
    if (!c.passed())
      out += fmt::format("  FAILED  {}: {:.4g}, demanded {}\n", c.name, c.measured, c.demanded());
  }
  return out + fmt::format("report          {}/report.html  ({:.0f} s, seed {})\n", settings.run,
                           r.seconds, settings.seed);
}

void run_demo(DemoSettings& settings, bool json) {
  const auto start = std::chrono::steady_clock::now();
  const FashionMnist data =
      FashionMnist::load(settings.data_folder);  // first, as it may be missing
  const auto lock = prepare_run_folder(settings);
  const DemoBudget budget = settings.quick ? DemoBudget::quick() : DemoBudget();
  DemoResults results;
  results.density = demo_density(settings, budget);
  results.path = demo_path(settings, budget);
  results.garments = demo_garments(settings, budget, data);
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_demo_report(settings, budget, results, data);
  const std::vector<plot::Check> checks = demo_checks(results, budget);
  const std::string record = json_text(summary(settings, results, checks), 2) + "\n";
  write_file_atomic(settings.run + "/summary.json", record);
  if (!settings.quiet) fmt::print(stderr, "\n");
  const bool passed =
      std::all_of(checks.begin(), checks.end(), [](const auto& c) { return c.passed(); });
  try {
    print_result(json ? record : summary_text(settings, results, checks));
  } catch (const ExitCode&) {
    if (passed) throw;  // nobody reads, but the exit code still tells
  }
  if (!passed) throw ExitCode{1};
}

}  // namespace

std::string demo_next_steps(const std::string& run) {
  return fmt::format(
      "flowgrad=build/release/bin/flowgrad\n"
      "$flowgrad sample --weights {0}/moons.safetensors --n 1000 --output points.npy --picture "
      "points.svg\n"
      "$flowgrad inspect {0}/garments.safetensors\n"
      "$flowgrad train --model realnvp --data pinwheel --run runs/pinwheel",
      run);
}

void add_demo(CLI::App& app) {
  struct Arguments {
    DemoSettings settings;
    CommonOptions common;
    std::string config_file;  // already among the other options when the command runs
  };
  auto a = std::make_shared<Arguments>();
  Command c(app, "demo",
            "Train on two moons and on Fashion-MNIST, check and draw what was learned");
  c.group("Demo");
  c.text("--run", a->settings.run,
         "Folder for report.html, the pictures, weights and metrics; files are replaced", "FOLDER");
  c.text(
      "--data-folder", a->settings.data_folder,
      "Folder of Fashion-MNIST's four idx files; empty = that of the package dataset-fashion-mnist",
      "FOLDER");
  c.flag("--quick", a->settings.quick,
         "Small networks, few steps and weaker demands: a check in passing");
  c.file("--config", a->config_file, "Options as lines name = value or JSON; the command line wins")
      .transient();
  c.group("Computation");
  c.seed("--seed", a->common.seed, "Seed of all random draws; printed on stderr");
  c.choice("--device", a->common.device, "cpu or cuda", {"cpu", "cuda"});
  c.integer("--threads", a->common.threads, "Threads; 0 = one per core", 0, 1024);
  c.group("Output");
  c.flag("--json", a->common.json, "Print the result as one JSON object").transient();
  c.flag("--quiet", a->common.quiet, "No progress and no seed line on stderr").transient();
  c.examples("flowgrad demo\nflowgrad demo --quick --run /tmp/demo");
  c.run([a](const Command&) {
    apply(a->common);
    a->settings.device = device_of(a->common);
    a->settings.seed = a->common.seed;
    a->settings.quiet = a->common.quiet;
    a->settings.threads = kernels::num_threads();
    run_demo(a->settings, a->common.json);
  });
}

}  // namespace flowgrad::cli
