#pragma once

#include <cstddef>
#include <mutex>

#include "flowgrad/kernels/gpu_runtime.h"

namespace flowgrad::kernels::cuda {

/// Device memory for intermediate results, kept between calls: giving memory back waits for the
/// device. Grows as needed and lives as long as the program.
class Workspace {
 public:
  /// Valid until the next call; nullptr when there is not enough. Work that uses it must be queued
  /// before lock is given up.
  void* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      gpu::release(memory_);
      bytes_ = 0;
      memory_ = gpu::allocate(bytes);
      if (memory_ == nullptr) return nullptr;
      bytes_ = bytes;
    }
    return memory_;
  }
  std::mutex lock;

 private:
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace flowgrad::kernels::cuda
