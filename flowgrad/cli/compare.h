#pragma once

#include <string>
#include <vector>

#include "flowgrad/cli/robot.h"
#include "flowgrad/optim/metrics.h"

/// The parts of `flowgrad compare`.
namespace flowgrad::cli {

/// A policy with one number of steps, on the episodes.
struct Run {
  std::string path;
  Config config = {};       ///< keys of the model and options of its training: what a method is
  int64_t n_steps = 0;      ///< of flow or DDIM; 0 is the head's own
  int64_t evaluations = 1;  ///< of the network, for a decision
  std::vector<EpisodeResult> episodes = {};
  EvaluationSummary summary = {};
  Latency latency = {};
  std::vector<MetricsRow> history = {};  ///< empty for lone weights
};

/// Runs of equal configuration and steps at sampling: one method, trained from several seeds.
struct Method {
  std::string name;   ///< head, and every key in which methods of that head differ
  std::string label;  ///< with the number of steps, where there are several
  std::vector<const Run*> runs;
};

/// Mean over training seeds and half the length of its 95 % interval, by Student's t; NaN of one.
struct OverSeeds {
  double mean = 0, half = 0;
};
OverSeeds over_seeds(const Method& method, double EvaluationSummary::*field);

/// The page of --report: bars, success against evaluations and against training time, and episodes.
/// `table` is what is printed, with its heads.
void write_comparison(const std::string& path, const std::string& subtitle, const World& world,
                      const std::vector<Method>& methods,
                      const std::vector<std::vector<std::string>>& table);

}  // namespace flowgrad::cli
