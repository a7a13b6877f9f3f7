#include "flowgrad/optim/metrics.h"
#include "flowgrad/core/json.h"

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "core/io_support.h"

using namespace flowgrad;
using io_test::Contains;
using io_test::error_of;
using io_test::get;
using io_test::put;
using io_test::Scratch;

namespace {

MetricsRow row(int64_t step, double loss) {
  return {step, loss, 0.1, 2.5, std::nan(""), 3, 0.75, 0.5};
}

}  // namespace

TEST_CASE("a row is one line of valid JSON, also where numbers are not finite", "[metrics_test]") {
  CHECK(to_json(row(20, 0.1)) ==
        R"({"step":20,"loss":0.1,"learning_rate":0.1,"gradient_norm":2.5,"validation":null,)"
        R"("skipped":3,"seconds":0.75,"processor_seconds":0.5})");
  MetricsRow measured = row(20, 0.1);
  measured.measures = {{"success", 0.5}, {"score", std::nan("")}};
  CHECK_THAT(to_json(measured), Contains(R"("measures":{"score":null,"success":0.5}})"));
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const auto json = parse_json(to_json(row(1, bad)));
    CHECK(json.at("loss").is_null());
  }
}

TEST_CASE("rows return bit for bit", "[metrics_test]") {
  const Scratch scratch;
  const std::string path = scratch / "metrics.jsonl";
  CHECK(read_metrics(path).empty());
  {
    MetricsWriter writer(path, 0);
    writer.append(row(1, 1.0 / 3));
    writer.append(row(2, std::nan("")));
    MetricsRow measured = row(3, 0);
    measured.measures = {{"success", 1.0 / 3}, {"score", std::nan("")}};
    writer.append(measured);
  }
  const std::vector<MetricsRow> rows = read_metrics(path);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].processor_seconds == 0.5);
  CHECK(rows[0].measures.empty());
  CHECK(rows[2].measures.at("success") == 1.0 / 3);
  CHECK(std::isnan(rows[2].measures.at("score")));
  CHECK(rows[0].step == 1);
  CHECK(rows[0].loss == 1.0 / 3);
  CHECK(rows[0].skipped == 3);
  CHECK(std::isnan(rows[0].validation));
  CHECK(std::isnan(rows[1].loss));
}

TEST_CASE("rows of before there was processor time are read", "[metrics_test]") {
  const Scratch scratch;
  const std::string path = scratch / "metrics.jsonl";
  put(path,
      R"({"step":1,"loss":2,"learning_rate":0.1,"gradient_norm":1,"validation":null,"skipped":0,)"
      R"("seconds":1})"
      "\n");
  CHECK(std::isnan(read_metrics(path).at(0).processor_seconds));
}

TEST_CASE("going on drops rows beyond the step and an unfinished line", "[metrics_test]") {
  const Scratch scratch;
  const std::string path = scratch / "metrics.jsonl";
  {
    MetricsWriter writer(path, 0);
    for (int64_t s = 5; s <= 25; s += 5) writer.append(row(s, static_cast<double>(s)));
  }
  const std::string whole = get(path);
  put(path, whole + R"({"step":30,"lo)");
  CHECK(read_metrics(path).size() == 5);
  {
    MetricsWriter writer(path, 15);
    REQUIRE(writer.kept().size() == 3);
    CHECK(writer.kept().back().loss == 15);
    writer.append(row(20, 99));
  }
  const std::string lines = get(path);
  CHECK(lines.starts_with(whole.substr(0, whole.find("{\"step\":20"))));
  CHECK(read_metrics(path).back().loss == 99);
  CHECK(read_metrics(path).size() == 4);
  {
    MetricsWriter anew(path, 0);
    CHECK(anew.kept().empty());
  }
  CHECK(get(path).empty());
}

TEST_CASE("a malformed metrics file is named with its line", "[metrics_test]") {
  const Scratch scratch;
  const std::string path = scratch / "metrics.jsonl";
  for (const std::string bad : {"{}", "[1]", "nonsense", R"({"step":"x"})", ""}) {
    put(path, to_json(row(1, 1)) + "\n" + bad + "\n");
    CHECK_THAT(error_of([&] { read_metrics(path); }), Contains(path + ": line 2 is"));
    CHECK_THAT(error_of([&] { MetricsWriter(path, 1); }), Contains("line 2 is"));
  }
  CHECK_THAT(error_of([&] { MetricsWriter(scratch / "absent/metrics.jsonl", 0); }),
             Contains("No such file or directory"));
  CHECK_THAT(error_of([&] { MetricsWriter(scratch.path(), 0); }), Contains("folder"));
}
