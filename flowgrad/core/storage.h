#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "flowgrad/core/allocator.h"
#include "flowgrad/core/ref.h"

namespace flowgrad {

/// The bytes behind one or more tensors, with a version that every write raises. A saved value that
/// was overwritten is found by its version, and `last_writer` says by whom.
class Storage final : public RefCounted {
 public:
  Storage(size_t bytes, Device device)
      : data_(pool_allocate(bytes, device)), bytes_(bytes), device_(device) {}
  ~Storage() override { pool_free(data_, bytes_, device_); }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  const char* last_writer() const { return last_writer_; }
  /// To be called by everything that writes into an existing tensor. `writer` has static lifetime.
  void mark_written(const char* writer) {
    version_.fetch_add(1, std::memory_order_relaxed);
    last_writer_ = writer;
  }
  /// For a storage that takes another's place: whoever saved the other finds it overwritten.
  void mark_replacement_of(const Storage& other, const char* writer) {
    version_.store(other.version() + 1, std::memory_order_relaxed);
    last_writer_ = writer;
  }

 private:
  void* data_;
  size_t bytes_;
  Device device_;
  std::atomic<uint64_t> version_{0};
  const char* last_writer_ = "its creator";
};

}  // namespace flowgrad
