#include "flowgrad/optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowgrad/core/error.h"

namespace flowgrad {
namespace {

/// From a to b as fraction goes from 0 to 1 along half a cosine.
double anneal(double a, double b, double fraction) {
  return b + (a - b) / 2 * (1 + std::cos(std::numbers::pi * std::clamp(fraction, 0.0, 1.0)));
}

void check_steps(const char* who, int64_t steps, int64_t least) {
  if (steps < least)
    throw ValueError(fmt::format("{}: {} steps given; at least {} is accepted", who, steps, least));
}

void check_rate(const char* who, const char* name, double value) {
  if (value >= 0 && std::isfinite(value)) return;
  throw ValueError(fmt::format("{}: {} = {} given; a finite number of at least 0 is accepted", who,
                               name, value));
}

void check_divisor(const char* who, const char* name, double value) {
  if (value > 0 && std::isfinite(value)) return;
  throw ValueError(
      fmt::format("{}: {} = {} given; a finite positive number is accepted", who, name, value));
}

}  // namespace

Schedule constant_schedule(double lr) {
  check_rate("constant_schedule", "lr", lr);
  return [lr](int64_t) { return lr; };
}

Schedule cosine_schedule(double lr, int64_t steps, double final_lr) {
  check_steps("cosine_schedule", steps, 1);
  check_rate("cosine_schedule", "lr", lr);
  check_rate("cosine_schedule", "final_lr", final_lr);
  return [=](int64_t s) {
    return anneal(lr, final_lr, static_cast<double>(s) / static_cast<double>(steps));
  };
}

Schedule one_cycle_schedule(double max_lr, int64_t steps, double warm_fraction, double div,
                            double final_div) {
  check_steps("one_cycle_schedule", steps, 1);
  check_rate("one_cycle_schedule", "max_lr", max_lr);
  check_divisor("one_cycle_schedule", "div", div);
  check_divisor("one_cycle_schedule", "final_div", final_div);
  if (!(warm_fraction >= 0 && warm_fraction <= 1)) {
    throw ValueError(fmt::format("one_cycle_schedule: warm_fraction = {} given; 0 to 1 is accepted",
                                 warm_fraction));
  }
  const double peak = warm_fraction * static_cast<double>(steps) - 1;
  const double last = static_cast<double>(steps) - 1;
  return [=](int64_t step) {
    const auto s = static_cast<double>(step);
    if (s <= peak) return anneal(max_lr / div, max_lr, peak > 0 ? s / peak : 1);
    return anneal(max_lr, max_lr / div / final_div, last > peak ? (s - peak) / (last - peak) : 1);
  };
}

Schedule warm_up_schedule(int64_t warm_up, Schedule after) {
  check_steps("warm_up_schedule", warm_up, 0);
  if (!after) throw ValueError("warm_up_schedule: no schedule given to follow the warm-up");
  return [warm_up, after = std::move(after)](int64_t s) {
    if (s >= warm_up) return after(s - warm_up);
    return after(0) * static_cast<double>(s + 1) / static_cast<double>(warm_up);
  };
}

}  // namespace flowgrad
