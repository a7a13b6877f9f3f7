#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/emulator/checker.h"

/// Matrix instructions of a warp. Lane l holds, of an 8 x 8 piece, what belongs to row l / 4 and
/// columns 2 (l % 4) and the next: PTX's fragment layout, in one place.
namespace flowgrad::gpu::emulator {

inline float bf16_value(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }
inline float low_bf16(std::uint32_t pair) { return bf16_value(pair & 0xffffu); }
inline float high_bf16(std::uint32_t pair) { return bf16_value(pair >> 16); }
/// What the hardware reads of a float that is taken as tf32: the low 13 bits do not count.
inline float tf32_value(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

struct LoadMatrixSlot {
  const void* row;
  std::uint32_t* registers;
};

template <int N, bool TRANSPOSED>
void combine_ldmatrix(void* const* slots, unsigned) {
  std::uint16_t matrix[N][8][8];
  for (int m = 0; m < N; ++m) {
    for (int r = 0; r < 8; ++r) {
      std::memcpy(matrix[m][r], static_cast<LoadMatrixSlot*>(slots[8 * m + r])->row, 16);
    }
  }
  for (int l = 0; l < 32; ++l) {
    for (int m = 0; m < N; ++m) {
      const int row = l / 4;
      const int column = l % 4 * 2;
      const std::uint32_t low = TRANSPOSED ? matrix[m][column][row] : matrix[m][row][column];
      const std::uint32_t high =
          TRANSPOSED ? matrix[m][column + 1][row] : matrix[m][row][column + 1];
      static_cast<LoadMatrixSlot*>(slots[l])->registers[m] = low | high << 16;
    }
  }
}

template <int N, bool TRANSPOSED>
void load_matrix(std::uint32_t* registers, const void* row, const Site& site) {
  if (lane() < 8 * N) {
    check_alignment(row, 16, "ldmatrix");
    shared_offset(row);  // must be in shared memory
    checker::note_read(row, 16);
  }
  LoadMatrixSlot slot{row, registers};
  warp_collective("ldmatrix", site, ~0u, &slot, combine_ldmatrix<N, TRANSPOSED>);
}

struct MmaSlot {
  const std::uint32_t* a;
  const std::uint32_t* b;
  float* c;
};

inline float toward_zero(double x) {
  const float nearest = static_cast<float>(x);
  return std::abs(static_cast<double>(nearest)) > std::abs(x) ? std::nextafter(nearest, 0.0f)
                                                              : nearest;
}

/// C += A B for 16 x 8 elements of C, K columns of A; element functions pick from the lanes'
/// registers. Sums are exact to double here and then cut off, as a device cuts off what does not
/// fit; it does so in an order of its own.
template <int K, class A, class B>
void combine_mma(void* const* slots, A element_a, B element_b) {
  float a[16][K];
  float b[K][8];
  for (int l = 0; l < 32; ++l) {
    const auto* slot = static_cast<const MmaSlot*>(slots[l]);
    element_a(l, slot->a, a);
    element_b(l, slot->b, b);
  }
  for (int l = 0; l < 32; ++l) {
    auto* slot = static_cast<MmaSlot*>(slots[l]);
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + i / 2 * 8;
      const int column = l % 4 * 2 + i % 2;
      double sum = static_cast<double>(slot->c[i]);
      for (int k = 0; k < K; ++k) {
        sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      }
      slot->c[i] = toward_zero(sum);
    }
  }
}

inline void combine_mma_bf16(void* const* slots, unsigned) {
  combine_mma<16>(
      slots,
      [](int l, const std::uint32_t* r, float(*a)[16]) {
        for (int i = 0; i < 4; ++i) {
          const int row = l / 4 + i % 2 * 8;
          const int column = l % 4 * 2 + i / 2 * 8;
          a[row][column] = low_bf16(r[i]);
          a[row][column + 1] = high_bf16(r[i]);
        }
      },
      [](int l, const std::uint32_t* r, float(*b)[8]) {
        for (int i = 0; i < 2; ++i) {
          b[l % 4 * 2 + i * 8][l / 4] = low_bf16(r[i]);
          b[l % 4 * 2 + i * 8 + 1][l / 4] = high_bf16(r[i]);
        }
      });
}

inline void combine_mma_tf32(void* const* slots, unsigned) {
  combine_mma<8>(
      slots,
      [](int l, const std::uint32_t* r, float(*a)[8]) {
        for (int i = 0; i < 4; ++i) a[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = tf32_value(r[i]);
      },
      [](int l, const std::uint32_t* r, float(*b)[8]) {
        for (int i = 0; i < 2; ++i) b[l % 4 + i * 4][l / 4] = tf32_value(r[i]);
      });
}

inline void mma(const char* what, const Site& site, float* c, const std::uint32_t* a,
                const std::uint32_t* b, Combine combine) {
  MmaSlot slot{a, b, c};
  warp_collective(what, site, ~0u, &slot, combine);
}

}  // namespace flowgrad::gpu::emulator
