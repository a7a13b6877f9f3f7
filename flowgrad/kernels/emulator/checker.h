#pragma once

#include <cstddef>
#include <cstdint>

/// The checker build (FLOWGRAD_GPU_CHECKER) watches every access of the kernels. The compiler
/// announces each one (-fsanitize=thread, but the __tsan_* functions are ours, in
/// checker_hooks.cpp), and a shadow of device and shared memory knows who touched a byte last.
/// Found, and ending the launch: accesses outside an allocation or a shared variable, reads of
/// bytes never written, misaligned accesses, and races: two threads, one byte, at least one write,
/// not both atomic, and neither a barrier nor a warp function between them. Blocks of one launch
/// are never ordered.
///
/// In the plain build all of this is empty.
namespace flowgrad::gpu::emulator::checker {

enum class AccessKind : std::uint8_t { read, write, atomic };

#if defined(FLOWGRAD_GPU_CHECKER)

// From the scheduler.
void start_launch();
void end_launch();
/// The accesses that follow are by the block in this slot.
void enter_block(unsigned slot);
void start_block();
void block_synchronized();
void warp_synchronized(unsigned mask);

// From device memory and the queue.
void allocated(const void* data, std::size_t bytes);
void released(const void* data, std::size_t bytes);
void host_wrote(const void* data, std::size_t bytes);
void device_copied(const void* destination, const void* source, std::size_t bytes);

/// An access by the running thread; pc is the instruction after it, or nullptr.
void access(const void* address, std::size_t bytes, AccessKind kind, const void* pc);
inline void atomic_access(const void* address, std::size_t bytes) {
  access(address, bytes, AccessKind::atomic, nullptr);
}
inline void note_read(const void* address, std::size_t bytes) {
  access(address, bytes, AccessKind::read, nullptr);
}
inline void note_write(const void* address, std::size_t bytes) {
  access(address, bytes, AccessKind::write, nullptr);
}

#else

inline void start_launch() {}
inline void end_launch() {}
inline void enter_block(unsigned) {}
inline void start_block() {}
inline void block_synchronized() {}
inline void warp_synchronized(unsigned) {}
inline void allocated(const void*, std::size_t) {}
inline void released(const void*, std::size_t) {}
inline void host_wrote(const void*, std::size_t) {}
inline void device_copied(const void*, const void*, std::size_t) {}
inline void atomic_access(const void*, std::size_t) {}
inline void note_read(const void*, std::size_t) {}
inline void note_write(const void*, std::size_t) {}

#endif

}  // namespace flowgrad::gpu::emulator::checker
