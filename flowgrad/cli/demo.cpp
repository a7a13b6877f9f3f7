#include "flowgrad/cli/demo.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/optim/checkpoint.h"

// demo: the whole project in one command, from nothing to a page that shows what was learned.
namespace flowgrad::cli {

namespace {

/// A training of one's own would lose its configuration and weights; what an earlier demo left may
/// go.
void check_folder(const std::string& run) {
  const std::string path = run + "/config.json";
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) {
    const auto bytes = read_file(path, "--run");
    const Json json =
        parse_json_or_null({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    if (json.is_object() && json.value("command", Json()) == "demo") return;
  }
  for (const std::string& folder : {run, run + "/policy"}) {
    if (CheckpointStore::list(folder).empty()) continue;
    throw IoError(fmt::format(
        "--run: {}: holds a training run; a new folder, or one of an earlier demo is accepted",
        folder));
  }
}

}  // namespace

std::unique_ptr<FolderLock> prepare_run_folder(const DemoSettings& settings) {
  if (settings.run.empty()) throw UsageError("--run: nothing given; a folder is accepted");
  check_folder(settings.run);
  std::error_code error;
  std::filesystem::create_directories(settings.run, error);
  if (error)
    throw IoError(
        fmt::format("--run: {}: cannot make this folder: {}", settings.run, error.message()));
  auto lock = std::make_unique<FolderLock>(settings.run, "--run");
  remove_stale_temporaries(settings.run);
  write_file_atomic(settings.run + "/config.json",
                    json_text({{"command", "demo"},
                               {"show", settings.show},
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

namespace {

Json summary(const DemoSettings& settings, const DemoFindings& found) {
  Json rows = Json::array();
  for (const plot::Check& c : found.checks) {
    rows.push_back({{"name", c.name},
                    {"measured", c.measured},
                    {"demanded", c.demanded()},
                    {"passed", c.passed()}});
  }
  Json out{{"report", settings.run + "/report.html"},
           {"show", settings.show},
           {"seed", settings.seed},
           {"quick", settings.quick},
           {"threads", settings.threads},
           {"seconds", found.seconds}};
  out.update(found.figures);
  out["checks"] = rows;
  return out;
}

std::string summary_text(const DemoSettings& settings, const DemoFindings& found) {
  std::string out = found.text;
  const auto passed = std::count_if(found.checks.begin(), found.checks.end(),
                                    [](const auto& c) { return c.passed(); });
  out += fmt::format("checks          {} of {} passed\n", passed, found.checks.size());
  for (const plot::Check& c : found.checks) {
    if (!c.passed())
      out += fmt::format("  FAILED  {}: {:.4g}, demanded {}\n", c.name, c.measured, c.demanded());
  }
  out += fmt::format("report          {}/report.html  ({:.0f} s, seed {})\n", settings.run,
                     found.seconds, settings.seed);
  out += fmt::format(
      "next            {}\n",
      settings.show == "flows"
          ? "flowgrad demo vla: a robot that sees, reads and acts"
          : fmt::format("flowgrad rollout --run {}/policy --report page.html", settings.run));
  return out;
}

void run_demo(const DemoSettings& settings, bool json) {
  const DemoFindings found = settings.show == "vla" ? demo_vla(settings) : demo_flows(settings);
  const std::string record = json_text(summary(settings, found), 2) + "\n";
  write_file_atomic(settings.run + "/summary.json", record);
  if (!settings.quiet) fmt::print(stderr, "\n");
  const bool passed = std::all_of(found.checks.begin(), found.checks.end(),
                                  [](const auto& c) { return c.passed(); });
  try {
    print_result(json ? record : summary_text(settings, found));
  } catch (const ExitCode&) {
    if (passed) throw;  // nobody reads, but the exit code still tells
  }
  if (!passed) throw ExitCode{1};
}

}  // namespace

void add_demo(CLI::App& app) {
  struct Arguments {
    DemoSettings settings;
    CommonOptions common;
    std::string config_file;  // already among the other options when the command runs
  };
  auto a = std::make_shared<Arguments>();
  Command c(app, "demo", "Train flow models, or a robot's policy; check and draw what was learned");
  c.group("Demo");
  c.choice("show,--show", a->settings.show,
           "flows: two moons and Fashion-MNIST, in about three minutes of two cores; vla: a robot "
           "that sees, reads and acts, 8,000 steps in about four",
           {"flows", "vla"});
  c.text("--run", a->settings.run,
         "Folder for report.html, the pictures, weights and metrics; files are replaced; empty = "
         "runs/demo, or runs/demo-vla",
         "FOLDER");
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
  c.examples("flowgrad demo\nflowgrad demo vla\nflowgrad demo --quick --run /tmp/demo");
  c.run([a](const Command& self) {
    DemoSettings& s = a->settings;
    if (s.show == "vla" && self.given("data-folder")) {
      throw UsageError("--data-folder: given for vla, whose demonstrator is scripted");
    }
    if (!self.given("run")) s.run = s.show == "vla" ? "runs/demo-vla" : "runs/demo";
    CommonOptions common = a->common;
    common.quiet |= s.show == "vla";  // imitate tells the seed
    apply(common);
    a->settings.device = device_of(a->common);
    a->settings.seed = a->common.seed;
    a->settings.quiet = a->common.quiet;
    a->settings.threads = kernels::num_threads();
    run_demo(a->settings, a->common.json);
  });
}

}  // namespace flowgrad::cli
