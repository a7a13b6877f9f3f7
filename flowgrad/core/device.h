#pragma once

#include <cstdint>
#include <string>

namespace flowgrad {

/// Where a tensor's bytes live.
struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int8_t index = 0;

  static constexpr Device cpu() { return {}; }
  /// Raises DeviceError where the library was built without CUDA, no device is found, or none has
  /// this index.
  static Device cuda(int index = 0);
  bool is_cpu() const { return kind == Kind::cpu; }
  std::string to_string() const;
  friend bool operator==(Device, Device) = default;
};

}  // namespace flowgrad
