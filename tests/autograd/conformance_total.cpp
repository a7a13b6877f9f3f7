#include <cstdio>

#include "autograd/conformance.h"

/// Every conformance case carries the tag [conformance_total] too, so the ctest entry of this file
/// runs all of them; this case, linked last, counts those that came to their end.
namespace flowgrad::conformance {
namespace {

TEST_CASE("the 80 conformance cases have run", "[conformance_total][device]") {
  std::string missing;
  for (int i = 1; i <= 80; ++i) {
    const std::string id = (i < 10 ? "C0" : "C") + std::to_string(i);
    if (!finished_cases().count(id)) missing += " " + id;
  }
  std::printf("conformance: %zu of 80\n", finished_cases().size());
  INFO("not finished:" << missing);
  CHECK(missing.empty());
  CHECK(finished_cases().size() == 80);
}

}  // namespace
}  // namespace flowgrad::conformance
