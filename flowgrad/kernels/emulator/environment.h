#pragma once

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

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

}  // namespace flowgrad::gpu::emulator
