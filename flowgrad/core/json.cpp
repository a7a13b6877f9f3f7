#include "flowgrad/core/json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "flowgrad/core/text.h"

namespace flowgrad {

namespace {

/// Copies and prints go down level by level, each on the stack.
constexpr int kMostLevels = 64;

class Refused : public Json::exception {
 public:
  explicit Refused(const std::string& what) : Json::exception(600, what.c_str()) {}
};

}  // namespace

Json parse_json(std::string_view text) {
  std::vector<std::set<std::string>> seen;  // members of the objects that are open
  const Json::parser_callback_t check = [&](int depth, Json::parse_event_t event, Json& value) {
    const bool object = event == Json::parse_event_t::object_start;
    if ((object || event == Json::parse_event_t::array_start) && depth >= kMostLevels)
      throw Refused(fmt::format("more than {} levels of objects and arrays", kMostLevels));
    if (object) seen.emplace_back();
    if (event == Json::parse_event_t::object_end) seen.pop_back();
    if (event == Json::parse_event_t::key && !seen.back().insert(value.get<std::string>()).second)
      throw Refused(fmt::format("key {} is given twice", quote(value.get<std::string>())));
    return true;
  };
  return Json::parse(text, check);
}

Json parse_json_or_null(std::string_view text) {
  try {
    return parse_json(text);
  } catch (const Json::exception&) {
    return {};
  }
}

std::string json_text(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string plain_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : json_text(value);
}

}  // namespace flowgrad
