#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/cli/curves.h"
#include "flowgrad/cli/demo_vla.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/plot/report.h"

// The page of `flowgrad demo vla`.
namespace flowgrad::cli {
namespace {

/// "put the red disc in the north": what a recorded episode was told.
std::string told(const World& prototype, const EpisodeResult& episode) {
  const std::unique_ptr<World> world = prototype.clone();
  world->restore(
      std::span(episode.snapshots).first(static_cast<size_t>(prototype.spec().snapshot_dim)));
  return world->instruction();
}

plot::Table results(const VlaResults& r) {
  plot::Table out{.columns = {"test", "successes", "success", "95 % (Wilson)", "score"},
                  .caption =
                      "Each test has as many fresh episodes of the same scenes; words "
                      "swapped: they name another disc than the one that was drawn"};
  for (const VlaTest& t : r.tests) {
    const EvaluationSummary& s = t.summary;
    out.rows.push_back({t.name, fmt::format("{} of {}", s.successes, s.episodes),
                        fmt::format("{:.3f}", s.success_rate),
                        fmt::format("{:.3f} to {:.3f}", s.interval.low, s.interval.high),
                        fmt::format("{:.3f} ± {:.3f}", s.score_mean, s.score_error)});
  }
  return out;
}

/// Mean over the seeds of a committed figure, with their range.
std::string mean_and_range(const Json& seeds, const std::string& name) {
  double sum = 0, lo = HUGE_VAL, hi = -HUGE_VAL;
  double n = 0;
  for (const auto& [seed, values] : seeds.items()) {
    if (!values.contains(name)) continue;
    const double v = values.at(name).get<double>();
    sum += v;
    lo = std::min(lo, v);
    hi = std::max(hi, v);
    ++n;
  }
  if (n == 0) return "-";
  return n == 1 ? fmt::format("{:.3f}", sum)
                : fmt::format("{:.3f} ({:.3f} to {:.3f})", sum / n, lo, hi);
}

/// The committed policies of the table and of the fork.
plot::Table committed() {
  plot::Table out{.columns = {"policy", "training seeds", "steps", "processor seconds", "success",
                              "other tests"},
                  .caption =
                      "Means over training seeds and their range, all seeds on the same fresh "
                      "episodes; `python3 scripts/figures.py make` makes them anew"};
  const Json all = parse_json(committed_figures());
  for (const auto& [name, figure] : all.items()) {
    if (!name.starts_with("tabletop-") && !name.starts_with("fork-")) continue;
    const Json& seeds = figure.at("seeds");
    if (seeds.empty()) continue;
    std::vector<std::string> others;
    for (const auto& [key, value] : seeds.begin().value().items()) {
      const std::string test = "success, ";
      if (key.starts_with(test))
        others.push_back(key.substr(test.size()) + " " + mean_and_range(seeds, key));
    }
    out.rows.push_back({name, fmt::format("{}", seeds.size()),
                        fmt::format("{}", seeds.begin().value().value("steps", int64_t{0})),
                        mean_and_range(seeds, "training CPU seconds"),
                        mean_and_range(seeds, "success"),
                        fmt::format("{}", fmt::join(others, "; "))});
  }
  return out;
}

}  // namespace

void write_vla_report(const DemoSettings& settings, const VlaResults& r, const DemoFindings& found,
                      const World& world, const Policy& policy) {
  const auto in_run = [&](const char* name) { return settings.run + "/" + name; };
  const auto drawing = [&](const char* name, std::string svg) {
    write_file_atomic(in_run(name), svg);
    return svg;
  };
  std::vector<EpisodeResult> recorded;
  for (const EpisodeResult& e : r.tests[0].episodes) {
    if (!e.snapshots.empty()) recorded.push_back(e);
  }
  plot::Report report(
      "flowgrad demo vla",
      fmt::format("A robot that sees, reads and acts, trained from nothing in {:.0f} seconds{}.",
                  found.seconds, settings.quick ? " (the quick version)" : ""));
  report.heading("Checks");
  report.paragraph(
      "Measured in this run, on episodes that no demonstration had. Demands were set beforehand; "
      "`flowgrad demo vla` ends with exit code 1 when one is not met.");
  if (settings.quick) {
    report.note(
        "This is the quick version, a check in passing: its policy has learned nothing yet. "
        "`./run demo vla` is the real one.");
  }
  report.checks(found.checks);

  report.heading("What it does");
  report.paragraph(
      "Three discs lie on a table, and words such as those below say which of them belongs in "
      "which zone. The policy gets a picture of 48 x 48 pixels, the words and where its pusher "
      "is; flow matching turns noise into its next actions. Pushing needs feedback: a disc that is "
      "pushed beside its middle slips away.");
  report.table(results(r));
  std::vector<plot::Figure> moving;
  for (const EpisodeResult& e : recorded) {
    moving.push_back(
        {.svg = moving_picture(world, e),
         .caption = fmt::format(
             "“{}”: {}", told(world, e),
             e.outcome.success ? fmt::format("done in {} steps", e.outcome.steps) : "not done")});
  }
  drawing("episode.svg", moving[0].svg);
  report.figures(moving);
  plot::Image film = film_strip(world, recorded);
  plot::write_png(in_run("episodes.png"), film);
  report.figure({.image = std::move(film), .caption = "The same episodes from start to end."});
  constexpr int64_t kDraws = 128;
  add_chunks(
      report, world,
      clearest_fork(world, policy, r.tests[0].options, std::span(recorded).first(1), kDraws));

  report.heading("How it learned");
  const plot::LineChart success = equal_compute({{"", {r.training.history}}}, "success");
  report.figure({.svg = drawing("success.svg", success.svg()),
                 .caption = "Averaged weights on the way, on episodes apart from those above."});
  report.figure(
      {.svg = drawing("loss.svg", learning_curve(r.training.history,
                                                 {.label = "loss", .scale = plot::Scale::log})
                                      .svg())});

  report.heading("Beside full trainings");
  report.paragraph(
      "Other ways to read actions off a feature, and longer trainings, from the project's "
      "committed figures (`docs/figures.json`). In the fork a demonstrator goes left or right of a "
      "pillar by a coin. Regression learns the mean of both ways, and yet succeeds in about half "
      "of the episodes; flow does in more. Over five training seeds of each, pooled episodes tell "
      "the two apart (Wilson's intervals, 95 %), and seeds do not (Student's t, 95 %): flow's lead "
      "is that of these policies, and not yet of the head.");
  report.table(committed());

  report.heading("Settings and times");
  report.facts({{"parameters", fmt::format("{}", r.training.parameters)},
                {"demonstrated moments", fmt::format("{}", r.training.frames)},
                {"steps", fmt::format("{}", r.training.steps)},
                {"training, with evaluations", fmt::format("{:.0f} s", r.training.seconds)},
                {"a decision",
                 fmt::format("{:.1f} ms (p50), {:.1f} ms (p99)", r.latency.p50, r.latency.p99)},
                {"seed", fmt::format("{}", settings.seed)},
                {"threads", fmt::format("{}", settings.threads)},
                {"in all", fmt::format("{:.0f} s", found.seconds)}});
  report.heading("How to go on");
  report.code(
      fmt::format("flowgrad=build/release/bin/flowgrad\n"
                  "$flowgrad rollout --run {0} --split pair --report pairs.html\n"
                  "$flowgrad imitate --preset tabletop --run runs/tabletop\n"
                  "$flowgrad rollout --run runs/tabletop --report tabletop.html",
                  r.training.run));
  report.list({"`docs/policy.md`: heads, training, the closed loop",
               "`docs/robot.md`: the worlds and how they are judged"});
  report.write(in_run("report.html"));
}

}  // namespace flowgrad::cli
