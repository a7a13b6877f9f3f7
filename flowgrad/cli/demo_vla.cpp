#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/demo.h"
#include "flowgrad/cli/demo_vla.h"
#include "flowgrad/cli/imitate.h"
#include "flowgrad/cli/rollout.h"

// The second demo: `imitate` with a preset, and what its policy does on fresh episodes.
namespace flowgrad::cli {
namespace {

VlaTraining train_policy(const DemoSettings& s, const VlaBudget& b) {
  VlaTraining out;
  out.run = s.run + "/policy";
  std::vector<std::string> line = {"imitate",
                                   "--preset=" + b.preset,
                                   "--run=" + out.run,
                                   "--overwrite",
                                   fmt::format("--seed={}", s.seed),
                                   fmt::format("--threads={}", s.threads),
                                   fmt::format("--device={}", s.device.is_cpu() ? "cpu" : "cuda")};
  if (s.quiet) line.push_back("--quiet");
  line.insert(line.end(), b.arguments.begin(), b.arguments.end());
  const auto keep = [&](const ImitateResult& r) {
    out.frames = r.frames;
    out.parameters = r.policy->parameter_count();
    out.steps = r.training.steps_done;
    out.seconds = r.training.seconds;
    out.history = r.history;
  };
  if (const int code = run_inside(line, [&](CLI::App& app) { add_imitate(app, keep); }); code != 0)
    throw ExitCode{code};
  return out;
}

/// The policy in one test, under its name.
VlaTest tested(const std::string& name, const ClosedLoopArguments& loop, RobotPolicy& policy,
               const DemoSettings& settings, int64_t record = 0) {
  const std::unique_ptr<World> world = make_world(policy.options().world, world_options(loop));
  EvaluationOptions options = evaluation_options(loop, settings.seed, policy.options().horizon,
                                                 image_size(policy.options()));
  options.record = std::min(record, options.episodes);
  VlaTest out{.name = name, .options = options};
  out.episodes = evaluate(*world, in_closed_loop(policy), options);
  out.summary = summarize(out.episodes);
  if (!settings.quiet) {
    tell(fmt::format("{}: {} of {} episodes", name, out.summary.successes, out.summary.episodes));
  }
  return out;
}

/// Episodes that end differently when they are run again, in other company.
int64_t differing(const VlaTest& first, RobotPolicy& policy) {
  constexpr int64_t kAgain = 20;
  EvaluationOptions options = first.options;
  options.episodes = std::min(kAgain, options.episodes);
  options.lockstep = 7;
  const auto again = evaluate(*make_world(policy.options().world), in_closed_loop(policy), options);
  int64_t count = 0;
  for (size_t i = 0; i < again.size(); ++i) count += again[i] == first.episodes[i] ? 0 : 1;
  return count;
}

std::vector<plot::Check> checks_of(const VlaResults& r, const VlaBudget& b) {
  const EvaluationSummary& seen = r.tests[0].summary;
  const EvaluationSummary& original = r.tests[kOriginal].summary;
  return {
      {.name = "success on fresh episodes",
       .measured = seen.success_rate,
       .demand = plot::Check::Demand::at_least,
       .bound = b.least_success,
       .note = fmt::format("{} of {} episodes; 95 % interval {:.3f} to {:.3f} (Wilson)",
                           seen.successes, seen.episodes, seen.interval.low, seen.interval.high)},
      {.name = "success at what was not said",
       .measured = original.success_rate,
       .bound = b.largest_original,
       .note = "the words name another disc, and the one they do not name is scored: a policy "
               "that reads fails"},
      {.name = "episodes that end differently on a rerun",
       .measured = static_cast<double>(r.differing),
       .bound = 0,
       .note = "20 episodes, in groups of 7: every bit of states and actions is compared"}};
}

Json figures_of(const VlaResults& r) {
  Json tests = Json::object();
  for (const VlaTest& t : r.tests) tests[t.name] = summary_json(t.summary);
  return {{"policy",
           {{"run", r.training.run},
            {"parameters", r.training.parameters},
            {"frames", r.training.frames},
            {"steps", r.training.steps},
            {"seconds", r.training.seconds},
            {"latency_ms", latency_json(r.latency)}}},
          {"tests", tests}};
}

std::string text_of(const VlaResults& r) {
  std::string out = fmt::format("policy          {} parameters from {} frames, {:.0f} s\n",
                                r.training.parameters, r.training.frames, r.training.seconds);
  for (const VlaTest& t : r.tests) {
    const EvaluationSummary& s = t.summary;
    out +=
        fmt::format("  {:<36} {:5.1f} %  [{:.1f}, {:.1f}] of {} episodes\n", t.name,
                    100 * s.success_rate, 100 * s.interval.low, 100 * s.interval.high, s.episodes);
  }
  return out + fmt::format("a decision      {:.1f} ms (p50), {:.1f} ms (p99)\n", r.latency.p50,
                           r.latency.p99);
}

}  // namespace

VlaBudget VlaBudget::quick() {
  VlaBudget b;
  b.arguments = {"--steps=6",       "--demonstrations=4", "--batch-size=8",
                 "--set=hidden=16", "--evaluate-every=3", "--evaluate-episodes=4"};
  b.episodes = 8;
  b.least_success = 0;
  b.largest_original = 1;
  return b;
}

DemoFindings demo_vla(const DemoSettings& settings) {
  const auto start = std::chrono::steady_clock::now();
  const VlaBudget budget = settings.quick ? VlaBudget::quick() : VlaBudget();
  DemoFindings out;
  out.lock = prepare_run_folder(settings);
  VlaResults r;
  r.training = train_policy(settings, budget);
  CommonOptions common;
  common.device = settings.device.is_cpu() ? "cpu" : "cuda";
  common.quiet = true;
  const std::unique_ptr<RobotPolicy> policy = open_policy(r.training.run, common);

  constexpr int64_t kRecorded = 3;
  ClosedLoopArguments loop{.episodes = budget.episodes};
  r.tests.push_back(tested("fresh episodes", loop, *policy, settings, kRecorded));
  loop.split = "wording";
  r.tests.push_back(tested("wordings never seen", loop, *policy, settings));
  loop.split = "seen";
  loop.counterfactual = "told";
  r.tests.push_back(tested("words swapped: the disc they name", loop, *policy, settings));
  loop.counterfactual = "original";
  r.tests.push_back(tested("words swapped: the other disc", loop, *policy, settings));
  r.differing = differing(r.tests[0], *policy);
  constexpr int64_t kDecisions = 100;
  const std::unique_ptr<World> world = make_world(policy->options().world);
  r.latency = measure_latency(*world, in_closed_loop(*policy), r.tests[0].options, kDecisions);
  out.checks = checks_of(r, budget);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_vla_report(settings, r, out, *world, in_closed_loop(*policy));
  out.figures = figures_of(r);
  out.text = text_of(r);
  return out;
}

}  // namespace flowgrad::cli
