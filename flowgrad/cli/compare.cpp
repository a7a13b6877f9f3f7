#include "flowgrad/cli/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/config_file.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/core/json.h"

// compare: policies on the same episodes, training seeds apart from methods.
namespace flowgrad::cli {
namespace {

struct CompareArguments {
  CommonOptions common;
  std::vector<std::string> runs;
  std::string report;
  ClosedLoopArguments loop;
  std::vector<std::string> steps;
};

/// 97.5 % quantile of Student's t.
double t_quantile(int64_t freedom) {
  static constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365,
                                      2.306,  2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
                                      2.131,  2.120, 2.110, 2.101, 2.093, 2.086};
  constexpr auto kSize = static_cast<int64_t>(std::size(kTable));
  return freedom <= kSize ? kTable[freedom - 1] : 1.96 + 2.4 / static_cast<double>(freedom);
}

std::vector<EpisodeResult> all_episodes(const Method& m, size_t runs) {
  std::vector<EpisodeResult> out;
  for (size_t i = 0; i < runs; ++i)
    out.insert(out.end(), m.runs[i]->episodes.begin(), m.runs[i]->episodes.end());
  return out;
}

EvaluationSummary pooled(const Method& m) { return summarize(all_episodes(m, m.runs.size())); }

/// The first method against another, run by run in their order, on the same episodes.
PairedTest against_first(const std::vector<Method>& methods, const Method& other) {
  const size_t runs = std::min(methods[0].runs.size(), other.runs.size());
  return mcnemar(all_episodes(methods[0], runs), all_episodes(other, runs));
}

/// What tells methods apart: the model's keys and, where a run folder keeps them, the options that
/// shaped its weights, but for the seed. Not which teacher: each student may have one of its seed.
Config identity(const std::string& path, const RobotPolicyOptions& o,
                const std::vector<MetricsRow>& history) {
  Config out = robot_policy_config(o);
  const std::string file = path + "/config.json";
  const bool folder = std::filesystem::is_regular_file(file);
  out["from"] = folder ? "a run folder" : "lone weights";
  if (!folder) return out;
  std::map<std::string, std::string> given;
  for (const ConfigEntry& e : read_config(file)) {
    if (e.section == "imitate") given[e.key] = e.value;
  }
  if (!given.contains("teacher")) given.erase("distill-steps");
  std::vector<std::string> names = {
      "data",          "mirror",        "demonstrations", "demonstration-noise",
      "draws",         "distill-steps", "steps",          "batch-size",
      "learning-rate", "schedule",      "warm-up",        "weight-decay",
      "clip",          "ema",           "keep-best",      "dtype"};
  if (given["keep-best"] == "true")
    names.insert(names.end(), {"evaluate-every", "evaluate-episodes"});
  for (const std::string& name : names) out[name] = given.contains(name) ? given.at(name) : "none";
  // Paused or cut short: the schedule was made for more steps than were done.
  if (!history.empty() && fmt::format("{}", history.back().step) != out["steps"])
    out["steps"] = fmt::format("{} of {}", history.back().step, out["steps"]);
  return out;
}

/// Head, and every key in which methods of that head differ; steps where one has several. Beside
/// lone weights, which lack the keys of a training, runs are named by where they are from.
void name_methods(std::vector<Method>& methods) {
  for (Method& m : methods) {
    const Config& own = m.runs[0]->config;
    const auto differs = [&](const std::string& key, const std::string& value) {
      return std::any_of(methods.begin(), methods.end(), [&](const Method& other) {
        const Config& c = other.runs[0]->config;
        const auto theirs = c.find(key);
        return c.at("head") == own.at("head") && theirs != c.end() && theirs->second != value;
      });
    };
    m.name = own.at("head");
    for (const auto& [key, value] : own) {
      if (differs(key, value)) m.name += fmt::format(", {} {}", key, value);
    }
    m.label = m.name;
    const bool several = std::any_of(methods.begin(), methods.end(), [&](const Method& other) {
      return other.runs[0]->config == own && other.runs[0]->n_steps != m.runs[0]->n_steps;
    });
    if (several) {
      const int64_t n = m.runs[0]->evaluations;
      m.label += fmt::format(", {} evaluation{}", n, n == 1 ? "" : "s");
      if (own.at("head") == "diffusion") m.label += m.runs[0]->n_steps > 0 ? ", DDIM" : ", DDPM";
    }
  }
}

std::vector<Method> group(const std::vector<Run>& runs) {
  std::vector<Method> methods;
  for (const Run& run : runs) {
    auto found = std::find_if(methods.begin(), methods.end(), [&](const Method& m) {
      return m.runs[0]->config == run.config && m.runs[0]->n_steps == run.n_steps;
    });
    if (found == methods.end()) found = methods.insert(methods.end(), Method{});
    found->runs.push_back(&run);
  }
  name_methods(methods);
  return methods;
}

std::string interval(const OverSeeds& s) {
  return std::isnan(s.half) ? fmt::format("{:.3f}", s.mean)
                            : fmt::format("{:.3f} +- {:.3f}", s.mean, s.half);
}

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : std::nan("");
}

