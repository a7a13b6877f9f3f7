#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "flowgrad/core/allocator.h"
#include "flowgrad/core/error.h"
#include "flowgrad/kernels/gpu_graph.h"

namespace flowgrad::kernels {

/// Bytes of scratch memory that a call for many rows or matrices takes at once; it does the rest
/// after them. Tests lower it.
inline std::size_t& scratch_limit() {
  static std::size_t bytes = std::size_t{256} << 20;
  return bytes;
}

/// Device memory for the time of one call. A block goes back to a pool and is handed out again
/// without waiting: all kernels run in order on the default stream, so its next user runs later.
/// While a graph is captured it is the graph's own memory, which stays as long as the graph does.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : block_(Pool::instance().take(bytes == 0 ? 1 : bytes)) {}
  ~Scratch() { Pool::instance().give(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(block_.second);
  }

 private:
  using Block = std::pair<std::size_t, void*>;

  class Pool {
   public:
    static Pool& instance() {
      static Pool* const pool = new Pool;  // never destroyed: the driver may be gone by then
      return *pool;
    }
    Block take(std::size_t bytes) {
      if (gpu::capturing()) return {bytes, pool_allocate(bytes, kDevice)};
      const std::lock_guard lock(mutex_);
      const auto found = free_.lower_bound(bytes);
      // A much larger block is left for those who need it.
      if (found != free_.end() && found->first <= 4 * round_up(bytes)) {
        const Block block = *found;
        free_.erase(found);
        return block;
      }
      const std::size_t size = round_up(bytes);
      void* data = gpu::allocate(size);
      if (data == nullptr) {  // what is kept here may be what is missing
        for (const auto& [size_kept, data_kept] : free_) gpu::release(data_kept);
        free_.clear();
        data = gpu::allocate(size);
      }
      if (data == nullptr) {
        throw DeviceError("scratch memory: " + std::to_string(size) +
                          " bytes are needed and the device has not got them");
      }
      return {size, data};
    }
    void give(const Block& block) {
      if (gpu::capturing()) return pool_free(block.second, block.first, kDevice);
      const std::lock_guard lock(mutex_);
      free_.insert(block);
    }

   private:
    static constexpr Device kDevice{Device::Kind::cuda, 0};
    /// To a power of two, so that blocks fit again.
    static std::size_t round_up(std::size_t bytes) {
      std::size_t size = 4096;
      while (size < bytes) size *= 2;
      return size;
    }
    std::mutex mutex_;
    std::multimap<std::size_t, void*> free_;
  };

  Block block_;
};

}  // namespace flowgrad::kernels
