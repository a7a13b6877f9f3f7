// What -fsanitize=thread calls, for the checker. libtsan is not linked: it knows nothing of fibers
// as CUDA threads, of barriers or of blocks.
#if defined(FLOWGRAD_GPU_CHECKER)

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "flowgrad/kernels/emulator/checker.h"

using flowgrad::gpu::emulator::checker::access;
using flowgrad::gpu::emulator::checker::AccessKind;

#define FLOWGRAD_HOOKS(bytes)                                         \
  void __tsan_read##bytes(void* p) {                                  \
    access(p, bytes, AccessKind::read, __builtin_return_address(0));  \
  }                                                                   \
  void __tsan_write##bytes(void* p) {                                 \
    access(p, bytes, AccessKind::write, __builtin_return_address(0)); \
  }                                                                   \
  void __tsan_unaligned_read##bytes(void* p) {                        \
    access(p, bytes, AccessKind::read, __builtin_return_address(0));  \
  }                                                                   \
  void __tsan_unaligned_write##bytes(void* p) {                       \
    access(p, bytes, AccessKind::write, __builtin_return_address(0)); \
  }                                                                   \
  void __tsan_volatile_read##bytes(void* p) {                         \
    access(p, bytes, AccessKind::read, __builtin_return_address(0));  \
  }                                                                   \
  void __tsan_volatile_write##bytes(void* p) {                        \
    access(p, bytes, AccessKind::write, __builtin_return_address(0)); \
  }

// Host code in instrumented files (smart pointers, guards of static variables) uses atomics.
#define FLOWGRAD_ATOMIC_HOOKS(bits, T)                                                      \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {                                  \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
  }                                                                                         \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                               \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                               \
  }                                                                                         \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                               \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                     \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                              \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                              \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {   \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }

extern "C" {
FLOWGRAD_HOOKS(1)
FLOWGRAD_HOOKS(2)
FLOWGRAD_HOOKS(4)
FLOWGRAD_HOOKS(8)
FLOWGRAD_HOOKS(16)
void __tsan_read_range(void* p, std::size_t bytes) {
  access(p, bytes, AccessKind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* p, std::size_t bytes) {
  access(p, bytes, AccessKind::write, __builtin_return_address(0));
}
// Clang announces block operations by these.
void* __tsan_memset(void* p, int value, std::size_t bytes) {
  access(p, bytes, AccessKind::write, __builtin_return_address(0));
  return std::memset(p, value, bytes);
}
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
  access(from, bytes, AccessKind::read, __builtin_return_address(0));
  access(to, bytes, AccessKind::write, __builtin_return_address(0));
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, std::size_t bytes) {
  access(from, bytes, AccessKind::read, __builtin_return_address(0));
  access(to, bytes, AccessKind::write, __builtin_return_address(0));
  return std::memmove(to, from, bytes);
}
FLOWGRAD_ATOMIC_HOOKS(8, std::uint8_t)
FLOWGRAD_ATOMIC_HOOKS(16, std::uint16_t)
FLOWGRAD_ATOMIC_HOOKS(32, std::uint32_t)
FLOWGRAD_ATOMIC_HOOKS(64, std::uint64_t)
void __tsan_atomic_thread_fence(int) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
}

#endif
