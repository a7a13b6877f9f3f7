#include "flowgrad/core/json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "flowgrad/core/text.h"

namespace flowgrad {

namespace {

class RepeatedKey : public Json::exception {
 public:
  explicit RepeatedKey(const std::string& key)
      : Json::exception(600, fmt::format("key {} is given twice", quote(key)).c_str()) {}
};

}  // namespace

Json parse_json(std::string_view text) {
  std::vector<std::set<std::string>> seen;  // members of the objects that are open
  const Json::parser_callback_t once = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) seen.emplace_back();
    if (event == Json::parse_event_t::object_end) seen.pop_back();
    if (event == Json::parse_event_t::key && !seen.back().insert(value.get<std::string>()).second)
      throw RepeatedKey(value.get<std::string>());
    return true;
  };
  return Json::parse(text, once);
}

Json parse_json_or_null(std::string_view text) {
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? Json() : value;
}

std::string json_text(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string plain_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : json_text(value);
}

}  // namespace flowgrad
