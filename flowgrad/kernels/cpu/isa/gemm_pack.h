#pragma once
// Packing for products, see GemmTable::pack.

#include "flowgrad/kernels/cpu/isa/shuffle.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// Up to W columns with unit k stride, transposed: out[k * width + j] = b[j * b_col + k].
template <class T, class Store>
FG_INLINE void transpose_columns(const T* b, std::int64_t b_col, std::int64_t k, int n,
                                 Store store) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  for (std::int64_t k0 = 0; k0 < k; k0 += W) {
    const int depth = k - k0 < W ? static_cast<int>(k - k0) : W;
    V x[W];
    if (depth == W && n == W) {
      load_transposed(b + k0, b_col, x);
    } else {
      unroll<W>([&](auto j) __attribute__((always_inline)) {
        x[j] = j < n ? V::load(b + j * b_col + k0, depth) : V(0);
      });
      transpose(x);
    }
    if (depth == W) {
      unroll<W>([&](auto i) __attribute__((always_inline)) { store(x[i], k0 + i); });
    } else {
      unroll<W>([&](auto i) __attribute__((always_inline)) {
        if (i < depth) store(x[i], k0 + i);
      });
    }
  }
}

/// Hardware does not foresee rows that are far apart, so they are fetched so many rows ahead.
constexpr std::int64_t kRowsAhead = 16;

/// As `pack`, one element after the other.
template <class T>
void pack_elements(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k,
                   std::int64_t n, std::int64_t width, T* out) {
  for (std::int64_t i = 0; i < k; ++i, b += b_row, out += width) {
    for (std::int64_t j = 0; j < n; ++j) out[j] = b[j * b_col];
    for (std::int64_t j = n; j < width; ++j) out[j] = T(0);
  }
}

/// Where width < lanes and b_row is 1, out is written up to one register past its k * width
/// elements: the next row mends what a full store spills into it.
template <class T>
void pack(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n,
          std::int64_t width, T* out) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  if (b_row == 1) {
    for (std::int64_t j = 0; j < width; j += W) {
      const int columns = n - j < W ? static_cast<int>(n - j) : W;
      T* const to = out + j;
      if (width - j >= W || width < W) {
        transpose_columns(
            b + j * b_col, b_col, k,
            columns, [=](V x, std::int64_t i) __attribute__((always_inline)) {
              x.store(to + i * width);
            });
      } else {
        const int room = static_cast<int>(width - j);
        transpose_columns(
            b + j * b_col, b_col, k,
            columns, [=](V x, std::int64_t i) __attribute__((always_inline)) {
              x.store(to + i * width, room);
            });
      }
    }
    return;
  }
  if (b_col == 1 && n == width && n < W) {
    for (std::int64_t i = 1; i < k; ++i, b += b_row, out += width) {
      __builtin_prefetch(b + kRowsAhead * b_row);
      V::load(b, static_cast<int>(n)).store(out);
    }
    V::load(b, static_cast<int>(n)).store(out, static_cast<int>(n));
    return;
  }
  if (b_col == 1) {
    for (std::int64_t i = 0; i < k; ++i, b += b_row, out += width) {
      __builtin_prefetch(b + kRowsAhead * b_row);
      std::int64_t j = 0;
      for (; j + W <= n; j += W) V::load(b + j).store(out + j);
      for (; j < n; ++j) out[j] = b[j];
      for (; j < width; ++j) out[j] = T(0);
    }
    return;
  }
  pack_elements(b, b_row, b_col, k, n, width, out);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
