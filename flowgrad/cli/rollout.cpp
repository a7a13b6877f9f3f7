#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/core/json.h"
#include "flowgrad/tasks/pusht.h"

// rollout: a policy acts in its world, and is judged by what it does.
namespace flowgrad::cli {
namespace {

struct RolloutArguments {
  CommonOptions common;
  std::string run, world, demonstrator;
  ClosedLoopArguments loop;
  std::vector<std::string> steps;
  std::string report;
};

/// What sets an evaluation apart from that of seen instructions; empty for that.
std::string test_name(const ClosedLoopArguments& a) {
  if (a.counterfactual != "none") return "words swapped, " + a.counterfactual + " disc";
  return a.split == "seen" ? "" : "unseen " + a.split;
}

void run_rollout(RolloutArguments a, const Command& command) {
  if (a.run.empty() == a.demonstrator.empty())
    throw UsageError("--run: a run, or --demonstrator with --task, is accepted; one of the two");
  std::unique_ptr<RobotPolicy> policy;
  if (!a.run.empty()) {
    policy = open_policy(a.run, a.common);
    if (a.world.empty()) a.world = policy->options().world;
  }
  if (a.world.empty())
    throw UsageError(fmt::format("--task: none given; {} are accepted", listing(world_names())));
  if (!command.given("seed")) a.common.seed = default_episodes_seed(a.world);
  if (!a.report.empty()) check_output("--report", a.report, {".html"});
  apply(a.common);
  const std::unique_ptr<World> world = make_world(a.world, world_options(a.loop));
  if (policy) check_world(a.run, policy->options(), world->spec());

  constexpr int64_t kHorizon = 8;  // of demonstrators
  EvaluationOptions options =
      policy ? evaluation_options(a.loop, a.common.seed, policy->options().horizon,
                                  image_size(policy->options()))
             : evaluation_options(a.loop, a.common.seed, kHorizon);
  options.record = a.report.empty() ? 0 : std::min<int64_t>(3, options.episodes);
  RolloutReport page{.path = a.report};
  Policy shown;  // the first
  Json rows = Json::array();
  std::vector<std::vector<std::string>> cells = {result_heads()};
  const auto add = [&](const std::string& label, const Json& head, const Policy& acts) {
    Json row = head;
    std::vector<EpisodeResult> episodes = evaluate(*world, acts, options);
    const EvaluationSummary s = summarize(episodes);
    if (!shown) {
      shown = acts;
      page.episodes.assign(episodes.begin(), episodes.begin() + options.record);
    }
    row.update(summary_json(s));
    cells.push_back(result_cells(label, s));
    if (a.loop.latency > 0) {
      const Latency l = measure_latency(*world, acts, options, a.loop.latency);
      row["latency_ms"] = latency_json(l);
      cells.back().push_back(latency_cell(l));
    }
    rows.push_back(row);
  };
  if (a.loop.latency > 0) cells[0].emplace_back(kLatencyHead);
  if (policy) {
    const double guidance = realtime(a.loop, a.run, policy->options().head);
    for (const int64_t n : step_counts(a.steps)) {
      const HeadSampling sampling{.n_steps = n};
      add(n == 0 ? "own" : fmt::format("{}", n), {{"n_steps", n}},
          in_closed_loop(*policy, sampling, guidance));
    }
  } else {
    if (!a.steps.empty()) {
      throw UsageError(
          "--n-steps: given for a demonstrator, which takes none; the run of a policy is accepted");
    }
    if (a.loop.realtime > 0) {
      throw UsageError(
          "--realtime: given for a demonstrator; the run of a policy with the flow head is "
          "accepted");
    }
    add(a.demonstrator, Json::object(),
        a.demonstrator == "expert" ? expert_policy(kHorizon)
                                   : random_policy(world->spec(), kHorizon));
  }
  cells[0][0] = policy ? "steps" : "policy";
  if (!a.report.empty()) {
    const std::string test = test_name(a.loop);
    page.title = policy ? fmt::format("A policy on {}", a.world)
                        : fmt::format("The {} on {}", a.demonstrator, a.world);
    page.subtitle = fmt::format("{}{} episodes of seed {}{}", policy ? a.run + ": " : "",
                                a.loop.episodes, a.common.seed, test.empty() ? "" : ", " + test);
    page.table = cells;
    if (policy) page.history = read_metrics(a.run + "/metrics.jsonl");
    write_rollout(page, *world, shown, options);
  }
  if (a.common.json) {
    Json out{{"task", a.world}};
    if (const std::string test = test_name(a.loop); !test.empty()) out["test"] = test;
    if (policy) {
      out["head"] = head_names()[static_cast<size_t>(policy->options().head)];
      out["run"] = a.run;
    } else {
      out["demonstrator"] = a.demonstrator;
    }
    out["seed"] = a.common.seed;
    out["execute"] = options.execute;
    out["delay"] = options.delay;
    out["realtime"] = a.loop.realtime;
    out["results"] = rows;
    return print_result(json_text(out) + "\n");
  }
  print_result(table(cells, std::string(cells[0].size(), '>')));
}

}  // namespace

void add_closed_loop(Command& c, ClosedLoopArguments& a) {
  c.group("Closed loop");
  c.integer("--episodes", a.episodes, "Episodes 0, 1, ... of the seed", 1, 1000000);
  c.integer("--execute", a.execute,
            "Actions of a chunk before the policy is asked again; 0 = half of them", 0, 10000);
  c.flag("--ensemble", a.ensemble, "Ask at every step, and average what all chunks say (ACT)");
  c.integer("--delay", a.delay, "Steps until an answer is there", 0, 10000);
  c.real("--realtime", a.realtime,
         "Guide each chunk of a flow towards the one under way, by this weight at most (real-time "
         "chunking; the paper takes 5); 0 = no guidance",
         0, 1000);
  c.choice("--split", a.split, "Instructions: seen ones, held-out wordings, held-out pairs",
           {"seen", "wording", "pair"});
  c.choice("--counterfactual", a.counterfactual,
           "Words name another disc; success is the told one, or the original",
           {"none", "told", "original"});
  c.flag("--one-scene", a.one_scene, "All episodes begin as the first");
  c.integer("--lockstep", a.lockstep, "Episodes side by side; changes no result", 1, 100000);
  c.integer("--latency", a.latency, "Decisions to time, after a warm-up; 0 = none", 0, 1000000);
}

std::vector<int64_t> step_counts(const std::vector<std::string>& given) {
  std::vector<int64_t> out;
  for (const std::string& text : given) {
    const Json value = parse_json_or_null(text);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > 100000) {
      throw UsageError(
          fmt::format("--n-steps: {} given; whole numbers from 0 to 100000 are accepted", text));
    }
    if (std::find(out.begin(), out.end(), value.get<int64_t>()) != out.end())
      throw UsageError(
          fmt::format("--n-steps: {} given twice; each number is accepted once", text));
    out.push_back(value.get<int64_t>());
  }
  if (out.empty()) out.push_back(0);
  return out;
}

