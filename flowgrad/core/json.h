#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// Reading and printing of JSON, compiled once: the library's parser and printer cost seconds in
// every file that instantiates them. Not installed.
namespace flowgrad {

/// Members stay in the order in which they were added, so that files read as they were written.
using Json = nlohmann::ordered_json;

/// Raises Json::exception for what is not JSON, for an object that names a member twice, and for
/// more than 64 levels.
Json parse_json(std::string_view text);

/// Null where parse_json raises.
Json parse_json_or_null(std::string_view text);

/// On one line, or indented by `indent` spaces a level. Bytes that are not UTF-8 are replaced.
std::string json_text(const Json& value, int indent = -1);

/// A string as it is, without quotes; anything else as json_text.
std::string plain_text(const Json& value);

}  // namespace flowgrad
