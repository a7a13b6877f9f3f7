#include "flowgrad/plot/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <sstream>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad;
using namespace flowgrad::plot;
using drawing::all;
using drawing::read;

namespace {

std::vector<std::pair<double, double>> points_of(const drawing::Element& polyline) {
  std::vector<std::pair<double, double>> out;
  std::istringstream in(polyline.attributes.at("points"));
  double x = 0.0, y = 0.0;
  char comma = 0;
  while (in >> x >> comma >> y) out.emplace_back(x, y);
  return out;
}

std::string throws_with(const auto& chart) {
  try {
    chart.svg();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

LineChart wave(size_t n) {
  LineChart chart{.title = "wave", .x = {.label = "step"}, .y = {.label = "loss", .unit = "nats"}};
  Series s{.name = "training"};
  for (size_t i = 0; i < n; ++i) {
    s.x.push_back(static_cast<double>(i));
    s.y.push_back(std::sin(0.01 * static_cast<double>(i)));
  }
  chart.series.push_back(s);
  return chart;
}

}  // namespace

TEST_CASE("a line chart puts its points where they belong", "[chart_test]") {
  LineChart chart{.title = "t", .x = {.lo = 0.0, .hi = 4.0}, .y = {.lo = 0.0, .hi = 4.0}};
  chart.series = {{.name = "a", .x = {0, 1, 4}, .y = {0, 1, 4}}};
  const auto p = points_of(all(read(chart.svg()), "polyline").at(0));
  REQUIRE(p.size() == 3);
  CHECK(p[1].first - p[0].first == Catch::Approx(0.25 * (p[2].first - p[0].first)).margin(0.02));
  CHECK(p[1].second - p[0].second ==
        Catch::Approx(0.25 * (p[2].second - p[0].second)).margin(0.02));
  CHECK(p[2].first > p[0].first);
  CHECK(p[2].second < p[0].second);  // upwards
}

TEST_CASE("a band is closed around its line, breaks with it and stretches the axis",
          "[chart_test]") {
  LineChart chart = wave(4);
  Series& s = chart.series[0];
  s.band_lo = {-1, -1, std::nan(""), -1};
  s.band_hi = {5, 5, 5, 5};
  const std::string svg = chart.svg();
  int areas = 0;
  for (const auto& path : all(read(svg), "path")) areas += path.attributes.contains("fill-opacity");
  CHECK(areas == 2);
  CHECK(drawing::has_text(read(svg), "4"));
  s.band_hi.pop_back();
  CHECK(throws_with(chart).find("band of series 'training'") != std::string::npos);
}

TEST_CASE("reference lines carry their labels and stretch the axis", "[chart_test]") {
  LineChart chart = wave(100);
  chart.horizontals = {{2.394, "entropy floor 2.394"}};
  chart.verticals = {{50.0, "halved"}};
  const drawing::Element svg = read(chart.svg());
  CHECK(drawing::has_text(svg, "entropy floor 2.394"));
  CHECK(drawing::has_text(svg, "halved"));
  CHECK(drawing::has_text(svg, "loss (nats)"));
  int dashed = 0;
  for (const auto& line : all(svg, "line")) {
    if (!line.attributes.contains("stroke-dasharray")) continue;
    ++dashed;
    CHECK(line.number("y1") >= 0.0);
    CHECK(line.number("y2") <= chart.height);
  }
  CHECK(dashed == 2);
}

TEST_CASE("a long series is thinned and keeps its spikes", "[chart_test]") {
  LineChart chart = wave(300000);
  chart.series[0].y[123456] = 50.0;
  chart.series[0].y[223456] = -50.0;
  const std::string svg = chart.svg();
  CHECK(svg.size() < 100000);
  std::vector<double> heights;
  const auto points = points_of(all(read(svg), "polyline").at(0));
  for (const auto& [x, y] : points) heights.push_back(y);
  std::sort(heights.begin(), heights.end());
  CHECK(heights[1] - heights[0] > 90.0);
  CHECK(heights.back() - heights[heights.size() - 2] > 90.0);
  CHECK(points.front().first < points.back().first);
}

TEST_CASE("gaps split a line and log axes leave out what they cannot show", "[chart_test]") {
  LineChart chart{.title = "gaps"};
  chart.series = {{.name = "a", .x = {0, 1, 2, 3, 4, 5}, .y = {1, 2, std::nan(""), 3, 4, 5}}};
  CHECK(all(read(chart.svg()), "polyline").size() == 2);
  chart.y.scale = Scale::log;
  chart.series[0].y = {1, 10, -5, 0, 100, 1000};
  const auto lines = all(read(chart.svg()), "polyline");
  REQUIRE(lines.size() == 2);
  const auto low = points_of(lines[0]);
  const auto high = points_of(lines[1]);
  // A factor of ten is the same height everywhere.
  CHECK(low[0].second - low[1].second ==
        Catch::Approx(high[0].second - high[1].second).margin(0.05));
}

TEST_CASE("smoothing starts at the data and keeps the raw line", "[chart_test]") {
  LineChart chart{.title = "s", .y = {.lo = 0.0, .hi = 10.0}};
  chart.series = {{.name = "a", .x = {0, 1, 2}, .y = {8, 8, 0}, .smoothing = 0.5}};
  const auto lines = all(read(chart.svg()), "polyline");
  REQUIRE(lines.size() == 2);
  const auto raw = points_of(lines[0]);
  const auto smooth = points_of(lines[1]);
  CHECK(smooth[0] == raw[0]);
  // Weights 1/4, 1/4 and 1/2 over 7/8: the mean is (2 + 1) * 8 / 7 = 24 / 7.
  const double unit = (raw[2].second - raw[0].second) / 8.0;
  CHECK((raw[2].second - smooth[2].second) / unit == Catch::Approx(24.0 / 7.0).margin(0.01));
  chart.series[0].smoothing = 1.0;
  CHECK_THROWS_AS(chart.svg(), ValueError);
}

TEST_CASE("texts of line charts never touch or leave the picture", "[chart_test]") {
  for (size_t n : {0u, 1u, 2u, 5u, 12u}) {
    for (double width : {300.0, 480.0, 900.0}) {
      for (double top : {1e-7, 1.0, 987654.0}) {
        for (Scale scale : {Scale::linear, Scale::log}) {
          LineChart chart{.title = "A title of ordinary length for a chart",
                          .subtitle = "under it",
                          .width = width,
                          .height = 480.0};
          chart.x = {.label = "optimiser steps", .scale = scale};
          chart.y = {.label = "a long name of a quantity", .unit = "nats", .scale = scale};
          for (size_t k = 0; k < n; ++k) {
            Series s{.name = "series number " + std::to_string(k)};
            for (int i = 1; i < 30; ++i) {
              s.x.push_back(i * top);
              s.y.push_back(top * std::exp(-0.1 * i * static_cast<double>(k)));
            }
            chart.series.push_back(s);
          }
          chart.horizontals = {
              {0.50 * top, "half"}, {0.51 * top, "a little more"}, {0.3 * top, "less"}};
          CAPTURE(n, width, top, static_cast<int>(scale));
          CHECK(drawing::text_trouble(chart.svg()) == "");
        }
      }
    }
  }
}

TEST_CASE("odd data still gives a chart", "[chart_test]") {
  const double inf = std::numeric_limits<double>::infinity();
  LineChart empty{.title = "nothing"};
  CHECK(drawing::has_text(read(empty.svg()), "no data"));
  LineChart one{.title = "one"};
  one.series = {{.name = "p", .x = {3}, .y = {5}}};
  CHECK(all(read(one.svg()), "circle").size() == 1);
  LineChart wild{.title = "wild"};
  wild.series = {{.name = "w", .x = {0, 1, inf, 3, 4}, .y = {1e308, -1e308, 1, inf, std::nan("")}},
                 {.name = "<&>", .x = {0, 1}, .y = {1, 1}}};
  CHECK_NOTHROW(read(wild.svg()));
}

TEST_CASE("charts refuse what does not fit", "[chart_test]") {
  LineChart line{.title = "t"};
  line.series = {{.name = "val", .x = {1, 2}, .y = {1}}};
  CHECK(throws_with(line) ==
        "line chart: series 'val' has 2 x values and 1 y values; they must be equally many");
  line.series = {{.name = "val", .x = {1}, .y = {1}, .color = "red"}};
  CHECK_THROWS_AS(line.svg(), ValueError);
  line.series = {};
  line.width = 0.0;
  CHECK_THROWS_AS(line.svg(), ValueError);
  BarChart bars{.title = "b", .categories = {"a", "b"}};
  bars.series = {{.name = "s", .values = {1}}};
  CHECK(throws_with(bars) == "bar chart: series 's' has 1 values; there are 2 categories");
  Scatter scatter{.panels = {{.title = "p", .groups = {{.name = "g", .x = {1}, .y = {}}}}}};
  CHECK_THROWS_AS(scatter.svg(), ShapeError);
  HeatMap heat{.rows = 2, .columns = 3, .panels = {{.title = "h", .values = {1, 2}}}};
  CHECK(throws_with(heat) == "heat map: panel 'h' has 2 values; (2, 3) needs 6");
  heat.rows = 0;
  CHECK_THROWS_AS(heat.svg(), ShapeError);
}

TEST_CASE("a scatter draws every point of every panel once", "[chart_test]") {
  Scatter chart{.title = "points", .columns = 2};
  for (int p = 0; p < 3; ++p) {
    PointGroup a{.name = "a"}, b{.name = "b"};
    for (int i = 0; i < 500; ++i) {
      a.x.push_back(std::cos(i));
      a.y.push_back(std::sin(i));
      b.x.push_back(i < 100 ? std::nan("") : 0.01 * i);
      b.y.push_back(0.0);
    }
    chart.panels.push_back({.title = "panel " + std::to_string(p), .groups = {a, b}});
  }
  const drawing::Element svg = read(chart.svg());
  size_t dots = 0;
  for (const auto& path : all(svg, "path")) {
    const std::string& d = path.attributes.at("d");
    dots += static_cast<size_t>(std::count(d.begin(), d.end(), 'M'));
  }
  CHECK(dots == 3 * (500 + 400));
  CHECK(all(svg, "circle").size() == 2);  // one legend entry a name
  CHECK(drawing::text_trouble(chart.svg()) == "");
}

TEST_CASE("a scatter draws paths and arrows", "[chart_test]") {
  const double nan = std::nan("");
  Scatter chart{.title = "field", .panel_size = 200.0};
  chart.panels = {{.groups = {{.name = "paths",
                               .x = {0, 1, 2, nan, 0, 1},
                               .y = {0, 1, 0, nan, 2, 2},
                               .mark = Mark::path},
                              {.name = "field",
                               .x = {0, 1, 2},
                               .y = {0, 0, 0},
                               .mark = Mark::arrows,
                               .dx = {1, nan, 0},
                               .dy = {1, 0, 0}}}}};
  const auto paths = all(read(chart.svg()), "path");
  REQUIRE(paths.size() == 2);
  const std::string line = paths[0].attributes.at("d");
  CHECK(std::count(line.begin(), line.end(), 'M') == 2);
  CHECK(std::count(line.begin(), line.end(), 'L') == 3);
  // One arrow has a shaft and a head; one has no length and one no direction.
  const std::string arrows = paths[1].attributes.at("d");
  CHECK(std::count(arrows.begin(), arrows.end(), 'M') == 2);
  CHECK(std::count(arrows.begin(), arrows.end(), 'L') == 3);
  chart.panels[0].groups[1].dx = {1};
  CHECK(throws_with(chart) ==
        "scatter: group 'field' of panel '' has 3 arrows, 1 dx and 3 dy; they must be equally "
        "many");
}

TEST_CASE("a scatter has one unit length on both axes", "[chart_test]") {
  Scatter chart{.title = "t",
                .panel_size = 200.0,
                .x = {.lo = -4.0, .hi = 4.0},
                .y = {.lo = -2.0, .hi = 2.0}};
  chart.panels = {{.groups = {{.x = {0, 1, 0}, .y = {0, 0, 1}}}}};
  const std::string d = all(read(chart.svg()), "path").at(0).attributes.at("d");
  double x[3], y[3];
  REQUIRE(std::sscanf(d.c_str(), "M%lf %lfh.01M%lf %lfh.01M%lf %lf", &x[0], &y[0], &x[1], &y[1],
                      &x[2], &y[2]) == 6);
  CHECK(x[1] - x[0] == Catch::Approx(25.0).margin(0.11));
  CHECK(y[0] - y[2] == Catch::Approx(25.0).margin(0.11));
}

TEST_CASE("equally scaled axes share their ticks, or have their own where they lie far apart",
          "[chart_test]") {
  Scatter chart{.title = "t"};
  chart.panels = {{.groups = {{.x = {-4, 4}, .y = {-4, 4}}}}};
  const auto count = [&](const std::string& label) {
    size_t n = 0;
    for (const auto& t : all(read(chart.svg()), "text")) n += t.text == label ? 1 : 0;
    return n;
  };
  CHECK(count("−2") == 2);
  CHECK(count("4") == 2);
  chart.panels[0].groups[0].x = {1000, 1008};
  CHECK(count("1004") == 1);
  CHECK(count("−2") == 1);
}

TEST_CASE("texts of panels and bars never touch or leave the picture", "[chart_test]") {
  for (size_t panels : {0u, 1u, 2u, 5u, 9u}) {
    Scatter scatter{.title = "Title", .subtitle = "Subtitle", .panel_size = 150.0};
    HeatMap heat{.title = "Title", .panel_size = 150.0, .rows = 3, .columns = 4};
    scatter.x = heat.x = {.label = "x₁"};
    scatter.y = heat.y = {.label = "x₂"};
    heat.value = {.label = "density"};
    for (size_t p = 0; p < panels; ++p) {
      scatter.panels.push_back({.title = "panel of a rather long name " + std::to_string(p),
                                .groups = {{.name = "a", .x = {-4, 3.3}, .y = {1e4, 2e4}}}});
      heat.panels.push_back({.title = "p", .values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1100}});
    }
    scatter.equal_aspect = false;
    CAPTURE(panels);
    CHECK(drawing::text_trouble(scatter.svg()) == "");
    CHECK(drawing::text_trouble(heat.svg()) == "");
  }
  for (size_t categories : {1u, 4u, 9u, 30u, 80u}) {
    for (size_t series : {1u, 2u, 4u}) {
      for (Scale scale : {Scale::linear, Scale::log}) {
        BarChart bars{.title = "Bars", .y = {.label = "time", .unit = "ms", .scale = scale}};
        for (size_t k = 0; k < series; ++k) {
          BarSeries s{.name = "engine " + std::to_string(k)};
          for (size_t i = 0; i < categories; ++i)
            s.values.push_back(0.02 * std::exp(0.3 * static_cast<double>(i % 20 + k)));
          bars.series.push_back(s);
        }
        for (size_t i = 0; i < categories; ++i)
          bars.categories.push_back("a long case name " + std::to_string(i));
        CAPTURE(categories, series, static_cast<int>(scale));
        const std::string svg = bars.svg();
        CHECK(drawing::text_trouble(svg) == "");
        for (const auto& t : all(read(svg), "text")) {
          if (!t.attributes.contains("transform")) continue;  // slanted names end at their x
          const double width = text_width(t.text, t.number("font-size"));
          CHECK(t.number("x") - 0.82 * width > 0.0);
          CHECK(t.number("y") + 0.58 * width < bars.height);
        }
      }
    }
  }
}

TEST_CASE("bars have heights in proportion, from zero", "[chart_test]") {
  BarChart chart{.title = "b", .categories = {"a", "b", "c"}};
  chart.series = {{.name = "s", .values = {1, 2, -1}, .errors = {0.5, 0, 0}}};
  const auto bars = all(read(chart.svg()), "path");
  REQUIRE(bars.size() == 3);
  std::vector<double> height;
  for (const auto& bar : bars) {
    double x = 0, foot = 0, shoulder = 0, tip = 0, c = 0;
    REQUIRE(std::sscanf(bar.attributes.at("d").c_str(), "M%lf %lfV%lfQ%lf %lf", &x, &foot,
                        &shoulder, &c, &tip) == 5);
    height.push_back(foot - tip);
  }
  CHECK(height[1] == Catch::Approx(2.0 * height[0]).margin(0.05));
  CHECK(height[2] == Catch::Approx(-height[0]).margin(0.05));
  CHECK(drawing::has_text(read(chart.svg()), "−1"));
}

TEST_CASE("equal charts give equal text", "[chart_test]") {
  CHECK(wave(5000).svg() == wave(5000).svg());
}
