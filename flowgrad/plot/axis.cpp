#include "flowgrad/plot/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/svg.h"

namespace flowgrad::plot {
namespace {

constexpr std::string_view kMinus = "−";

std::string superscript(int value) {
  constexpr std::array<std::string_view, 10> digits{"⁰", "¹", "²", "³", "⁴",
                                                    "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out = value < 0 ? "⁻" : "";
  for (char c : std::to_string(std::abs(value))) out += digits[static_cast<size_t>(c - '0')];
  return out;
}

/// Fixed decimals with a typographic minus; "-0.00" is "0.00".
std::string fixed(double value, int decimals) {
  std::string s = fmt::format("{:.{}f}", std::abs(value), decimals);
  const bool zero = s.find_first_of("123456789") == std::string::npos;
  return value < 0.0 && !zero ? std::string(kMinus) + s : s;
}

std::string trimmed(std::string s) {
  if (s.find('.') != std::string::npos) {
    s.erase(s.find_last_not_of('0') + 1);
    if (s.back() == '.') s.pop_back();
  }
  return s;
}

std::string power_of_ten(int exponent) { return "10" + superscript(exponent); }

std::string grouped(std::string integer_text) {
  const size_t start = integer_text.rfind(kMinus, 0) == 0 ? kMinus.size() : 0;
  for (size_t at = integer_text.size(); at > start + 3; at -= 3) integer_text.insert(at - 3, ",");
  return integer_text;
}

/// The decimals that a multiple of `step` needs.
int decimals_for(double step) {
  int decimals = 0;
  for (double s = step; decimals < 12; ++decimals, s *= 10.0) {
    if (std::abs(s - std::round(s)) < 1e-6 * std::max(1.0, s)) break;
  }
  return decimals;
}

double nice_step(double span, int target) {
  const double raw = span / target;
  const double base = std::pow(10.0, std::floor(std::log10(raw)));
  double best = base;
  double best_error = 1e300;
  for (double factor : {1.0, 2.0, 2.5, 5.0, 10.0}) {
    // 2.5 costs a digit more than its neighbours, so it must fit clearly better.
    const double error = std::abs(std::log(factor * base / raw)) + (factor == 2.5 ? 0.15 : 0.0);
    if (error < best_error) {
      best_error = error;
      best = factor * base;
    }
  }
  return best;
}

void check_range(const char* op, double lo, double hi, int target, bool positive) {
  if (!std::isfinite(lo) || !std::isfinite(hi) || lo >= hi || (positive && lo <= 0.0)) {
    throw ValueError(fmt::format("{}: range is [{}, {}]; accepted are finite {} lo < hi", op, lo,
                                 hi, positive ? "positive" : ""));
  }
  if (target <= 0) throw ValueError(fmt::format("{}: target is {}; accepted is > 0", op, target));
}

}  // namespace

std::string AxisOptions::caption() const {
  if (unit.empty()) return label;
  return label.empty() ? unit : fmt::format("{} ({})", label, unit);
}

std::vector<Tick> linear_ticks(double lo, double hi, int target) {
  check_range("linear_ticks", lo, hi, target, false);
  double step = nice_step(hi - lo, target);
  const auto first_of = [&] { return std::ceil(lo / step - 1e-9); };
  const auto last_of = [&] { return std::floor(hi / step + 1e-9); };
  // A lone label would leave the scale unknown.
  for (int more = 1; last_of() - first_of() < 1 && more <= 4; ++more)
    step = nice_step(hi - lo, target + more);
  const double first = first_of(), last = last_of();
  std::vector<double> values;
  for (double k = first; k <= last && values.size() < 2 * static_cast<size_t>(target) + 1; ++k) {
    values.push_back(k * step);
  }
  double largest = 0.0;
  for (double v : values) largest = std::max(largest, std::abs(v));
  double factor = 1.0;
  std::string suffix;
  if (largest >= 1e15 || (largest > 0.0 && largest < 1e-3)) {
    const int exponent = static_cast<int>(std::floor(std::log10(largest) + 1e-9));
    factor = std::pow(10.0, exponent);
    suffix = "×" + power_of_ten(exponent);
  } else if (largest >= 1e9) {
    factor = 1e9, suffix = "G";
  } else if (largest >= 1e6) {
    factor = 1e6, suffix = "M";
  } else if (largest >= 1e4) {
    factor = 1e3, suffix = "k";
  }
  const int decimals = decimals_for(step / factor);
  std::vector<Tick> ticks;
  for (double v : values) {
    ticks.push_back({v, std::abs(v) < 1e-9 * step ? "0" : fixed(v / factor, decimals) + suffix});
  }
  return ticks;
}

std::vector<Tick> log_ticks(double lo, double hi, int target) {
  check_range("log_ticks", lo, hi, target, true);
  const double log_lo = std::log10(lo);
  const double log_hi = std::log10(hi);
  const int first = static_cast<int>(std::ceil(log_lo - 1e-9));
  const int last = static_cast<int>(std::floor(log_hi + 1e-9));
  const bool plain = first >= -3 && last <= 3;
  const auto label = [&](int exponent, int factor) {
    if (plain) return trimmed(fixed(factor * std::pow(10.0, exponent), std::max(0, -exponent)));
    return factor == 1 ? power_of_ten(exponent)
                       : std::to_string(factor) + "×" + power_of_ten(exponent);
  };
  std::vector<Tick> ticks;
  if (log_hi - log_lo >= 1.7) {
    const int stride =
        std::max(1, static_cast<int>(std::ceil((last - first + 1.0) / (target + 1))));
    for (int e = first; e <= last; ++e) {
      if (e % stride == 0) ticks.push_back({std::pow(10.0, e), label(e, 1)});
    }
    if (ticks.size() >= 2) return ticks;
    ticks.clear();
  }
  for (int e = first - 1; e <= last; ++e) {
    for (int factor : {1, 2, 5}) {
      const double v = factor * std::pow(10.0, e);
      if (v >= lo * (1 - 1e-9) && v <= hi * (1 + 1e-9)) ticks.push_back({v, label(e, factor)});
    }
  }
  return ticks.size() >= 2 ? ticks : linear_ticks(lo, hi, target);
}

std::string pretty_number(double value, int digits) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0.0 ? std::string(kMinus) + "inf" : "inf";
  if (value == 0.0) return "0";
  digits = std::clamp(digits, 1, 17);
  const double magnitude = std::abs(value);
  const int exponent = static_cast<int>(std::floor(std::log10(magnitude)));
  if (exponent < -4 || exponent >= 15) {
    const std::string s = fmt::format("{:.{}e}", magnitude, digits - 1);
    const size_t at = s.find('e');
    return (value < 0.0 ? std::string(kMinus) : "") + trimmed(s.substr(0, at)) + "×" +
           power_of_ten(std::stoi(s.substr(at + 1)));
  }
  const std::string s = trimmed(fixed(value, std::max(0, digits - 1 - exponent)));
  const size_t point = std::min(s.find('.'), s.size());
  return grouped(s.substr(0, point)) + s.substr(point);
}

Axis::Axis(const AxisOptions& options, double data_lo, double data_hi, double padding)
    : scale_(options.scale) {
  const bool log = scale_ == Scale::log;
  for (const auto& end : {options.lo, options.hi}) {
    if (end && (!std::isfinite(*end) || (log && *end <= 0.0))) {
      throw ValueError(fmt::format("axis '{}': end is {}; accepted is a finite {}number",
                                   options.label, *end, log ? "positive " : ""));
    }
  }
  if (options.lo && options.hi && *options.lo >= *options.hi) {
    throw ValueError(fmt::format("axis '{}': lo is {} and hi is {}; lo must be below hi",
                                 options.label, *options.lo, *options.hi));
  }
  const bool no_data = !std::isfinite(data_lo) || !std::isfinite(data_hi) || data_lo > data_hi ||
                       (log && data_lo <= 0.0);
  if (no_data) {
    data_lo = log ? 0.1 : 0.0;
    data_hi = 1.0;
  }
  // Work in the scale's own coordinate, where padding and widening are plain additions.
  const auto forward = [&](double v) { return log ? std::log10(v) : v; };
  double lo = forward(options.lo.value_or(data_lo));
  double hi = forward(options.hi.value_or(data_hi));
  const double room = padding * std::max(hi - lo, 0.0);
  if (!options.lo) lo -= room;
  if (!options.hi) hi += room;
  const double least = log ? 0.1 : std::max(1e-9 * std::max(std::abs(lo), std::abs(hi)), 1e-300);
  if (hi - lo < least) {
    const double widen =
        log ? 0.5 : (lo == 0.0 && hi == 0.0 ? 0.5 : 0.1 * std::max(std::abs(lo), std::abs(hi)));
    if (!options.lo) lo = std::min(lo, hi) - widen;
    if (!options.hi) hi = std::max(hi, lo) + widen;
  }
  // Padding must not leave the range of doubles.
  lo_ = log ? std::pow(10.0, std::max(lo, -305.0)) : lo;
  hi_ = log ? std::pow(10.0, std::min(hi, 305.0)) : hi;
}

void Axis::set_pixels(double from, double to) {
  from_ = from;
  to_ = to;
}

double Axis::pixel(double value) const {
  if (scale_ == Scale::log) {
    if (!(value > 0.0)) return std::nan("");
    return from_ + (to_ - from_) * std::log(value / lo_) / std::log(hi_ / lo_);
  }
  return from_ + (to_ - from_) * (value - lo_) / (hi_ - lo_);
}

std::vector<Tick> Axis::ticks(int target) const {
  return scale_ == Scale::log ? log_ticks(lo_, hi_, target) : linear_ticks(lo_, hi_, target);
}

std::vector<Tick> Axis::ticks_across(double font_size) const {
  const int most = std::clamp(static_cast<int>(std::abs(to_ - from_) / 52.0), 2, 10);
  std::vector<Tick> found;
  for (int target = most; target >= 1; --target) {
    found = ticks(target);
    bool clear = true;
    for (size_t i = 1; i < found.size(); ++i) {
      const double gap = std::abs(pixel(found[i].value) - pixel(found[i - 1].value));
      const double half =
          0.5 * (text_width(found[i].label, font_size) + text_width(found[i - 1].label, font_size));
      clear = clear && gap > half + 8.0;
    }
    if (clear) return found;
  }
  if (found.size() > 2) found = {found.front(), found.back()};
  return found;
}

std::vector<double> Axis::minor_ticks() const {
  std::vector<double> values;
  if (scale_ != Scale::log || std::log10(hi_ / lo_) > 5.0) return values;
  const int first = static_cast<int>(std::floor(std::log10(lo_)));
  const int last = static_cast<int>(std::ceil(std::log10(hi_)));
  for (int e = first; e <= last; ++e) {
    for (int factor = 2; factor <= 9; ++factor) {
      const double v = factor * std::pow(10.0, e);
      if (v > lo_ && v < hi_) values.push_back(v);
    }
  }
  return values;
}

}  // namespace flowgrad::plot
