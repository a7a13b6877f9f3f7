#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace flowgrad::testing {

/// The two mappings and the blocks in them.
class ArenaMemory {
 public:
  static ArenaMemory& instance();

  void* allocate(size_t bytes);
  void release(void* block);
  /// The address that may be touched for `bytes` at a device address. Error unless they lie in one
  /// block.
  void* inside(const void* device, size_t bytes);
  /// Whether the address is a device address.
  bool owns(const void* address) const;
  size_t blocks();
  void limit(size_t bytes);

 private:
  ArenaMemory();

  static constexpr size_t kSize = size_t{4} << 30;  // address space; pages come as they are touched
  static constexpr size_t kGap = 64;  // between blocks, so that one cannot reach the next

  char* outside_ = nullptr;
  char* inside_ = nullptr;
  std::mutex mutex_;
  std::map<size_t, size_t> used_;           // offset to bytes
  std::multimap<size_t, size_t> released_;  // bytes to offset
  size_t end_ = 0;
  size_t total_ = 0;
  size_t limit_ = kSize;
};

}  // namespace flowgrad::testing
