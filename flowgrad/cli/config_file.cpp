#include "flowgrad/cli/config_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>

#include "flowgrad/cli/options.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/text.h"
#include "flowgrad/models/config.h"
#include "flowgrad/models/registry.h"

namespace flowgrad::cli {
namespace {

std::string_view trimmed(std::string_view s) {
  const size_t first = s.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(" \t\r") - first + 1);
}

bool is_name(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  });
}

bool is_number(std::string_view s) {
  double value = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
  return error == std::errc() && end == s.data() + s.size();
}

[[noreturn]] void refuse(const std::string& place, const std::string& what) {
  throw UsageError(fmt::format("--config: {}: {}", place, what));
}

void refuse_line(const std::string& place, std::string_view line) {
  refuse(place,
         fmt::format("{} given; name = value, [section] or a comment is accepted", quote(line)));
}

/// The text after `=`: a string in quotes, or a word, and then nothing but a comment.
std::string parse_value(std::string_view text, const std::string& place) {
  std::string value;
  std::string_view rest;
  if (text.starts_with('"')) {
    size_t i = 1;
    for (; i < text.size() && text[i] != '"'; ++i) {
      if (text[i] == '\\') {
        if (i + 1 >= text.size() || (text[i + 1] != '"' && text[i + 1] != '\\')) {
          refuse(place,
                 fmt::format("{} given; \\\" and \\\\ are the escapes accepted", quote(text)));
        }
        ++i;
      }
      value += text[i];
    }
    if (i >= text.size())
      refuse(place, fmt::format("{} given; the string has no end", quote(text)));
    rest = trimmed(text.substr(i + 1));
  } else {
    const size_t end = std::min(text.find_first_of(" \t#"), text.size());
    value = text.substr(0, end);
    rest = trimmed(text.substr(end));
    if (value.find_first_of("\"'[]{},=") != std::string::npos || value.empty()) {
      refuse(place, fmt::format(
                        "value {} given; a number, a word or a string in double quotes is accepted",
                        quote(text)));
    }
  }
  if (!rest.empty() && rest.front() != '#')
    refuse(place, fmt::format("{} after the value is not accepted", quote(rest)));
  return value;
}

std::vector<ConfigEntry> parse_lines(std::string_view text, const std::string& path) {
  std::vector<ConfigEntry> out;
  std::string section;
  int number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string place = fmt::format("{}:{}", path, ++number);
    if (line.empty() || line.front() == '#') continue;
    if (line.front() == '[') {
      const size_t close = line.find(']');
      const std::string_view rest =
          close == std::string_view::npos ? line : trimmed(line.substr(close + 1));
      if (close == std::string_view::npos || !is_name(line.substr(1, close - 1)) ||
          (!rest.empty() && rest.front() != '#')) {
        refuse_line(place, line);
      }
      section = line.substr(1, close - 1);
      continue;
    }
    const size_t equals = line.find('=');
    const std::string_view key = trimmed(line.substr(0, std::min(equals, line.size())));
    if (equals == std::string_view::npos || !is_name(key)) refuse_line(place, line);
    out.push_back(
        {section, std::string(key), parse_value(trimmed(line.substr(equals + 1)), place), place});
  }
  return out;
}

std::string json_value(const Json& value, const std::string& key, const std::string& path) {
  if (value.is_string() || value.is_number() || value.is_boolean()) return plain_text(value);
  refuse(path, fmt::format("{} is {}; a string, a number, true or false is accepted", quote(key),
                           value.type_name()));
}

std::vector<ConfigEntry> parse_json_config(const std::string& text, const std::string& path) {
  Json root;
  try {
    root = parse_json(text);
  } catch (const Json::exception& e) {
    refuse(path, fmt::format("not JSON: {}", e.what()));
  }
  std::vector<ConfigEntry> out;
  for (const auto& [key, value] : root.items()) {
    if (value.is_object()) {
      for (const auto& [inner, v] : value.items())
        out.push_back({key, inner, json_value(v, inner, path), path});
    } else {
      out.push_back({"", key, json_value(value, key, path), path});
    }
  }
  return out;
}

std::set<std::string> all_model_keys() {
  std::set<std::string> out;
  for (const std::string& model : model_names()) {
    for (const ConfigKey& key : config_keys(model)) out.insert(key.name);
  }
  return out;
}

std::string suggestion(const std::string& word, const std::vector<std::string>& candidates) {
  const std::string near = nearest_name(word, candidates);
  return near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near);
}

}  // namespace

std::vector<ConfigEntry> parse_config(const std::string& text, const std::string& path) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool json = first != std::string::npos && text[first] == '{';
  std::vector<ConfigEntry> out = json ? parse_json_config(text, path) : parse_lines(text, path);
  std::set<std::pair<std::string, std::string>> seen;
  for (const ConfigEntry& e : out) {
    if (!seen.emplace(e.section, e.key).second)
      refuse(e.place, fmt::format("key {} is given twice", quote(e.key)));
    if (e.value.find('\0') != std::string::npos) {
      refuse(e.place, fmt::format("key {}: {} given; text without a NUL is accepted", quote(e.key),
                                  quote(e.value)));
    }
  }
  return out;
}

std::vector<ConfigEntry> read_config(const std::string& path) {
  const auto bytes = read_file(path, "--config");
  return parse_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::string config_value(const std::string& value) {
  if (is_number(value) || value == "true" || value == "false") return value;
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::vector<std::string> config_arguments(const std::vector<ConfigEntry>& entries,
                                          const std::string& command,
                                          const std::vector<std::string>& options,
                                          const std::vector<std::string>& commands) {
  const auto known = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const bool has_model = known(options, "set");
  const std::set<std::string> model_keys = has_model ? all_model_keys() : std::set<std::string>();
  std::vector<std::string> accepted;
  for (const std::string& o : options) {
    if (o != "config" && o != "print-config" && o != "help" && o != "set") accepted.push_back(o);
  }
  std::vector<std::string> out;
  for (const ConfigEntry& e : entries) {
    if (e.section == "set" && has_model) {
      out.push_back(fmt::format("--set={}={}", e.key, e.value));
    } else if (!e.section.empty() && e.section != command) {
      if (!known(commands, e.section)) {
        refuse(e.place, fmt::format("unknown section {}{}; {}the names of commands are accepted",
                                    quote(e.section), suggestion(e.section, commands),
                                    has_model ? "set and " : ""));
      }
    } else if (known(accepted, e.key)) {
      out.push_back(fmt::format("--{}={}", e.key, e.value));
    } else if (e.section.empty() && model_keys.contains(e.key)) {
      out.push_back(fmt::format("--set={}={}", e.key, e.value));
    } else {
      std::vector<std::string> candidates = accepted;
      if (e.section.empty())
        candidates.insert(candidates.end(), model_keys.begin(), model_keys.end());
      refuse(e.place, fmt::format("unknown key {}{}; options of \"flowgrad {}\"{} are accepted",
                                  quote(e.key), suggestion(e.key, candidates), command,
                                  has_model ? " and keys of its model" : ""));
    }
  }
  return out;
}

}  // namespace flowgrad::cli