std::string percent(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.1f} %", 100 * value);
}

std::vector<std::vector<std::string>> method_table(const std::vector<Method>& methods, bool timed) {
  std::vector<std::vector<std::string>> rows = {{"head", "seeds", "success", "pooled, Wilson 95 %",
                                                 "score", "failed", "left", "jerk",
                                                 "paired with the first"}};
  if (timed) rows[0].emplace_back(kLatencyHead);
  for (const Method& m : methods) {
    const EvaluationSummary s = pooled(m);
    rows.push_back(
        {m.label, fmt::format("{}", m.runs.size()),
         interval(over_seeds(m, &EvaluationSummary::success_rate)),
         fmt::format("{:.3f} [{:.3f}, {:.3f}]", s.success_rate, s.interval.low, s.interval.high),
         interval(over_seeds(m, &EvaluationSummary::score_mean)),
         percent(share(s.failures, s.episodes)), percent(share(s.left, s.left + s.right)),
         fmt::format("{:.3g}", s.jerk_mean), "-"});
    if (&m != &methods[0]) {
      const PairedTest t = against_first(methods, m);
      rows.back().back() =
          fmt::format("{} : {}, p = {:.2g}", t.first_only, t.second_only, t.p_value);
    }
    if (timed) rows.back().push_back(latency_cell(m.runs[0]->latency));
  }
  return rows;
}

Json json_of(const CompareArguments& a, const std::string& world,
             const std::vector<Method>& methods) {
  Json out{{"task", world}, {"seed", a.common.seed}, {"episodes", a.loop.episodes}};
  for (const Method& m : methods) {
    const EvaluationSummary s = pooled(m);
    const OverSeeds success = over_seeds(m, &EvaluationSummary::success_rate);
    const OverSeeds score = over_seeds(m, &EvaluationSummary::score_mean);
    Json method{{"label", m.label},    {"success", success.mean},  {"success_half", success.half},
                {"score", score.mean}, {"score_half", score.half}, {"pooled", summary_json(s)}};
    if (&m != &methods[0]) {
      const PairedTest t = against_first(methods, m);
      method["paired"] = {
          {"first_only", t.first_only}, {"second_only", t.second_only}, {"p_value", t.p_value}};
    }
    for (const Run* r : m.runs) {
      Json run = summary_json(r->summary);
      run["run"] = r->path;
      run["evaluations"] = r->evaluations;
      if (a.loop.latency > 0) run["latency_ms"] = latency_json(r->latency);
      method["runs"].push_back(run);
    }
    out["methods"].push_back(method);
  }
  return out;
}

/// Refuses a policy that was not made for this world, or two numbers of steps that are one to it.
void check_run(const std::vector<int64_t>& steps, const World& world, const std::string& path,
               RobotPolicy& policy) {
  check_world(path, policy.options(), world.spec());
  std::map<int64_t, int64_t> seen;
  for (const int64_t n : steps) {
    const auto [at, fresh] = seen.emplace(policy.head().evaluations({.n_steps = n}), n);
    if (!fresh && policy.options().head == HeadKind::flow) {
      throw UsageError(fmt::format(
          "--n-steps: {} and {} are the same for the flow of {}; one of them is accepted",
          at->second, n, path));
    }
  }
}

