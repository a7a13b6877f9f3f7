#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "flowgrad/kernels/emulator/checker.h"

namespace flowgrad::gpu {

/// What one load or store instruction of a kernel cost the memory, over a launch. A request is one
/// instruction of one warp. Counted, not timed: a device may also answer from its caches.
struct MemoryProfile {
  std::string place;    // function and line
  bool shared = false;  // else device memory
  bool write = false;
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;  // asked for by the lanes
  std::uint64_t transactions =
      0;                    // 32-byte sectors of device memory; passes over shared memory's banks
  std::uint64_t ideal = 0;  // the least transactions for as many bytes
};

/// Runs work and synchronises, and tells of every access the kernels in it made. Only in the
/// checker build; raises DeviceError in others.
std::vector<MemoryProfile> profile(const std::function<void()>& work);

namespace emulator::checker {

void profile_start_block();
void profile_end_launch();
void profile_access(const void* address, std::size_t shared_offset, std::size_t bytes,
                    AccessKind kind, bool shared, const void* pc);

}  // namespace emulator::checker
}  // namespace flowgrad::gpu
