#pragma once

#include <cstddef>
#include <cstdint>

#include "flowgrad/core/device.h"

namespace flowgrad {

/// Bytes and calls of a device's pool. `live` counts what tensors hold now (rounded to the pool's
/// sizes), `cached` what the pool keeps for reuse. The peak is exact where one thread allocates;
/// small blocks of host memory are counted by each thread, and the peak of one is added to what
/// the others hold when it is asked for.
struct MemoryStats {
  int64_t live_bytes = 0;
  int64_t peak_bytes = 0;
  int64_t cached_bytes = 0;
  int64_t allocations = 0;
  int64_t system_allocations = 0;
};

/// 64-byte aligned block of at least `bytes` (rounded up to a pool size), on the device; raises
/// Error with the device and requested, live, cached and peak bytes when the system has none, after
/// the device's cache was flushed and one retry. DeviceError where there is no such device memory.
void* pool_allocate(size_t bytes, Device device);
void pool_free(void* block, size_t bytes, Device device) noexcept;

MemoryStats memory_stats(Device device = Device::cpu());
/// Sets the peak to the live bytes.
void reset_peak_memory(Device device = Device::cpu());
/// Returns cached blocks to the system, but for the small ones of host memory that other threads
/// keep for themselves.
void empty_cache(Device device = Device::cpu());

/// Test hook: the n-th pool allocation from now, on whatever device, fails (n >= 1); 0 switches it
/// off.
void fail_allocation_after(int64_t n);

}  // namespace flowgrad
