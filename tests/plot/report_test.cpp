#include "flowgrad/plot/report.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/chart.h"
#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad;
using namespace flowgrad::plot;
using drawing::contains;

namespace {

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("a check compares measured with demanded", "[report_test]") {
  using D = Check::Demand;
  CHECK(Check{.measured = 1.0, .demand = D::at_most, .bound = 1.0}.passed());
  CHECK_FALSE(Check{.measured = 1.1, .demand = D::at_most, .bound = 1.0}.passed());
  CHECK(Check{.measured = 0.8, .demand = D::at_least, .bound = 0.8}.passed());
  CHECK_FALSE(Check{.measured = 0.7, .demand = D::at_least, .bound = 0.8}.passed());
  CHECK(Check{.measured = 1.0, .demand = D::between, .bound = 0.9, .upper = 1.1}.passed());
  CHECK_FALSE(Check{.measured = 1.2, .demand = D::between, .bound = 0.9, .upper = 1.1}.passed());
  CHECK_FALSE(Check{.measured = 0.8, .demand = D::between, .bound = 0.9, .upper = 1.1}.passed());
  for (D demand : {D::at_most, D::at_least, D::between}) {
    CHECK_FALSE(Check{.measured = std::nan(""), .demand = demand, .bound = 0, .upper = 1}.passed());
  }
  CHECK(Check{.demand = D::at_most, .bound = 1e-5}.demanded() == "≤ 1×10⁻⁵");
  CHECK(Check{.demand = D::between, .bound = 0.999, .upper = 1.001}.demanded() == "0.999 to 1.001");
}

TEST_CASE("the page's head counts the checks", "[report_test]") {
  Report good("r");
  good.checks({{.name = "a", .measured = 0.0, .bound = 1.0}});
  CHECK(contains(good.html(), "badge good\">1 of 1 checks passed"));
  good.checks({{.name = "b", .measured = 2.0, .bound = 1.0, .unit = "nats"}});
  CHECK(good.checks_passed() == 1);
  CHECK(good.checks_total() == 2);
  CHECK(contains(good.html(), "badge bad\">1 of 2 checks passed"));
  CHECK(contains(good.html(), "✗ fail"));
  CHECK(contains(good.html(), "✓ pass"));
  CHECK(contains(good.html(), "≤ 1 nats"));
}

TEST_CASE("a report needs nothing but itself", "[report_test]") {
  LineChart chart{.title = "chart"};
  chart.series = {{.name = "s", .x = {0, 1}, .y = {0, 1}}};
  Report report("Title", "Subtitle");
  report.heading("One").paragraph("text").heading("Sub", 3).note("note").list({"a", "b"});
  report.heading("Two").code("x = 1", "how").facts({{"seed", "0"}});
  report.heading("Three").table({{"model", "loss"}, {{"a", "1.5"}, {"b", "−2"}}, "caption"});
  report.figures(
      {{.svg = chart.svg()}, {.image = Image(4, 4, 3), .caption = "an image", .width = 40}});
  const std::string html = report.html();
  CHECK(html.starts_with("<!DOCTYPE html>"));
  CHECK_FALSE(contains(html, "<script"));
  CHECK_FALSE(contains(html, "<link"));
  CHECK_FALSE(contains(html, "@import"));
  CHECK_FALSE(contains(html, "url("));
  size_t at = 0;
  while ((at = html.find("src=\"", at)) != std::string::npos) {
    CHECK(html.substr(at + 5, 22) == "data:image/png;base64,");
    ++at;
  }
  at = 0;
  while ((at = html.find("http", at)) != std::string::npos) {  // only the name of the SVG namespace
    CHECK(html.substr(at, 26) == "http://www.w3.org/2000/svg");
    ++at;
  }
  CHECK(contains(html, "<td class=\"number\">1.5</td>"));
  CHECK(contains(html, "<td>a</td>"));
  CHECK(contains(html, "<a href=\"#chapter-3\">Three</a>"));
  CHECK(contains(html, "<h2 id=\"chapter-3\">"));
}

TEST_CASE("text cannot become markup", "[report_test]") {
  const std::string evil = "</p><script>alert('x')</script> & \"q\"";
  Report report(evil, evil);
  report.heading(evil)
      .paragraph(evil)
      .note(evil)
      .list({evil})
      .code(evil, evil)
      .facts({{evil, evil}});
  report.table({{evil}, {{evil}}, evil}).checks({{.name = evil, .unit = evil, .note = evil}});
  report.figure({.image = Image(1, 1, 1), .caption = evil});
  CHECK_FALSE(contains(report.html(), "<script>"));
  CHECK_FALSE(contains(report.html(), "</p><"));
}

TEST_CASE("back ticks mark code", "[report_test]") {
  Report report("t");
  report.paragraph("run `a < b` and `c`, not ` this");
  CHECK(contains(report.html(), "<p>run <code>a &lt; b</code> and <code>c</code>, not ` this</p>"));
}

TEST_CASE("a report refuses what it cannot show", "[report_test]") {
  Report report("t");
  CHECK_THROWS_AS(report.heading("x", 1), ValueError);
  CHECK_THROWS_AS(report.table({{"a", "b"}, {{"1"}}, ""}), ShapeError);
  CHECK_THROWS_AS(report.figure({}), ValueError);
  CHECK_THROWS_AS(report.figure({.svg = "<svg></svg>", .image = Image(1, 1, 1)}), ValueError);
  CHECK_THROWS_AS(report.figure({.svg = "<p>no</p>"}), ValueError);
  CHECK_THROWS_AS(report.figure({.svg = "<svg><SCRIPT>x</SCRIPT></svg>"}), ValueError);
  CHECK_THROWS_AS(report.figure({.svg = "<svg></svg><p>"}), ValueError);
}

TEST_CASE("a report replaces the file at once", "[report_test]") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / "flowgrad_report_test";
  std::filesystem::create_directories(folder);
  const std::string path = folder / "report.html";
  Report("first").write(path);
  Report second("second");
  second.write(path);
  CHECK(slurp(path) == second.html());
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  std::filesystem::remove_all(folder);
  CHECK_THROWS_AS(second.write(path), IoError);
}