/// The policy of a path for each number of steps, once where its head takes none.
void evaluate_run(const CompareArguments& a, const std::vector<int64_t>& steps, const World& world,
                  const std::string& path, RobotPolicy& policy, std::vector<Run>& runs) {
  const RobotPolicyOptions& o = policy.options();
  EvaluationOptions options = evaluation_options(a.loop, a.common.seed, o.horizon, image_size(o));
  options.record = a.report.empty() ? 0 : std::min<int64_t>(3, options.episodes);
  const bool stepped = o.head == HeadKind::flow || o.head == HeadKind::diffusion;
  const std::vector<MetricsRow> history = read_metrics(path + "/metrics.jsonl");
  const Config config = identity(path, o, history);
  for (const int64_t n : stepped ? steps : std::vector<int64_t>{0}) {
    const Policy acts = in_closed_loop(policy, {.n_steps = n}, realtime(a.loop, path, o.head));
    Run run{.path = path, .config = config, .n_steps = n, .history = history};
    run.evaluations = policy.head().evaluations({.n_steps = n});
    run.episodes = evaluate(world, acts, options);
    run.summary = summarize(run.episodes);
    if (a.loop.latency > 0) run.latency = measure_latency(world, acts, options, a.loop.latency);
    if (!a.common.quiet) {
      tell(fmt::format("{}: success {:.3f} ({} a decision)", path, run.summary.success_rate,
                       run.evaluations));
    }
    runs.push_back(std::move(run));
  }
}

void run_compare(CompareArguments a, const Command& command) {
  if (a.runs.empty())
    throw UsageError("--run: none given; folders of flowgrad imitate are accepted");
  for (size_t i = 0; i < a.runs.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      std::error_code absent;
      if (a.runs[k] != a.runs[i] && !std::filesystem::equivalent(a.runs[k], a.runs[i], absent))
        continue;
      throw UsageError(
          fmt::format("--run: {} given twice; it would count as another training seed", a.runs[i]));
    }
  }
  if (!a.report.empty()) check_output("--report", a.report, {".html"});
  const std::vector<int64_t> steps = step_counts(a.steps);
  // All are looked at before the first acts: that takes minutes.
  std::vector<std::unique_ptr<RobotPolicy>> policies;
  std::unique_ptr<World> world;
  for (const std::string& path : a.runs) {
    policies.push_back(open_policy(path, a.common));
    if (!world) {
      const std::string& name = policies[0]->options().world;
      if (!command.given("seed")) a.common.seed = default_episodes_seed(name);
      apply(a.common);
      world = make_world(name, world_options(a.loop));
    }
    check_run(steps, *world, path, *policies.back());
  }
  std::vector<Run> runs;
  for (size_t i = 0; i < a.runs.size(); ++i)
    evaluate_run(a, steps, *world, a.runs[i], *policies[i], runs);
  const std::vector<Method> methods = group(runs);
  const auto rows = method_table(methods, a.loop.latency > 0);
  if (!a.report.empty()) {
    write_comparison(
        a.report,
        fmt::format("{} episodes of seed {}, the same for all", a.loop.episodes, a.common.seed),
        *world, methods, rows);
  }
  if (a.common.json) return print_result(json_text(json_of(a, world->spec().name, methods)) + "\n");
  print_result(table(rows, "<" + std::string(rows[0].size() - 1, '>')));
}

}  // namespace

OverSeeds over_seeds(const Method& m, double EvaluationSummary::*field) {
  const auto n = static_cast<double>(m.runs.size());
  double sum = 0;
  for (const Run* r : m.runs) sum += r->summary.*field;
  const double mean = sum / n;
  double squares = 0;
  for (const Run* r : m.runs) squares += std::pow(r->summary.*field - mean, 2);
  const auto freedom = static_cast<int64_t>(m.runs.size()) - 1;
  return {mean,
          freedom < 1 ? std::nan("") : t_quantile(freedom) * std::sqrt(squares / (n - 1) / n)};
}

void add_compare(CLI::App& app) {
  auto a = std::make_shared<CompareArguments>();
  Command c(app, "compare", "Judge several policies on the same episodes");
  c.group("Policies");
  c.list("--run", a->runs,
         "Folder of a run of flowgrad imitate; repeated for each. Runs of the same command but for "
         "the seed are training seeds of one method",
         "FOLDER");
  c.list("--n-steps", a->steps,
         "Steps of flow and of DDIM; may be repeated: a result for each. 0 = the head's own", "N");
  add_closed_loop(c, a->loop);
  c.text("--report", a->report,
         "Page with bars, success against evaluations and training time, film strips and an "
         "animated episode of each method, .html",
         "FILE");
  add_common(c, a->common);
  c.examples(
      "flowgrad compare --run runs/fork-flow --run runs/fork-regression --report fork.html\n"
      "flowgrad compare --run runs/fork-flow --n-steps 1 --n-steps 2 --n-steps 10 --report "
      "fork.html");
  c.run([a](const Command& self) { run_compare(*a, self); });
}

}  // namespace flowgrad::cli
