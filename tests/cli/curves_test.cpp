// Curves over trainings: what is matched, averaged and left out.
#include "flowgrad/cli/curves.h"

#include <cmath>

#include "tests/catch.hpp"

using namespace flowgrad;
using namespace flowgrad::cli;

namespace {

MetricsRow row(int64_t step, double loss, double time, double success = std::nan("")) {
  MetricsRow out{.step = step, .loss = loss};
  out.processor_seconds = time;
  if (!std::isnan(success)) out.measures["success"] = success;
  return out;
}

}  // namespace

TEST_CASE("curves are means over the seeds at steps that all have", "[curves_test]") {
  const MethodHistory two{"flow",
                          {{row(10, 3, 1), row(20, 2, 2, 0.25), row(40, 1, 4, 0.5)},
                           {row(20, 4, 4, 0.75), row(30, 1, 5, 0.5), row(40, 3, 8, 0.5)}}};
  const MethodHistory one{"mip", {{row(20, 5, 1, 0.125)}}};
  const MethodHistory none{"cvae", {{row(20, 7, 3)}}};
  const plot::LineChart chart = equal_compute({two, none, one}, "success");
  REQUIRE(chart.series.size() == 2);
  CHECK(chart.series[0].x == std::vector<double>{3, 6});
  CHECK(chart.series[0].y == std::vector<double>{0.5, 0.5});
  CHECK(chart.series[0].band_lo == std::vector<double>{0.25, 0.5});
  CHECK(chart.series[0].band_hi == std::vector<double>{0.75, 0.5});
  CHECK(chart.series[1].name == "mip");
  CHECK(chart.series[1].band_lo.empty());
  CHECK(chart.x.scale == plot::Scale::linear);

  const plot::LineChart loss = losses({two, none, one});
  REQUIRE(loss.series.size() == 3);
  CHECK(loss.series[0].y == std::vector<double>{3, 2});
  CHECK(loss.series[2].color == chart.series[1].color);
  CHECK(!loss.svg().empty());
}

TEST_CASE("times far apart are shown by decades; without evaluations there is no curve",
          "[curves_test]") {
  const MethodHistory slow{"flow", {{row(10, 1, 1, 0.5), row(20, 1, 100, 0.5)}}};
  const MethodHistory fast{"mip", {{row(10, 1, 1, 0.5)}}};
  CHECK(equal_compute({slow, fast}, "success").x.scale == plot::Scale::log);
  CHECK(equal_compute({slow, fast}, "score").series.empty());
  CHECK(equal_compute({}, "score").series.empty());
  CHECK(losses({{"nothing", {{}}}}).series.empty());
  const MethodHistory older{"flow", {{row(10, 1, std::nan(""), 0.5)}}};
  CHECK(equal_compute({older}, "success").series.empty());
}
