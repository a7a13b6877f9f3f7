#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/data.h"
#include "flowgrad/core/json.h"
#include "flowgrad/models/verify.h"

namespace flowgrad::cli {
namespace {

struct VerifyArguments {
  CommonOptions common;
  ModelOptions model;
  DataOptions data;
  int64_t rows = 256;
};

const char* word(Outcome o) {
  return o == Outcome::passed ? "passed" : o == Outcome::failed ? "FAILED" : "skipped";
}

int64_t count(const std::vector<Verdict>& verdicts, Outcome o) {
  return std::count_if(verdicts.begin(), verdicts.end(),
                       [&](const Verdict& v) { return v.outcome == o; });
}

std::string short_number(double value) { return value == 0 ? "0" : fmt::format("{:.2g}", value); }

std::string text_of(const std::vector<Verdict>& verdicts) {
  std::vector<std::vector<std::string>> rows{
      {"#", "check", "measured", "", "demanded", "verdict", "how"}};
  for (const Verdict& v : verdicts) {
    const bool skipped = v.outcome == Outcome::skipped;
    rows.push_back({fmt::format("{}", v.check), v.name, skipped ? "" : short_number(v.measured),
                    skipped ? "" : v.relation, skipped ? "" : short_number(v.demanded),
                    word(v.outcome), v.note});
  }
  return table(rows, "><><<<<");
}

std::string json_of(const VerifyArguments& a, const Model& model,
                    const std::vector<Verdict>& verdicts, double seconds) {
  Json checks = Json::array();
  for (const Verdict& v : verdicts) {
    Json check{
        {"check", v.check}, {"name", v.name}, {"outcome", word(v.outcome)}, {"note", v.note}};
    if (v.outcome != Outcome::skipped) {
      check["measured"] = v.measured;
      check["relation"] = v.relation;
      check["demanded"] = v.demanded;
    }
    checks.push_back(check);
  }
  return json_text({{"model", model.name()},
                    {"set", model.config()},
                    {"weights", a.model.weights},
                    {"seed", a.common.seed},
                    {"passed", count(verdicts, Outcome::passed)},
                    {"failed", count(verdicts, Outcome::failed)},
                    {"skipped", count(verdicts, Outcome::skipped)},
                    {"seconds", seconds},
                    {"checks", checks}}) +
         "\n";
}

void run_verify(VerifyArguments a) {
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  VerifyOptions options{.seed = a.common.seed, .rows = a.rows, .trained = !a.model.weights.empty()};
  a.data.seed = a.common.seed;
  DataOptions from = data_or_run(a.data, a.model.weights);
  if (!from.data.empty()) {
    from.dtype = dtype_of(a.common);
    const auto data = open_data(from);
    const QuantityInputs rows = data->held_out();
    options.data = rows.input;
    if (model->condition_width() > 0) options.condition = rows.condition;
    options.floor = data->floor();
  }
  const auto start = std::chrono::steady_clock::now();
  const auto told = [&](const Verdict& v) {
    if (!a.common.quiet) tell(fmt::format("  {} {}: {}", v.check, v.name, word(v.outcome)));
  };
  const auto verdicts = verify(*model, options, told);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const int64_t failed = count(verdicts, Outcome::failed);
  if (a.common.json) {
    print_result(json_of(a, *model, verdicts, seconds));
  } else {
    print_result(
        text_of(verdicts) +
        fmt::format("{}, {}: {} passed, {} failed, {} skipped in {:.1f} s\n", model->name(),
                    a.model.weights.empty() ? fmt::format("fresh weights of seed {}", a.common.seed)
                                            : a.model.weights,
                    count(verdicts, Outcome::passed), failed, count(verdicts, Outcome::skipped),
                    seconds));
  }
  if (failed > 0) throw ExitCode{1};
}

}  // namespace

void add_verify(CLI::App& app) {
  auto a = std::make_shared<VerifyArguments>();
  Command c(
      app, "verify",
      "Check the mathematics of a model: measured beside demanded; exit 1 when one falls short");
  add_model(c, a->model, Weights::use);
  add_data(c, a->data, "What the likelihood is compared on");
  c.integer("--rows", a->rows, "Rows that a check takes", 4, 100000);
  add_common(c, a->common);
  c.examples(
      "flowgrad verify --model realnvp\n"
      "flowgrad verify --run runs/realnvp-moons\n"
      "docs/verify.md explains each check by its number.");
  c.run([a](const Command&) { run_verify(*a); });
}

}  // namespace flowgrad::cli
