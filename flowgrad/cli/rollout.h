#pragma once

#include <span>
#include <string>
#include <vector>

#include "flowgrad/cli/options.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/core/json.h"
#include "flowgrad/models/action_head.h"
#include "flowgrad/optim/metrics.h"
#include "flowgrad/plot/chart.h"
#include "flowgrad/plot/image.h"
#include "flowgrad/plot/report.h"
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

/// The values of --n-steps; without any, one 0: the head's own. UsageError for what is no number
/// and for one given twice, which compare would take for another training seed.
std::vector<int64_t> step_counts(const std::vector<std::string>& given);
/// Where --seed is not given: the published starts of PushT, else 0.
uint64_t default_episodes_seed(const std::string& world);
WorldOptions world_options(const ClosedLoopArguments& a);
/// For a policy of this horizon that sees such pictures; half a chunk is executed unless --execute
/// says otherwise.
EvaluationOptions evaluation_options(const ClosedLoopArguments& a, uint64_t seed, int64_t horizon,
                                     ImageSize images = {});
/// Largest weight of real-time chunking; UsageError where the head or ensembling rule it out.
double realtime(const ClosedLoopArguments& a, const std::string& run, HeadKind head);

/// What an evaluation of a world is read by: score on PushT, where few episodes succeed, else
/// success.
struct Yardstick {
  const char* name;
  double EvaluationSummary::*field;
};
Yardstick yardstick(const std::string& world);

Json summary_json(const EvaluationSummary& s);
Json latency_json(const Latency& l);
/// The title of a column of latencies, and a cell of it.
constexpr const char* kLatencyHead = "p50 / p90 / p99, ms";
std::string latency_cell(const Latency& l);
/// Columns of a table of results, the first without a title, and a row of it.
std::vector<std::string> result_heads();
std::vector<std::string> result_cells(const std::string& label, const EvaluationSummary& s);

/// A recorded moment as a picture of size x size pixels.
plot::Image scene(const World& world, std::span<const double> snapshot, int64_t size);
/// Moments of recorded episodes, a row for each, evenly from its first to its last.
plot::Image film_strip(const World& world, std::span<const EpisodeResult> episodes,
                       int64_t columns = 8);
/// A recorded episode as an animated SVG.
std::string moving_picture(const World& world, const EpisodeResult& episode);

/// What a policy answers when it is asked many times at one moment of an episode.
struct ChunkCloud {
  std::vector<double> snapshot = {};
  uint64_t episode = 0;
  int64_t step = 0;
  Tensor chunks;  ///< (draws, horizon, A) float64
  /// Which of two groups each chunk belongs to (2-means; 0 is the larger); empty where all are one.
  std::vector<int> group = {};
  /// Distance of the groups' centres in deviations around them on that line (Ashman, Bird and Zepf
  /// 1994); a normal cloud cut in two has about 2.7.
  double separation = 0.0;
};
/// Fills in group and separation.
void split(ChunkCloud& cloud);
/// Of the questions in recorded episodes with widely different answers, the one where they fall
/// most clearly in two: a fork. Every draw has the noise of an episode of its own, of the options'
/// seed. Raises ValueError for fewer than two draws.
ChunkCloud clearest_fork(const World& world, const Policy& policy, const EvaluationOptions& options,
                         std::span<const EpisodeResult> episodes, int64_t draws);
/// The chunks as paths over a picture of their surroundings, coloured by group.
std::string chunks_over_scene(const World& world, const ChunkCloud& cloud);
/// First and last action of the chunks, a panel for each pair of their coordinates, which are in
/// standard deviations from their mean. No panels where all answers are one.
plot::Scatter projections(const World& world, const ChunkCloud& cloud);
/// A section of a page: the cloud in both pictures, and what it is; nothing for an empty one.
void add_chunks(plot::Report& report, const World& world, const ChunkCloud& cloud);
/// What was executed in a recorded episode and where the robot was, over the steps.
plot::LineChart trajectory(const World& world, const EpisodeResult& episode);

/// The page of `flowgrad rollout --report`.
struct RolloutReport {
  std::string path, title = {}, subtitle = {};
  std::vector<std::vector<std::string>> table = {};  ///< as printed, with its heads
  std::vector<EpisodeResult> episodes = {};          ///< recorded ones
  std::vector<MetricsRow> history = {};              ///< of the policy's training
};
void write_rollout(const RolloutReport& report, const World& world, const Policy& policy,
                   const EvaluationOptions& options);

}  // namespace flowgrad::cli
