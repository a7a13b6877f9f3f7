#pragma once

#include <cstdint>
#include <span>

#include "flowgrad/tasks/episodes.h"

namespace flowgrad {

struct Interval {
  double low = 0.0;
  double high = 1.0;
};

/// Wilson's score interval (Wilson 1927) of a proportion; z is 1.96 for 95 %. It covers the choice
/// of episodes, not that of a training seed. Raises ValueError unless 0 <= successes <= trials and
/// trials > 0 and z > 0.
Interval wilson_interval(int64_t successes, int64_t trials, double z = 1.959963984540054);

/// McNemar's exact test of two policies on the same episodes.
struct PairedTest {
  int64_t first_only = 0;   ///< episodes that only the first policy solved
  int64_t second_only = 0;  ///< that only the second did
  double p_value = 1.0;     ///< two-sided, of the two being equally likely
};
/// Raises ValueError where the two lists do not hold the same episodes in the same order.
PairedTest mcnemar(std::span<const EpisodeResult> first, std::span<const EpisodeResult> second);

struct EvaluationSummary {
  int64_t episodes = 0;
  int64_t successes = 0;
  double success_rate = 0.0;
  Interval interval;  ///< of the success rate, 95 % (Wilson)
  double score_mean = 0.0;
  double score_error = 0.0;  ///< standard error of that mean
  double steps_mean = 0.0;
  double jerk_mean = 0.0;
  int64_t failures = 0;  ///< episodes that something ended, such as touching the pillar
  int64_t left = 0;
  int64_t right = 0;
  /// Entropy of left and right in bits, of the episodes that took one: 1 when both are as frequent.
  double mode_entropy = 0.0;
};
/// Raises ValueError for no results.
EvaluationSummary summarize(std::span<const EpisodeResult> results);

}  // namespace flowgrad