uint64_t default_episodes_seed(const std::string& world) {
  return world == "pusht" ? PushT::kPublishedSeed : 0;
}

WorldOptions world_options(const ClosedLoopArguments& a) {
  return {.split = a.split == "wording" ? Split::wording
                   : a.split == "pair"  ? Split::pair
                                        : Split::seen,
          .counterfactual = a.counterfactual == "told"       ? Counterfactual::told
                            : a.counterfactual == "original" ? Counterfactual::original
                                                             : Counterfactual::none};
}

EvaluationOptions evaluation_options(const ClosedLoopArguments& a, uint64_t seed, int64_t horizon,
                                     ImageSize images) {
  if (a.ensemble && a.execute > 1) {
    throw UsageError(fmt::format(
        "--execute: {} given with --ensemble, which asks at every step; one of the two is accepted",
        a.execute));
  }
  return {.episodes = a.episodes,
          .seed = seed,
          .execute = a.execute > 0 ? a.execute : std::max<int64_t>(horizon / 2, 1),
          .ensemble = a.ensemble,
          .delay = a.delay,
          .images = images,
          .lockstep = a.lockstep,
          .one_scene = a.one_scene};
}

double realtime(const ClosedLoopArguments& a, const std::string& run, HeadKind head) {
  if (a.realtime > 0 && a.ensemble) {
    throw UsageError(
        "--realtime: given with --ensemble, which averages what it would guide; one of the two is "
        "accepted");
  }
  if (a.realtime > 0 && head != HeadKind::flow) {
    throw UsageError(
        fmt::format("--realtime: given for {}, which has the head {}; the flow head is accepted",
                    run, head_names()[static_cast<size_t>(head)]));
  }
  return a.realtime;
}

