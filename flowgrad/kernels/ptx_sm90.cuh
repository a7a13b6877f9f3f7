#pragma once

#include <cstdint>

#include "flowgrad/kernels/gpu_tensor_map.h"
#include "flowgrad/kernels/ptx_mma.cuh"

#if defined(FLOWGRAD_GPU_EMULATED)
#include "flowgrad/kernels/emulator/sm90.h"
#endif

/// Hopper: barriers in shared memory, the copy engine (TMA) and matrix products of a warp group
/// (wgmma). Compile for sm_90a; no other architecture has wgmma, the next ones included.
///
///     if (first thread) mbarrier_init(&full, 1), mbarrier_fence(); __syncthreads();
///     if (first thread) mbarrier_arrive_expect(&full, bytes), tma_load(tile, map, column, row,
///     &full); mbarrier_wait(&full, parity);                       // all threads; parity 0, 1, 0,
///     ... wgmma_fence(); wgmma_bf16<N>(d, descriptor(a), descriptor(b), accumulate);
///     wgmma_commit(); wgmma_wait<0>();                                    // d may be read, the
///     tiles overwritten
namespace flowgrad::gpu {

// --- barriers ---

/// For count arrivals per phase, by one thread; others may use it after mbarrier_fence and a
/// barrier.
GPU_INLINE void mbarrier_init(std::uint64_t* barrier, unsigned count) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::mbarrier_init(barrier, count);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
#endif
}
/// Makes fresh barriers known to the copy engine.
GPU_INLINE void mbarrier_fence() {
#if !defined(FLOWGRAD_GPU_EMULATED)
  asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async;" ::: "memory");
#endif
}
GPU_INLINE void mbarrier_arrive(std::uint64_t* barrier) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::mbarrier_arrive(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
#endif
}
/// Arrives, and has the phase wait for bytes from the copy engine as well.
GPU_INLINE void mbarrier_arrive_expect(std::uint64_t* barrier, unsigned bytes) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::mbarrier_arrive(barrier, bytes);
#else
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}
/// Waits until the phase of this parity is over: the first phase has parity 0.
GPU_INLINE void mbarrier_wait(std::uint64_t* barrier, unsigned parity FLOWGRAD_SITE) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::mbarrier_wait(barrier, parity, site);
#else
  unsigned done = 0;
  while (done == 0) {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, "
        "p; }"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
#endif
}

// --- the copy engine ---

/// Starts the copy of the box whose first element is (row, column) to shared memory, aligned to 128
/// bytes (1024 with swizzle); elements outside the matrix become zero. Called by one thread; the
/// bytes of the whole box count at the barrier.
GPU_INLINE void tma_load(void* destination, const TensorMap& map, int column, int row,
                         std::uint64_t* barrier) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::tensor_load(destination, map, column, row, barrier);
#else
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(destination)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
#endif
}

// --- products of a warp group ---

/// Describes a tile in shared memory to wgmma: rows of 128 bytes along k, swizzled as TMA does,
/// first row at a multiple of 1024 bytes; 32 bytes further for the next step in k.
GPU_INLINE std::uint64_t wgmma_descriptor(const void* tile) {
  const std::uint64_t address = shared_address(tile) & 0x3ffffu;
  const std::uint64_t group = 1024;  // bytes from eight rows to the next eight
  return address >> 4 | std::uint64_t{1} << 16 | (group >> 4) << 32 | std::uint64_t{1} << 62;
}

/// Before the first product, and after the calling threads wrote d.
GPU_INLINE void wgmma_fence() {
#if !defined(FLOWGRAD_GPU_EMULATED)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
GPU_INLINE void wgmma_commit() {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::wgmma_commit();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/// Waits until at most PENDING groups of products are under way.
template <int PENDING>
GPU_INLINE void wgmma_wait() {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::wgmma_wait(PENDING);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#endif
}

#if !defined(FLOWGRAD_GPU_EMULATED)
// Operands number 32 k to 32 k + 31, by name and by place.
#define FLOWGRAD_R32_0                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FLOWGRAD_R32_1                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FLOWGRAD_R32_2                                                               \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FLOWGRAD_R32_3                                                                           \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FLOWGRAD_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FLOWGRAD_D16(i) FLOWGRAD_D4(i), FLOWGRAD_D4(i + 4), FLOWGRAD_D4(i + 8), FLOWGRAD_D4(i + 12)
#define FLOWGRAD_D32(i) FLOWGRAD_D16(i), FLOWGRAD_D16(i + 16)
#define FLOWGRAD_D64(i) FLOWGRAD_D32(i), FLOWGRAD_D32(i + 32)
#define FLOWGRAD_D128(i) FLOWGRAD_D64(i), FLOWGRAD_D64(i + 64)
// shape and types, list of registers, numbers of the three inputs, further immediates, operands
#define FLOWGRAD_WGMMA(what, registers, a_, b_, p_, more, operands)                            \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" p_ ", 0; wgmma.mma_async.sync.aligned." what \
               " {" registers "}, %" a_ ", %" b_ ", p, 1, 1" more "; }"                        \
               : operands                                                                      \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))
#define FLOWGRAD_WGMMA_SIZES(shape, types, more)                                                   \
  if constexpr (N == 64) {                                                                         \
    FLOWGRAD_WGMMA("m64n64" shape types, FLOWGRAD_R32_0, "32", "33", "34", more, FLOWGRAD_D32(0)); \
  } else if constexpr (N == 128) {                                                                 \
    FLOWGRAD_WGMMA("m64n128" shape types, FLOWGRAD_R32_0 ", " FLOWGRAD_R32_1, "64", "65", "66",    \
                   more, FLOWGRAD_D64(0));                                                         \
  } else {                                                                                         \
    FLOWGRAD_WGMMA("m64n256" shape types,                                                          \
                   FLOWGRAD_R32_0 ", " FLOWGRAD_R32_1 ", " FLOWGRAD_R32_2 ", " FLOWGRAD_R32_3,     \
                   "128", "129", "130", more, FLOWGRAD_D128(0));                                   \
  }
#endif

/// d = A B (+ d) for 64 x N x 16 elements in bfloat16, N 64, 128 or 256. A has 64 rows, B has N
/// rows, both along k. With r = thread % 128, d[4 j + 2 h + i] is row 16 (r / 32) + r % 32 / 4 + 8
/// h, column 8 j + 2 (r % 4) + i. d belongs to the hardware until wgmma_wait.
template <int N>
GPU_INLINE void wgmma_bf16(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool accumulate) {
  static_assert(N == 64 || N == 128 || N == 256, "wgmma_bf16: N must be 64, 128 or 256");
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::wgmma(d, N, a, b, accumulate, false);
#else
  FLOWGRAD_WGMMA_SIZES("k16", ".f32.bf16.bf16", ", 0, 0")
#endif
}

/// As wgmma_bf16 for 64 x N x 8 elements in tf32; the low 13 bits of the operands are dropped, so
/// round them with to_tf32 before.
template <int N>
GPU_INLINE void wgmma_tf32(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool accumulate) {
  static_assert(N == 64 || N == 128 || N == 256, "wgmma_tf32: N must be 64, 128 or 256");
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::wgmma(d, N, a, b, accumulate, true);
#else
  FLOWGRAD_WGMMA_SIZES("k8", ".f32.tf32.tf32", "")
#endif
}

}  // namespace flowgrad::gpu
