#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

#include "flowgrad/kernels/gpu_graph.h"

namespace flowgrad::kernels {

/// Copies between pageable host memory and the device by way of a few pinned blocks that take
/// turns. The device reads and writes those by itself, so the host fills one block while another is
/// on its way, and a copy to the device returns before it has arrived. A block is used again only
/// when the device is done with it. Without pinned memory, copies go the direct way.
class Staging {
 public:
  explicit Staging(std::size_t block_bytes = std::size_t{256} << 10, std::size_t n_blocks = 16);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  /// The one that all copies of the backend share.
  static Staging& instance();

  /// `host` may change as soon as it returns.
  void to_device(void* device, const void* host, std::size_t bytes);
  /// The bytes are there when it returns; raises what went wrong on the device before.
  void to_host(void* host, const void* device, std::size_t bytes);

 private:
  struct Block {
    char* memory = nullptr;
    gpu::Event used;  // after the last copy that reads or writes it
  };
  Block& next();

  std::mutex mutex_;
  const std::size_t block_bytes_;
  void* const pinned_;  // all blocks; nullptr where there is none
  std::vector<Block> blocks_;
  std::size_t turn_ = 0;
};

}  // namespace flowgrad::kernels
