#pragma once

#include <string>
#include <vector>

#include "flowgrad/optim/metrics.h"
#include "flowgrad/plot/chart.h"

/// Curves of trainings, from the rows of their metrics.
namespace flowgrad::cli {

/// Loss over the steps, and the validations beside it where they have a name.
plot::LineChart learning_curve(const std::vector<MetricsRow>& history,
                               const plot::AxisOptions& loss, const std::string& validation = "");
/// Norm of the gradient and learning rate over the steps.
plot::LineChart rate_and_norm(const std::vector<MetricsRow>& history);

/// Trainings of one method, which differ by their seeds.
struct MethodHistory {
  std::string name;
  std::vector<std::vector<MetricsRow>> runs;
};
/// What the evaluations of `imitate --evaluate-every` measured, "success" say, against the
/// processor time of the training alone: a line a method, the mean over its seeds, with their range
/// as a band. No series where no training was evaluated.
plot::LineChart equal_compute(const std::vector<MethodHistory>& methods,
                              const std::string& measure);
/// The losses of methods over the same time; their scales are their own.
plot::LineChart losses(const std::vector<MethodHistory>& methods);

}  // namespace flowgrad::cli
