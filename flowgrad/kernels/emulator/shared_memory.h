#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace flowgrad::gpu::emulator {

/// The shared memory of the running block: one window, filled with NaN bits before each block.
///
///     | 128 bytes | dynamic part | gap | variable | gap | variable | gap ...
///
/// Gaps keep the pattern; a changed byte there is a write past the end of a variable.
class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void start_launch(std::size_t dynamic_bytes);
  void start_block();
  /// The name of what was overrun, or an empty string.
  std::string overrun() const;

  /// nullptr, with a reason in error, when the variable does not fit.
  void* variable(const void* key, std::size_t bytes, std::size_t alignment, std::string& error);
  void* dynamic() const { return base_ + kDynamicOffset; }
  char* base() const { return base_; }

  /// A part of the window that a kernel may use.
  struct Extent {
    const void* key;
    std::size_t offset;
    std::size_t bytes;
  };
  const std::vector<Extent>& extents() const { return extents_; }

  /// The size that 18-bit shared addresses can reach.
  static constexpr std::size_t kWindow = 256 << 10;

 private:
  // Aligned to 128 bytes and to nothing more: kernels must not rely on more either.
  static constexpr std::size_t kDynamicOffset = 128;
  static constexpr std::size_t kGap = 64;

  char* base_;
  std::size_t end_ = 0;  // of what is in use
  std::size_t static_bytes_ = 0;
  std::size_t dynamic_bytes_ = 0;
  std::vector<Extent> extents_;  // the dynamic part first
};

}  // namespace flowgrad::gpu::emulator
