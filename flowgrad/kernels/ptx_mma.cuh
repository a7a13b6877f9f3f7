#pragma once

#include <cstdint>

#include "flowgrad/kernels/ptx_async.cuh"

#if defined(FLOWGRAD_GPU_EMULATED)
#include "flowgrad/kernels/emulator/matrix.h"
#endif

/// Tensor cores by the warp (sm_80): ldmatrix, mma.sync, and the conversions they need. All 32
/// lanes call together. With g = lane / 4 and t = lane % 4, the fragments are
///
///     bf16, 16 x 8 x 16:  a[0..3]: A rows g, g + 8, g, g + 8; columns 2t, 2t, 2t + 8, 2t + 8, and
///     the next
///                         b[0..1]: B rows 2t, 2t + 8, and the next; column g
///     tf32, 16 x 8 x 8:   a[0..3]: A rows g, g + 8, g, g + 8; columns t, t, t + 4, t + 4
///                         b[0..1]: B rows t, t + 4; column g
///     both:               c[0..3]: C rows g, g, g + 8, g + 8; columns 2t, 2t + 1, 2t, 2t + 1
namespace flowgrad::gpu {

/// Loads N (1, 2 or 4) matrices of 8 x 8 two-byte elements from shared memory. Lane 8 m + r passes
/// the address of row r of matrix m, 16-byte aligned; the others' addresses do not count. Lane l
/// gets, in registers[m], columns 2 (l % 4) and the next of row l / 4; of the transposed matrix
/// with TRANSPOSED.
template <int N, bool TRANSPOSED = false>
GPU_INLINE void ldmatrix(std::uint32_t (&registers)[N], const void* row FLOWGRAD_SITE) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::load_matrix<N, TRANSPOSED>(registers, row, site);
#else
  const unsigned from = shared_address(row);
  std::uint32_t* r = registers;
  if constexpr (N == 1 && !TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(from)
                 : "memory");
  } else if constexpr (N == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(from)
                 : "memory");
  } else if constexpr (N == 2 && !TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(from)
                 : "memory");
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(from)
                 : "memory");
  } else if constexpr (!TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  }
#endif
}

/// c += a b for 16 x 8 x 16 elements in bfloat16, sums in float.
GPU_INLINE void mma_m16n8k16_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                                  const std::uint32_t (&b)[2] FLOWGRAD_SITE) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::mma("mma_m16n8k16_bf16", site, c, a, b, emulator::combine_mma_bf16);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// c += a b for 16 x 8 x 8 elements in tf32, sums in float. Operands must come from to_tf32: of
/// others the low 13 bits are dropped, which rounds towards zero.
GPU_INLINE void mma_m16n8k8_tf32(float (&c)[4], const std::uint32_t (&a)[4],
                                 const std::uint32_t (&b)[2] FLOWGRAD_SITE) {
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::mma("mma_m16n8k8_tf32", site, c, a, b, emulator::combine_mma_tf32);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// The nearest tf32 (10 bits of fraction; ties away from zero), in the bits of a float.
GPU_INLINE std::uint32_t to_tf32(float x) {
#if defined(FLOWGRAD_GPU_EMULATED)
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
#else
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

/// Two floats rounded to bfloat16, ties to even; low in the lower half.
GPU_INLINE std::uint32_t pack_bf16(float low, float high) {
#if defined(FLOWGRAD_GPU_EMULATED)
  const auto round = [](float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if (x != x) return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return round(low) | round(high) << 16;
#else
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

}  // namespace flowgrad::gpu
