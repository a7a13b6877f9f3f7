#include "flowgrad/core/json.h"

#include "tests/catch.hpp"

using flowgrad::json_text;
using flowgrad::parse_json;
using flowgrad::parse_json_or_null;

namespace {

/// `levels` times the opening text, a number, and as often the closing one.
std::string nested(const std::string& open, const std::string& close, int levels) {
  std::string out;
  for (int i = 0; i < levels; ++i) out += open;
  out += "1";
  for (int i = 0; i < levels; ++i) out += close;
  return out;
}

std::string refusal(const std::string& text) {
  try {
    parse_json(text);
  } catch (const flowgrad::Json::exception& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("64 levels are read, more are refused before they could fill the stack", "[json_test]") {
  for (const auto& [open, close] : {std::pair{"[", "]"}, std::pair{"{\"a\":", "}"}}) {
    const std::string most = nested(open, close, 64);
    CHECK(json_text(parse_json(most)) == most);
    CHECK(json_text(parse_json_or_null(most)) == most);
    for (const int levels : {65, 1000000}) {
      CHECK(refusal(nested(open, close, levels)) == "more than 64 levels of objects and arrays");
      CHECK(parse_json_or_null(nested(open, close, levels)).is_null());
    }
  }
}

TEST_CASE("what is no JSON, or names a member twice, is refused", "[json_test]") {
  CHECK(refusal("{\"a\": {\"b\": 1, \"b\": 2}}") == "key \"b\" is given twice");
  CHECK(parse_json_or_null("{\"a\": 1, \"a\": 2}").is_null());
  CHECK(parse_json_or_null("{").is_null());
  CHECK(parse_json_or_null("7") == 7);
}
