#pragma once

#include <cstddef>

/// What the scheduler and device memory tell the checker build (FLOWGRAD_GPU_CHECKER). In the plain
/// build these are empty.
namespace flowgrad::gpu::emulator::checker {

inline void start_launch() {}
inline void end_launch() {}
inline void start_block() {}
inline void block_synchronized() {}
inline void warp_synchronized(unsigned) {}
inline void allocated(const void*, std::size_t) {}
inline void released(const void*, std::size_t) {}
inline void host_wrote(const void*, std::size_t) {}
inline void device_copied(const void*, const void*, std::size_t) {}
inline void atomic_access(const void*, std::size_t) {}

}  // namespace flowgrad::gpu::emulator::checker
