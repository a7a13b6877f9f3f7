#include "flowgrad/plot/axis.h"

#include <cmath>
#include <limits>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/svg.h"
#include "tests/catch.hpp"

using namespace flowgrad;
using namespace flowgrad::plot;

namespace {

std::vector<std::string> labels(const std::vector<Tick>& ticks) {
  std::vector<std::string> out;
  for (const Tick& t : ticks) out.push_back(t.label);
  return out;
}

using Labels = std::vector<std::string>;

}  // namespace

TEST_CASE("linear ticks are round and share their format", "[axis_test]") {
  CHECK(labels(linear_ticks(0, 10, 5)) == Labels{"0", "2", "4", "6", "8", "10"});
  CHECK(labels(linear_ticks(-1, 1, 4)) == Labels{"−1.0", "−0.5", "0", "0.5", "1.0"});
  CHECK(labels(linear_ticks(0, 40000, 4)) == Labels{"0", "10k", "20k", "30k", "40k"});
  CHECK(labels(linear_ticks(0, 3e6, 3)) == Labels{"0", "1M", "2M", "3M"});
  CHECK(labels(linear_ticks(0, 3e-5, 3)) == Labels{"0", "1×10⁻⁵", "2×10⁻⁵", "3×10⁻⁵"});
  // 2.5 would be nearer to 11.5 / 5, but 2 reads better.
  CHECK(labels(linear_ticks(0, 11.5, 5)) == Labels{"0", "2", "4", "6", "8", "10"});
  CHECK(labels(linear_ticks(2.39, 2.45, 3)) == Labels{"2.40", "2.42", "2.44"});
}

