#pragma once

#include "flowgrad/kernels/gpu.cuh"

#if defined(FLOWGRAD_GPU_EMULATED)
#include "flowgrad/kernels/emulator/async.h"
#endif

/// Copies from device memory to shared memory that run beside the computation (sm_80):
///
///     gpu::cp_async<16>(&tile[...], &in[...]);   // any number of them
///     gpu::cp_async_commit();                    // they are one group
///     gpu::cp_async_wait<1>();                   // all groups but the last one have landed
///     __syncthreads();                           // ... for the other threads too
namespace flowgrad::gpu {

#if !defined(FLOWGRAD_GPU_EMULATED)
/// The address of shared memory as PTX writes it.
GPU_INLINE unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#else
GPU_INLINE unsigned shared_address(const void* pointer) { return emulator::shared_offset(pointer); }
#endif

/// Starts a copy of BYTES (4, 8 or 16) bytes, both sides aligned to as many. Where inside is false
/// the destination is cleared and source is not read.
template <int BYTES>
GPU_INLINE void cp_async(void* destination, const void* source, bool inside = true) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp_async copies 4, 8 or 16 bytes");
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::async_copy(destination, source, BYTES, inside ? BYTES : 0);
#else
  const unsigned to = shared_address(destination);
  const int valid = inside ? BYTES : 0;
  if constexpr (BYTES == 16) {
    // 16 bytes may go past the L1 cache.
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(source), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(source), "n"(BYTES),
                 "r"(valid)
                 : "memory");
  }
#endif
}

GPU_INLINE void cp_async_commit() {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most N groups of the calling thread are in flight.
template <int N>
GPU_INLINE void cp_async_wait() {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::async_wait(N);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/// Waits for every copy of the calling thread.
GPU_INLINE void cp_async_wait_all() {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::async_wait_all();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace flowgrad::gpu
