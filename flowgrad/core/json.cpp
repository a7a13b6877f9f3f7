#include "flowgrad/core/json.h"

namespace flowgrad {

Json parse_json(std::string_view text) { return Json::parse(text); }

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
