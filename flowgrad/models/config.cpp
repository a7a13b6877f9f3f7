#include "flowgrad/models/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace flowgrad {

std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 2);
  for (const std::string& c : candidates) {
    // Levenshtein distance, one row of the table at a time.
    std::vector<size_t> row(c.size() + 1);
    for (size_t j = 0; j <= c.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= c.size(); ++j) {
        const size_t replace = diagonal + (word[i - 1] == c[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
      }
    }
    if (row.back() <= best_distance && (best.empty() || row.back() < best_distance)) {
      best = c;
      best_distance = row.back();
    }
  }
  return best;
}

ConfigReader::ConfigReader(std::string model, const std::vector<ConfigKey>& keys,
                           const Config& given)
    : model_(std::move(model)) {
  std::vector<std::string> names;
  for (const ConfigKey& k : keys) {
    values_[k.name] = k.default_value;
    names.push_back(k.name);
  }
  for (const auto& [key, value] : given) {
    if (!values_.contains(key)) {
      const std::string near = nearest_name(key, names);
      throw ValueError(fmt::format("model {}: unknown key \"{}\"{}; accepted are {}", model_, key,
                                   near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                                   fmt::join(names, ", ")));
    }
    values_[key] = value;
  }
}

void ConfigReader::refuse(const std::string& key, const std::string& accepted) const {
  throw ValueError(fmt::format("model {}: {} = \"{}\" given; {} accepted", model_, key,
                               values_.at(key), accepted));
}

int64_t ConfigReader::integer(const std::string& key, int64_t least) const {
  constexpr int64_t kMost = int64_t{1} << 24;
  const std::string& s = values_.at(key);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
  if (error != std::errc() || end != s.data() + s.size() || value < least || value > kMost) {
    refuse(key, fmt::format("an integer from {} to {} is", least, kMost));
  }
  return value;
}

double ConfigReader::real(const std::string& key, double least) const {
  const std::string& s = values_.at(key);
  double value = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
  if (error != std::errc() || end != s.data() + s.size() || !std::isfinite(value) ||
      value < least) {
    refuse(key, fmt::format("a number of at least {} is", least));
  }
  values_[key] = fmt::format("{}", value);
  return value;
}

bool ConfigReader::boolean(const std::string& key) const {
  return choice(key, {"false", "true"}) == 1;
}

size_t ConfigReader::choice(const std::string& key,
                            const std::vector<std::string>& accepted) const {
  const auto found = std::find(accepted.begin(), accepted.end(), values_.at(key));
  if (found == accepted.end()) refuse(key, fmt::format("{} are", fmt::join(accepted, ", ")));
  return static_cast<size_t>(found - accepted.begin());
}

}  // namespace flowgrad