Yardstick yardstick(const std::string& world) {
  if (world == "pusht") return {"score", &EvaluationSummary::score_mean};
  return {"success", &EvaluationSummary::success_rate};
}

Json summary_json(const EvaluationSummary& s) {
  return {{"episodes", s.episodes},
          {"successes", s.successes},
          {"success", s.success_rate},
          {"success_low", s.interval.low},
          {"success_high", s.interval.high},
          {"score", s.score_mean},
          {"score_error", s.score_error},
          {"steps", s.steps_mean},
          {"jerk", s.jerk_mean},
          {"failures", s.failures},
          {"left", s.left},
          {"right", s.right},
          {"mode_entropy", s.mode_entropy}};
}

Json latency_json(const Latency& l) { return {{"p50", l.p50}, {"p90", l.p90}, {"p99", l.p99}}; }

std::string latency_cell(const Latency& l) {
  return fmt::format("{:.3g} / {:.3g} / {:.3g}", l.p50, l.p90, l.p99);
}

std::vector<std::string> result_heads() {
  return {"", "success", "95 %", "score", "length", "failed", "left", "right", "jerk"};
}

std::vector<std::string> result_cells(const std::string& label, const EvaluationSummary& s) {
  return {label,
          fmt::format("{:.3f}", s.success_rate),
          fmt::format("[{:.3f}, {:.3f}]", s.interval.low, s.interval.high),
          fmt::format("{:.3f} +- {:.3f}", s.score_mean, s.score_error),
          fmt::format("{:.1f}", s.steps_mean),
          fmt::format("{}", s.failures),
          fmt::format("{}", s.left),
          fmt::format("{}", s.right),
          fmt::format("{:.3g}", s.jerk_mean)};
}

void add_rollout(CLI::App& app) {
  auto a = std::make_shared<RolloutArguments>();
  Command c(app, "rollout", "Let a policy act in its world, and count its successes");
  c.group("Policy");
  c.file("--run", a->run, "Folder of a run of flowgrad imitate, or its weights");
  c.choice("--task", a->world, "World; empty = that of the run", world_names());
  c.choice("--demonstrator", a->demonstrator,
           "In place of a run: the scripted expert, or random actions", {"expert", "random"});
  c.list("--n-steps", a->steps,
         "Steps of flow or DDIM; may be repeated: a result for each. 0 = the head's own", "N");
  add_closed_loop(c, a->loop);
  c.file("--report", a->report,
         "Page with film strips, animated episodes, trajectories, the chunks that a moment may "
         "bring and the training's curves, .html");
  add_common(c, a->common);
  c.examples(
      "flowgrad rollout --run runs/fork --episodes 500 --report fork.html\n"
      "flowgrad rollout --run runs/pusht --n-steps 1 --n-steps 10 --latency 200\n"
      "flowgrad rollout --task fork --demonstrator expert");
  c.run([a](const Command& self) { run_rollout(*a, self); });
}

}  // namespace flowgrad::cli
