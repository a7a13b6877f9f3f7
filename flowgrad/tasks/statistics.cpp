#include "flowgrad/tasks/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"

namespace flowgrad {
namespace {

/// P(X <= most) for X ~ Binomial(count, 1/2).
double half_binomial_tail(int64_t most, int64_t count) {
  const auto n = static_cast<double>(count);
  double sum = 0.0;
  for (int64_t i = 0; i <= most; ++i) {
    const auto k = static_cast<double>(i);
    sum += std::exp(std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) -
                    n * std::log(2.0));
  }
  return sum;
}

double entropy_bits(int64_t left, int64_t right) {
  double bits = 0.0;
  for (const int64_t count : {left, right}) {
    if (count == 0) continue;
    const double p = static_cast<double>(count) / static_cast<double>(left + right);
    bits -= p * std::log2(p);
  }
  return bits;
}

}  // namespace

Interval wilson_interval(int64_t successes, int64_t trials, double z) {
  if (successes < 0 || trials < 1 || successes > trials || !(z > 0.0)) {
    throw ValueError(
        fmt::format("wilson_interval: {} successes of {} with z = {}; accepted are 0 "
                    "<= successes <= trials, trials >= 1, z > 0",
                    successes, trials, z));
  }
  const auto n = static_cast<double>(trials);
  const double p = static_cast<double>(successes) / n;
  const double square = z * z;
  const double center = (p + square / (2.0 * n)) / (1.0 + square / n);
  const double half =
      z / (1.0 + square / n) * std::sqrt(p * (1.0 - p) / n + square / (4.0 * n * n));
  return {successes == 0 ? 0.0 : center - half, successes == trials ? 1.0 : center + half};
}

PairedTest mcnemar(std::span<const EpisodeResult> first, std::span<const EpisodeResult> second) {
  const auto same = [](const EpisodeResult& a, const EpisodeResult& b) {
    return a.episode == b.episode;
  };
  if (!std::equal(first.begin(), first.end(), second.begin(), second.end(), same)) {
    throw ValueError(
        fmt::format("mcnemar: results of {} and of {} episodes, which are not the same; accepted "
                    "are the same episodes in the same order",
                    first.size(), second.size()));
  }
  PairedTest test;
  for (size_t i = 0; i < first.size(); ++i) {
    const bool a = first[i].outcome.success;
    const bool b = second[i].outcome.success;
    test.first_only += a && !b ? 1 : 0;
    test.second_only += b && !a ? 1 : 0;
  }
  const int64_t differ = test.first_only + test.second_only;
  const int64_t fewer = std::min(test.first_only, test.second_only);
  if (differ > 0) test.p_value = std::min(1.0, 2.0 * half_binomial_tail(fewer, differ));
  return test;
}

EvaluationSummary summarize(std::span<const EpisodeResult> results) {
  if (results.empty()) throw ValueError("summarize: no results; accepted is at least one");
  EvaluationSummary s;
  s.episodes = static_cast<int64_t>(results.size());
  const auto n = static_cast<double>(s.episodes);
  for (const EpisodeResult& r : results) {
    s.successes += r.outcome.success ? 1 : 0;
    s.failures += r.outcome.failure.empty() ? 0 : 1;
    s.left += r.outcome.mode > 0 ? 1 : 0;
    s.right += r.outcome.mode < 0 ? 1 : 0;
    s.score_mean += r.outcome.score;
    s.steps_mean += static_cast<double>(r.outcome.steps);
    s.jerk_mean += r.jerk;
  }
  for (double* sum : {&s.score_mean, &s.steps_mean, &s.jerk_mean}) *sum /= n;
  double squares = 0.0;
  for (const EpisodeResult& r : results) {
    const double off = r.outcome.score - s.score_mean;
    squares += off * off;
  }
  if (s.episodes > 1) s.score_error = std::sqrt(squares / (n - 1.0) / n);
  s.success_rate = static_cast<double>(s.successes) / n;
  s.interval = wilson_interval(s.successes, s.episodes);
  s.mode_entropy = entropy_bits(s.left, s.right);
  return s;
}

}  // namespace flowgrad
