#pragma once

#include <string>
#include <vector>

#include "flowgrad/cli/demo.h"
#include "flowgrad/cli/robot.h"

/// The parts of `flowgrad demo vla`.
namespace flowgrad::cli {

struct VlaTraining {
  std::string run = {};  ///< a run of imitate, for rollout, compare and --resume
  int64_t frames = 0, parameters = 0, steps = 0;
  double seconds = 0;
  std::vector<MetricsRow> history = {};
};

struct VlaTest {
  std::string name = {};
  EvaluationOptions options = {};
  std::vector<EpisodeResult> episodes = {};
  EvaluationSummary summary = {};
};

struct VlaResults {
  VlaTraining training;
  /// Seen wordings, whose first episodes are recorded; unseen ones; told and original disc.
  std::vector<VlaTest> tests;
  int64_t differing = 0;
  Latency latency;
};
constexpr size_t kOriginal = 3;

/// Writes report.html and its pictures.
void write_vla_report(const DemoSettings& settings, const VlaResults& results,
                      const DemoFindings& found, const World& world, const Policy& policy);

}  // namespace flowgrad::cli
