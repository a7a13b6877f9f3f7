#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "autograd/op_table.h"
#include "catch.hpp"

// A function without a row would go untested in silence.
using namespace flowgrad::testing;

namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(FLOWGRAD_TEST_DATA "/../" + path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// What stands, in a line that begins with one of `starts`, from there to the first `end`.
std::set<std::string> names_after(const std::string& text, const std::vector<std::string>& starts,
                                  char end) {
  std::set<std::string> names;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    for (const std::string& start : starts) {
      const size_t at = line.find(end, start.size());
      if (line.starts_with(start) && at != std::string::npos)
        names.insert(line.substr(start.size(), at - start.size()));
    }
  }
  return names;
}

std::set<std::string> row_names() {
  std::set<std::string> names;
  for (const Op& op : op_table()) names.insert(op.name);
  return names;
}

}  // namespace

TEST_CASE("Every function of ops.h has a row and every row a function", "[op_coverage_test]") {
  const std::string header = text_of("flowgrad/autograd/ops.h");
  const std::string lines = text_of("flowgrad/kernels/elementwise.def");
  std::set<std::string> functions =
      names_after(header,
                  {"Tensor ", "void ", "std::pair<Tensor, Tensor> ", "std::vector<Tensor> ",
                   "LuFactors ", "LstmResult "},
                  '(');
  // Scalars beside a tensor are written with operators, powers with pow.
  const std::set<std::string> written_otherwise = {"add_scalar",  "mul_scalar",  "div_scalar",
                                                   "rsub_scalar", "rdiv_scalar", "pow_scalar"};
  for (const std::string& name :
       names_after(lines, {"UNARY(", "UNARY_P(", "BINARY(", "COMPARE(", "PREDICATE("}, ',')) {
    if (written_otherwise.count(name) == 0) functions.insert(name);
  }
  REQUIRE(functions.size() > 120);
  const std::set<std::string> rows = row_names();
  for (const std::string& name : functions) {
    INFO(name << " has no row in the op table");
    CHECK(rows.count(name) == 1);
  }
  for (const std::string& name : rows) {
    INFO(name << " is no function of ops.h");
    CHECK(functions.count(name) == 1);
  }
  CHECK(rows.size() == op_table().size());
}

TEST_CASE("The table has what the goals ask for", "[op_coverage_test]") {
  int64_t smooth = 0, refusals = 0;
  for (const Op& op : op_table()) {
    smooth += op.differentiable && op.max_order == 3;
    refusals += static_cast<int64_t>(op.refusals.size());
  }
  CHECK(op_table().size() >= 80);
  CHECK(smooth >= 30);
  CHECK(refusals >= 240);
}
