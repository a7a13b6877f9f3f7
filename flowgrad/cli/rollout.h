#pragma once

#include <span>
#include <string>
#include <vector>

#include "flowgrad/cli/options.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/core/json.h"
#include "flowgrad/models/action_head.h"
#include "flowgrad/plot/image.h"
#include "flowgrad/tasks/episodes.h"
#include "flowgrad/tasks/statistics.h"

/// What `flowgrad rollout` and `compare` share.
namespace flowgrad::cli {

struct ClosedLoopArguments {
  int64_t episodes = 200;
  int64_t execute = 0;
  bool ensemble = false;
  int64_t delay = 0;
  double realtime = 0;
  std::string split = "seen", counterfactual = "none";
  bool one_scene = false;
  int64_t lockstep = 256;
  int64_t latency = 0;
};
void add_closed_loop(Command& command, ClosedLoopArguments& arguments);

/// The values of --n-steps; without any, one 0: the head's own. UsageError for what is no number.
std::vector<int64_t> step_counts(const std::vector<std::string>& given);
/// Where --seed is not given: the published starts of PushT, else 0.
uint64_t default_episodes_seed(const std::string& world);
WorldOptions world_options(const ClosedLoopArguments& a);
/// Without pictures and `execute`, which a policy tells.
EvaluationOptions evaluation_options(const ClosedLoopArguments& a, uint64_t seed);
int64_t executed(const ClosedLoopArguments& a, int64_t horizon);
/// Largest weight of real-time chunking; UsageError where the head or ensembling rule it out.
double realtime(const ClosedLoopArguments& a, const std::string& run, HeadKind head);

Json summary_json(const EvaluationSummary& s);
Json latency_json(const Latency& l);
/// The title of a column of latencies, and a cell of it.
constexpr const char* kLatencyHead = "p50 / p90 / p99, ms";
std::string latency_cell(const Latency& l);
/// Columns of a table of results, the first without a title, and a row of it.
std::vector<std::string> result_heads();
std::vector<std::string> result_cells(const std::string& label, const EvaluationSummary& s);

/// Moments of recorded episodes, a row for each, evenly from its first to its last.
plot::Image film_strip(const World& world, std::span<const EpisodeResult> episodes,
                       int64_t columns = 8);
/// A recorded episode as an animated SVG.
std::string moving_picture(const World& world, const EpisodeResult& episode);

}  // namespace flowgrad::cli
