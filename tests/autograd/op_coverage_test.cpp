#include <algorithm>
#include <fstream>
#include <regex>
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

std::set<std::string> matches(const std::string& text, const std::string& pattern) {
  std::set<std::string> names;
  const std::regex regex(pattern);
  for (std::sregex_iterator i(text.begin(), text.end(), regex), end; i != end; ++i)
    names.insert((*i)[1]);
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
  std::set<std::string> functions = matches(
      header,
      "\n(?:Tensor|void|std::pair<Tensor, Tensor>|std::vector<Tensor>|LuFactors|LstmResult) "
      "(operator[-+*/]|\\w+)\\(");
  // Scalars beside a tensor are written with operators, powers with pow.
  const std::set<std::string> written_otherwise = {"add_scalar",  "mul_scalar",  "div_scalar",
                                                   "rsub_scalar", "rdiv_scalar", "pow_scalar"};
  for (const std::string& name :
       matches(lines, "\n(?:UNARY|UNARY_P|BINARY|COMPARE|PREDICATE)\\((\\w+),")) {
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
