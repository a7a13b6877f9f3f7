// One include for Catch2 3 and 2.13. Use only what both have: TEST_CASE, SECTION, GENERATE,
// TEMPLATE_TEST_CASE, CHECK_THAT, Catch::Approx, Catch::Matchers::WithinAbs and WithinRel.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
// In Catch2 2 the name is only in Catch::Detail, and a vector matcher of the same name hides it.
namespace Catch {
using Detail::Approx;
}
#endif
