#include "device/arena_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "device/arena.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/error.h"

namespace flowgrad::testing {

ArenaMemory& ArenaMemory::instance() {
  static ArenaMemory* arena = new ArenaMemory;  // outlives tensors with static storage
  return *arena;
}

ArenaMemory::ArenaMemory() {
  const int file = ::memfd_create("flowgrad-arena", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(kSize)) != 0) {
    throw Error("arena: no anonymous file");
  }
  void* out = ::mmap(nullptr, kSize, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
  void* in = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  ::close(file);
  if (out == MAP_FAILED || in == MAP_FAILED) throw Error("arena: no address space");
  outside_ = static_cast<char*>(out);
  inside_ = static_cast<char*>(in);
}

void* ArenaMemory::allocate(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (total_ + bytes > limit_) return nullptr;
  size_t offset = end_;
  if (const auto found = released_.find(bytes); found != released_.end()) {
    offset = found->second;
    released_.erase(found);
  } else {
    if (end_ + bytes + kGap > kSize) return nullptr;
    end_ += (bytes + kGap + 63) / 64 * 64;
  }
  used_[offset] = bytes;
  total_ += bytes;
  std::memset(inside_ + offset, 0xFF, bytes);
  return outside_ + offset;
}

void ArenaMemory::release(void* block) {
  std::lock_guard lock(mutex_);
  const auto found = used_.find(static_cast<size_t>(static_cast<char*>(block) - outside_));
  if (found == used_.end()) std::abort();  // freed twice, or never allocated
  std::memset(inside_ + found->first, 0xFF, found->second);
  released_.emplace(found->second, found->first);
  total_ -= found->second;
  used_.erase(found);
}

bool ArenaMemory::owns(const void* address) const {
  const auto* at = static_cast<const char*>(address);
  return at >= outside_ && at < outside_ + kSize;
}

void* ArenaMemory::inside(const void* device, size_t bytes) {
  if (!owns(device)) {
    throw Error(
        fmt::format("arena: {} is no device address: a host tensor was given to a kernel", device));
  }
  const auto offset = static_cast<size_t>(static_cast<const char*>(device) - outside_);
  std::lock_guard lock(mutex_);
  auto block = used_.upper_bound(offset);
  if (block == used_.begin()) throw Error("arena: the address is in no block");
  --block;
  if (offset + bytes > block->first + block->second) {
    throw Error(fmt::format("arena: {} bytes at {} of a block of {} bytes", bytes,
                            offset - block->first, block->second));
  }
  return inside_ + offset;
}

size_t ArenaMemory::blocks() {
  std::lock_guard lock(mutex_);
  return used_.size();
}

void ArenaMemory::limit(size_t bytes) {
  std::lock_guard lock(mutex_);
  limit_ = bytes == 0 ? kSize : bytes;
}

namespace {

void* allocate(size_t bytes) { return ArenaMemory::instance().allocate(bytes); }
void release(void* block) { ArenaMemory::instance().release(block); }
void copy_in(void* device, const void* host, size_t bytes) {
  if (ArenaMemory::instance().owns(host)) throw Error("arena: copy_in from a device address");
  std::memcpy(ArenaMemory::instance().inside(device, bytes), host, bytes);
}
void copy_out(void* host, const void* device, size_t bytes) {
  if (ArenaMemory::instance().owns(host)) throw Error("arena: copy_out to a device address");
  std::memcpy(host, ArenaMemory::instance().inside(device, bytes), bytes);
}
int count() { return 1; }

bool registered = false;

}  // namespace

void register_arena_backend();

void register_arena() {
  register_device_memory(Device::Kind::cuda,
                         {allocate, release, copy_in, copy_out, count, nullptr});
  register_arena_backend();
  registered = true;
}

bool arena_is_registered() { return registered; }
size_t arena_blocks() { return ArenaMemory::instance().blocks(); }
void limit_arena(size_t bytes) { ArenaMemory::instance().limit(bytes); }

}  // namespace flowgrad::testing
