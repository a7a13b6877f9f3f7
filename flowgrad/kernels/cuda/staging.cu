#include "flowgrad/kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace flowgrad::kernels {

Staging::Staging(std::size_t block_bytes, std::size_t n_blocks)
    : block_bytes_(block_bytes), pinned_(gpu::pinned_allocate(block_bytes * n_blocks)) {
  if (pinned_ == nullptr) return;
  for (std::size_t i = 0; i < n_blocks; ++i) {
    blocks_.push_back({static_cast<char*>(pinned_) + i * block_bytes, {}});
  }
}

Staging::~Staging() {
  gpu::pinned_release(pinned_);
  for (const Block& block : blocks_) gpu::release_event(block.used);
}

Staging& Staging::instance() {
  static Staging* const staging = new Staging;  // never destroyed: the driver may be gone by then
  return *staging;
}

Staging::Block& Staging::next() {
  Block& block = blocks_[turn_++ % blocks_.size()];
  gpu::wait_event(block.used);
  return block;
}

void Staging::to_device(void* device, const void* host, std::size_t bytes) {
  const gpu::Stream stream = gpu::default_stream();
  if (blocks_.empty()) return gpu::copy_to_device(device, host, bytes, stream);
  const std::lock_guard lock(mutex_);
  for (std::size_t done = 0; done < bytes; done += block_bytes_) {
    const std::size_t part = std::min(bytes - done, block_bytes_);
    Block& block = next();
    std::memcpy(block.memory, static_cast<const char*>(host) + done, part);
    gpu::copy_to_device(static_cast<char*>(device) + done, block.memory, part, stream);
    gpu::record_event(block.used, stream);
  }
}

void Staging::to_host(void* host, const void* device, std::size_t bytes) {
  const gpu::Stream stream = gpu::default_stream();
  if (blocks_.empty()) {
    gpu::copy_to_host(host, device, bytes, stream);
    return gpu::synchronize(stream);
  }
  const std::lock_guard lock(mutex_);
  // Part i waits in its block until part i + n - 1 was asked for.
  std::vector<const Block*> on_their_way;
  std::size_t fetched = 0;
  const auto fetch = [&] {
    const Block& block = *on_their_way[fetched];
    const std::size_t at = fetched++ * block_bytes_;
    gpu::wait_event(block.used);
    std::memcpy(static_cast<char*>(host) + at, block.memory, std::min(bytes - at, block_bytes_));
  };
  for (std::size_t done = 0; done < bytes; done += block_bytes_) {
    if (on_their_way.size() - fetched == blocks_.size()) fetch();
    Block& block = next();
    gpu::copy_to_host(block.memory, static_cast<const char*>(device) + done,
                      std::min(bytes - done, block_bytes_), stream);
    gpu::record_event(block.used, stream);
    on_their_way.push_back(&block);
  }
  while (fetched < on_their_way.size()) fetch();
}

}  // namespace flowgrad::kernels