TEST_CASE("linear ticks lie inside and are evenly spaced over many ranges", "[axis_test]") {
  for (int e = -12; e <= 12; e += 3) {
    for (double lo : {-7.3, -1.0, 0.0, 0.1, 3.9}) {
      for (double span : {0.7, 1.0, 3.3, 9.9}) {
        for (int target : {1, 3, 6, 10}) {
          const double unit = std::pow(10.0, e);
          const auto ticks = linear_ticks(lo * unit, (lo + span) * unit, target);
          CHECK(ticks.size() <= 2 * static_cast<size_t>(target) + 1);
          if (target >= 3) CHECK(ticks.size() >= 2);
          for (size_t i = 0; i < ticks.size(); ++i) {
            CHECK(ticks[i].value >= (lo - 1e-6) * unit);
            CHECK(ticks[i].value <= (lo + span + 1e-6) * unit);
            if (i > 0) CHECK(ticks[i].label != ticks[i - 1].label);
            if (i > 1) {
              const double step = ticks[1].value - ticks[0].value;
              CHECK(ticks[i].value - ticks[i - 1].value == Catch::Approx(step));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("log ticks are powers of ten, or 1 2 5 on a short range", "[axis_test]") {
  CHECK(labels(log_ticks(0.001, 1000, 7)) ==
        Labels{"0.001", "0.01", "0.1", "1", "10", "100", "1000"});
  CHECK(labels(log_ticks(1e-8, 1e-4, 5)) == Labels{"10⁻⁸", "10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴"});
  CHECK(labels(log_ticks(1e-8, 1e8, 4)) == Labels{"10⁻⁸", "10⁻⁴", "10⁰", "10⁴", "10⁸"});
  CHECK(labels(log_ticks(1, 30, 5)) == Labels{"1", "2", "5", "10", "20"});
  CHECK(labels(log_ticks(1.6, 3.4, 1)) == Labels{"2", "3"});
  CHECK(labels(log_ticks(2.1, 2.3, 4)) == Labels{"2.10", "2.15", "2.20", "2.25", "2.30"});
}

TEST_CASE("impossible tick requests are refused", "[axis_test]") {
  CHECK_THROWS_AS(linear_ticks(1, 1, 5), ValueError);
  CHECK_THROWS_AS(linear_ticks(0, std::numeric_limits<double>::infinity(), 5), ValueError);
  CHECK_THROWS_AS(linear_ticks(0, 1, 0), ValueError);
  CHECK_THROWS_AS(log_ticks(0, 1, 5), ValueError);
}

TEST_CASE("numbers are written for readers", "[axis_test]") {
  CHECK(pretty_number(2.394) == "2.394");
  CHECK(pretty_number(12345.0) == "12,345");
  CHECK(pretty_number(1073184.0, 7) == "1,073,184");
  CHECK(pretty_number(-0.5) == "−0.5");
  CHECK(pretty_number(3.14159e-7, 3) == "3.14×10⁻⁷");
  CHECK(pretty_number(1e-5) == "1×10⁻⁵");
  CHECK(pretty_number(0.0) == "0");
  CHECK(pretty_number(123.0, 2) == "123");
  CHECK(pretty_number(-1234567.0) == "−1,234,567");
  CHECK(pretty_number(std::nan("")) == "nan");
  CHECK(pretty_number(-std::numeric_limits<double>::infinity()) == "−inf");
}

TEST_CASE("an axis maps values to pixels", "[axis_test]") {
  Axis linear({}, 0.0, 10.0, 0.0);
  linear.set_pixels(100.0, 0.0);
  CHECK(linear.pixel(2.5) == Catch::Approx(75.0));
  Axis log({.scale = Scale::log}, 1.0, 1000.0, 0.0);
  log.set_pixels(0.0, 300.0);
  CHECK(log.pixel(10.0) == Catch::Approx(100.0));
  CHECK(std::isnan(log.pixel(0.0)));
  CHECK(std::isnan(log.pixel(-3.0)));
  const Axis padded({.lo = 0.0}, 5.0, 10.0, 0.1);
  CHECK(padded.lo() == 0.0);
  CHECK(padded.hi() == Catch::Approx(11.0));
}

TEST_CASE("labels of a horizontal axis do not touch", "[axis_test]") {
  for (double lo : {0.0, 1e-6, 3.0, 1e6}) {
    for (double span : {1e-4, 0.3, 7.0, 1e5}) {
      for (double width : {90.0, 200.0, 500.0, 900.0}) {
        for (Scale scale : {Scale::linear, Scale::log}) {
          Axis axis({.scale = scale}, lo, lo + span, 0.0);
          axis.set_pixels(0.0, width);
          const auto ticks = axis.ticks_across(12.0);
          CAPTURE(lo, span, width);
          for (size_t i = 1; i < ticks.size() && ticks.size() > 2; ++i) {
            CHECK(axis.pixel(ticks[i].value) - 0.5 * text_width(ticks[i].label, 12.0) >
                  axis.pixel(ticks[i - 1].value) + 0.5 * text_width(ticks[i - 1].label, 12.0) +
                      5.0);
          }
        }
      }
    }
  }
}

TEST_CASE("an axis is usable for any data", "[axis_test]") {
  const double inf = std::numeric_limits<double>::infinity();
  for (Scale scale : {Scale::linear, Scale::log}) {
    for (auto [lo, hi] : std::vector<std::pair<double, double>>{
             {0, 0}, {5, 5}, {-5, -5}, {1, 0}, {-inf, inf}, {1e-300, 1e300}, {1e17, 1e17 + 16}}) {
      Axis axis({.scale = scale}, lo, hi, 0.05);
      CAPTURE(lo, hi);
      CHECK(std::isfinite(axis.lo()));
      CHECK(std::isfinite(axis.hi()));
      CHECK(axis.lo() < axis.hi());
      axis.set_pixels(0, 500);
      CHECK(axis.ticks_across(12.0).size() >= 1);
    }
  }
  CHECK_THROWS_AS(Axis({.lo = 2.0, .hi = 1.0}, 0, 1, 0), ValueError);
  CHECK_THROWS_AS(Axis({.scale = Scale::log, .lo = 0.0}, 0, 1, 0), ValueError);
  CHECK_THROWS_AS(Axis({.hi = inf}, 0, 1, 0), ValueError);
}

TEST_CASE("captions join label and unit", "[axis_test]") {
  CHECK(AxisOptions{.label = "loss", .unit = "nats"}.caption() == "loss (nats)");
  CHECK(AxisOptions{.label = "loss"}.caption() == "loss");
  CHECK(AxisOptions{.unit = "s"}.caption() == "s");
}
