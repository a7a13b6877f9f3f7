#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "flowgrad/core/error.h"

namespace flowgrad::gpu::emulator {

/// A variable of the emulator as a whole number; `otherwise` where it is not set. ValueError for
/// what is no such number.
inline std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  std::uint64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, problem] = std::from_chars(text, end, value);
  if (problem == std::errc() && stop == end) return value;
  throw ValueError(std::string(name) + " is '" + text + "'; a whole number is accepted");
}

/// Which of `accepted`, at least two, a variable names; the first where it is not set. ValueError
/// for another word.
inline std::size_t choice_from_environment(const char* name,
                                           const std::vector<std::string>& accepted) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return 0;
  const auto found = std::find(accepted.begin(), accepted.end(), text);
  if (found != accepted.end()) return static_cast<std::size_t>(found - accepted.begin());
  std::string all = accepted.front();
  for (std::size_t i = 1; i < accepted.size(); ++i)
    all += (i + 1 < accepted.size() ? ", " : " and ") + accepted[i];
  throw ValueError(std::string(name) + " is '" + text + "'; accepted are " + all);
}

}  // namespace flowgrad::gpu::emulator
