#pragma once

#include <optional>
#include <string>
#include <vector>

namespace flowgrad::plot {

enum class Scale { linear, log };

/// How a chart's axis is asked for.
struct AxisOptions {
  std::string label = {};  ///< "step"
  std::string unit = {};   ///< "nats": shown as "loss (nats)"
  Scale scale = Scale::linear;
  std::optional<double> lo = {};  ///< ends of the axis; taken from the data where absent
  std::optional<double> hi = {};

  /// "loss (nats)", "loss" or "".
  std::string caption() const;
};

/// A value on an axis and the text beside it; minor ticks carry no text.
struct Tick {
  double value = 0.0;
  std::string label;
};

/// Ticks at multiples of 1, 2, 2.5 or 5 times a power of ten inside [lo, hi], near `target` many
/// and never more than 2 * target + 1. Labels share one number of decimals and one factor: 10k,
/// 20k; 0.25, 0.50; 2×10⁻⁵. Raises ValueError unless lo < hi are finite and target > 0.
std::vector<Tick> linear_ticks(double lo, double hi, int target);

/// Ticks at powers of ten, or at 1, 2, 5 times powers of ten where the range is short. Raises
/// ValueError unless 0 < lo < hi are finite and target > 0.
std::vector<Tick> log_ticks(double lo, double hi, int target);

/// A number as a reader likes it, with `digits` significant digits: "2.394", "12,345", "3.1×10⁻⁷",
/// "−0.5", "inf", "nan".
std::string pretty_number(double value, int digits = 4);

/// A scale between data values and pixels. `from` may be greater than `to`, as for a y axis.
class Axis {
 public:
  Axis() = default;
  /// An axis for data in [data_lo, data_hi]; options.lo and options.hi win. `padding` is the share
  /// of the range added at either end that options leave open. An empty or inverted range is
  /// widened so that every finite input gives a usable axis. Raises ValueError for options that
  /// cannot be: not finite, lo >= hi, or not positive on a log scale.
  Axis(const AxisOptions& options, double data_lo, double data_hi, double padding);

  void set_pixels(double from, double to);
  double lo() const { return lo_; }
  double hi() const { return hi_; }
  Scale scale() const { return scale_; }
  /// Pixel of a value. Values that a log axis cannot show (not positive) and NaN give NaN.
  double pixel(double value) const;
  /// Labelled ticks, near `target` many.
  std::vector<Tick> ticks(int target) const;
  /// Labelled ticks of a horizontal axis: as many as stand side by side without touching.
  std::vector<Tick> ticks_across(double font_size) const;
  /// Values of the unlabelled subdivisions; empty on linear axes and on long log ranges.
  std::vector<double> minor_ticks() const;

 private:
  Scale scale_ = Scale::linear;
  double lo_ = 0.0;
  double hi_ = 1.0;
  double from_ = 0.0;
  double to_ = 1.0;
};

}  // namespace flowgrad::plot
