#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "autograd/op_checks.h"
#include "catch.hpp"

using namespace flowgrad;
using namespace flowgrad::testing;

TEST_CASE("Every operation passes every check of the matrix", "[op_matrix_test][device]") {
  Tally tally;
  check_golden(tally);
  const std::vector<Op>& table = op_table();
  for (const Op& op : table) {
    check_gradients(tally, op);
    check_layouts(tally, op);
    check_broadcasting(tally, op);
    check_sizes(tally, op);
    check_special_values(tally, op);
    check_refusals(tally, op);
    check_dtypes(tally, op);
    check_threads(tally, op);
  }
  for (const std::string& failure : tally.failures()) FAIL_CHECK(failure);
  fmt::print("{}op matrix: {} ops, {} instances, {} failures\n", tally.report(), table.size(),
             tally.instances(), tally.failures().size());
  std::fflush(stdout);
  CHECK(table.size() >= 80);
  CHECK(tally.instances() >= 6000);
}

// tests/golden/random_ops.py draws the cases and runs this.
TEST_CASE("Operations agree with cases that PyTorch computed",
          "[op_matrix_test][random_ops][nightly]") {
  const char* const path = std::getenv("FLOWGRAD_OP_CASES");
  Tally tally;
  if (path == nullptr)
    check_golden(tally);
  else
    check_golden(tally, path);
  for (const std::string& failure : tally.failures()) FAIL_CHECK(failure);
  fmt::print("pinned cases: {} instances, {} failures\n", tally.instances(),
             tally.failures().size());
  std::fflush(stdout);
  CHECK(tally.instances() > 0);
}

TEST_CASE("Derivatives hold at many random inputs", "[op_matrix_test][nightly]") {
  Tally tally;
  for (const Op& op : op_table()) {
    for (uint64_t seed = 1; seed <= 50; ++seed) check_gradients(tally, op, 77 * seed);
  }
  for (const std::string& failure : tally.failures()) FAIL_CHECK(failure);
  CHECK(tally.failures().empty());
  fmt::print("{}", tally.report());
  std::fflush(stdout);
}
