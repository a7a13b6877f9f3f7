#pragma once

#include <string>
#include <vector>

#include "flowgrad/models/registry.h"

namespace flowgrad {

/// The keys of one model, checked and typed. Every getter raises ValueError naming the model, the
/// key, the value given and what is accepted.
class ConfigReader {
 public:
  /// Fills in defaults; refuses unknown keys with the nearest known one.
  ConfigReader(std::string model, const std::vector<ConfigKey>& keys, const Config& given);

  int64_t integer(const std::string& key, int64_t least) const;
  /// Afterwards values() has the number in its shortest form, as files give it back: a run's
  /// configuration is compared as text.
  double real(const std::string& key, double least) const;
  bool boolean(const std::string& key) const;
  /// Position in `accepted`.
  size_t choice(const std::string& key, const std::vector<std::string>& accepted) const;
  const std::string& text(const std::string& key) const { return values_.at(key); }
  const Config& values() const { return values_; }
  const std::string& model() const { return model_; }

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& accepted) const;

  std::string model_;
  mutable Config values_;
};

/// The candidate with the smallest edit distance to `word`; empty when none is near.
std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace flowgrad
