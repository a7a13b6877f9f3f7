#include "flowgrad/kernels/emulator/shared_memory.h"

#include <cstdlib>
#include <cstring>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/emulator/memory.h"

namespace flowgrad::gpu::emulator {

SharedMemory::SharedMemory() : base_(static_cast<char*>(std::aligned_alloc(kWindow, 2 * kWindow))) {
  if (base_ == nullptr) throw Error("CUDA emulator: no memory for the shared memory of a block");
}
SharedMemory::~SharedMemory() { std::free(base_); }

void SharedMemory::start_launch(std::size_t dynamic_bytes) {
  extents_.clear();
  extents_.push_back({nullptr, kDynamicOffset, dynamic_bytes});
  dynamic_bytes_ = dynamic_bytes;
  static_bytes_ = 0;
  end_ = kDynamicOffset + dynamic_bytes + kGap;
}

void SharedMemory::start_block() { std::memset(base_, kPoison, end_); }

void* SharedMemory::variable(const void* key, std::size_t bytes, std::size_t alignment,
                             std::string& error) {
  for (const Extent& extent : extents_) {
    if (extent.key == key) return base_ + extent.offset;
  }
  static_bytes_ = round_up(static_bytes_, alignment) + bytes;
  if (static_bytes_ > kMaxStaticShared) {
    error = "GPU_SHARED variables take " + std::to_string(static_bytes_) + " bytes; at most " +
            std::to_string(kMaxStaticShared) + " are allowed";
    return nullptr;
  }
  if (static_bytes_ + dynamic_bytes_ > kMaxShared) {
    error = "shared memory: " + std::to_string(static_bytes_) + " bytes of variables and " +
            std::to_string(dynamic_bytes_) + " dynamic ones; at most " +
            std::to_string(kMaxShared) + " are allowed";
    return nullptr;
  }
  // Variables of one and two bytes would otherwise share 16-byte lines with their gap.
  const std::size_t offset = round_up(end_, alignment < 16 ? 16 : alignment);
  extents_.push_back({key, offset, bytes});
  const std::size_t old_end = end_;
  end_ = offset + bytes + kGap;
  std::memset(base_ + old_end, kPoison, end_ - old_end);
  return base_ + offset;
}

std::string SharedMemory::overrun() const {
  std::size_t gap = 0;
  for (std::size_t i = 0; i <= extents_.size(); ++i) {
    const std::size_t gap_end = i < extents_.size() ? extents_[i].offset : end_;
    for (std::size_t at = gap; at < gap_end; ++at) {
      if (static_cast<unsigned char>(base_[at]) == kPoison) continue;
      if (i == 0) return "memory before the dynamic shared memory was written";
      const Extent& before = extents_[i - 1];
      return "a write " + std::to_string(at - before.offset - before.bytes) +
             " bytes past the end of " +
             (before.key == nullptr ? "the dynamic shared memory"
                                    : "GPU_SHARED variable number " + std::to_string(i - 1)) +
             " (" + std::to_string(before.bytes) + " bytes)";
    }
    if (i < extents_.size()) gap = extents_[i].offset + extents_[i].bytes;
  }
  return {};
}

}  // namespace flowgrad::gpu::emulator
