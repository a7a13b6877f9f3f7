#pragma once
// The register tile of the matrix product: MR rows of A times NP panels of NV registers of B, all
// of one depth block, accumulators in registers. Any strides on A: rows or k may be contiguous, or
// neither.

#include "flowgrad/kernels/cpu/isa/shuffle.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 14, kWideTwo = 4, kWideFour = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kWideTwo = 2, kWideFour = 1;
#else
constexpr int kTileRows = 4, kWideTwo = 2, kWideFour = 1;
#endif
/// Registers side by side in a panel.
constexpr int kPanel = 2;
template <class T>
constexpr int kPanelColumns = kPanel* kLanes<T>;

template <class T>
struct Tile {
  std::int64_t k;
  const T* a;
  std::int64_t a_row, a_col;
  const T* b;
  std::int64_t b_row, b_panel;
  T* c;
  std::int64_t ldc;
  /// Valid columns, more than those of the tile's registers but the last.
  std::int64_t n;
  const T* bias;
  /// Adds to C instead of overwriting it.
  bool add;
};

template <class T, int MR, int NV, int NP>
void multiply_tile(const Tile<T>& t) {
  using V = vec<T>;
  constexpr int W = kLanes<T>, Columns = NV * NP;
  V acc[MR][Columns];
  unroll<MR * Columns>([&](auto i) __attribute__((always_inline)) {
    acc[i / Columns][i % Columns] = V(0);
  });
  const T* a = t.a;
  const T* b = t.b;
  const std::int64_t a_row = t.a_row, a_col = t.a_col, b_row = t.b_row, b_panel = t.b_panel;
  for (std::int64_t k = t.k; k > 0; --k) {
    V bv[Columns];
    unroll<Columns>([&](auto j) __attribute__((always_inline)) {
      bv[j] = V::load(b + (j / NV) * b_panel + (j % NV) * W);
    });
    unroll<MR>([&](auto i) __attribute__((always_inline)) {
      const V av(a[i * a_row]);
      unroll<Columns>([&](auto j) __attribute__((always_inline)) {
        acc[i][j] = fma(av, bv[j], acc[i][j]);
      });
    });
    a += a_col;
    b += b_row;
  }
  const auto finish = [&](auto last_columns) __attribute__((always_inline)) {
    unroll<Columns>([&](auto j) __attribute__((always_inline)) {
      // Only the last register may be partly valid.
      constexpr bool partial = decltype(last_columns)::value && j == Columns - 1;
      const int valid = partial ? static_cast<int>(t.n - j * W) : W;
      V bias(0);
      if (t.bias != nullptr)
        bias = partial ? V::load(t.bias + j * W, valid) : V::load(t.bias + j * W);
      unroll<MR>([&](auto i) __attribute__((always_inline)) {
        T* c = t.c + i * t.ldc + j * W;
        V r = acc[i][j];
        if (t.bias != nullptr) r = r + bias;
        if (t.add) r = r + (partial ? V::load(c, valid) : V::load(c));
        if (partial)
          r.store(c, valid);
        else
          r.store(c);
      });
    });
  };
  if (t.n == Columns * W)
    finish(std::false_type{});
  else
    finish(std::true_type{});
}

template <class T>
using TileFunction = void (*)(const Tile<T>&);

template <class T, int NV, class Rows>
struct TileTable;
template <class T, int NV, int... I>
struct TileTable<T, NV, std::integer_sequence<int, I...>> {
  static constexpr TileFunction<T> of[] = {&multiply_tile<T, I + 1, NV, 1>...};
};

/// The tile of `rows` (1 to kTileRows) by one panel of `registers` (1 or 2).
template <class T>
FG_INLINE TileFunction<T> tile_for(std::int64_t rows, int registers) {
  using Rows = std::make_integer_sequence<int, kTileRows>;
  return registers == 1 ? TileTable<T, 1, Rows>::of[rows - 1] : TileTable<T, 2, Rows>::of[rows - 1];
}

/// Panels that few rows take at once, so that enough sums run side by side.
FG_INLINE int panels_for(std::int64_t rows) {
  return rows <= 2 ? kWideTwo : rows <= 4 ? kWideFour : 1;
}
template <class T>
FG_INLINE TileFunction<T> wide_tile_for(std::int64_t rows) {
  switch (rows) {
    case 1: return &multiply_tile<T, 1, kPanel, kWideTwo>;
    case 2: return &multiply_tile<T, 2, kPanel, kWideTwo>;
    case 3: return &multiply_tile<T, 3, kPanel, kWideFour>;
    default: return &multiply_tile<T, 4, kPanel, kWideFour>;
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
