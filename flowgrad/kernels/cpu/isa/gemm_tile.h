#pragma once
// The register tile of the matrix product: MR rows of A times NV registers of B's columns, all of
// one depth block, accumulators in registers. Any strides on A: rows or k may be contiguous, or
// neither.

#include "flowgrad/kernels/cpu/isa/shuffle.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 14;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif
/// Registers side by side in a panel.
constexpr int kPanel = 2;
template <class T>
constexpr int kPanelColumns = kPanel* kLanes<T>;

constexpr std::int64_t kNoOffset = 0;

template <class T>
struct Tile {
  std::int64_t k;
  const T* a;
  std::int64_t a_row, a_col;
  const T* b;
  std::int64_t b_row;
  T* c;
  std::int64_t ldc;
  /// Valid columns, more than those of the tile's registers but the last.
  std::int64_t n;
  const T* bias;
  /// Adds to C instead of overwriting it.
  bool add;
  /// What is needed next, fetched while the sums run: an address and its step for each k.
  const T* next;
  std::int64_t next_step;
  /// k falls into runs of that length: run r reads A from a + a_run[r] and B from b + b_run[r] on.
  std::int64_t runs = 1;
  const std::int64_t *a_run = &kNoOffset, *b_run = &kNoOffset;
};

/// Keeps the compiler from reading x from memory again for every use.
template <class V>
FG_INLINE void keep_in_register([[maybe_unused]] V& x) {
#if defined(__x86_64__)
  asm("" : "+v"(x.v));
#endif
}

template <class T, int MR, int NV>
void multiply_tile(const Tile<T>& t) {
  using V = vec<T>;
  constexpr int W = kLanes<T>;
  V acc[MR][NV];
  unroll<MR * NV>([&](auto i) __attribute__((always_inline)) { acc[i / NV][i % NV] = V(0); });
  // C is fetched while the sums run.
  unroll<MR * NV>([&](auto i) __attribute__((always_inline)) {
    __builtin_prefetch(t.c + (i / NV) * t.ldc + (i % NV) * W, 1);
  });
  // Low tiles run alone and have nothing to wait for but B.
  constexpr bool kFetches = 3 * MR >= 2 * kTileRows;
  [[maybe_unused]] const T* next = t.next;
  [[maybe_unused]] const std::int64_t next_step = t.next_step;
  const std::int64_t a_row = t.a_row, a_col = t.a_col, b_row = t.b_row;
  for (std::int64_t r = 0; r < t.runs; ++r) {
    // A pointer for every third row: with the offsets 0, 1 and 2 rows that an address can hold, no
    // row costs an instruction, where one pointer to all would have its offsets reloaded for every
    // k.
    constexpr int Pointers = (MR + 2) / 3;
    const T* a[Pointers];
    unroll<Pointers>([&](auto p) __attribute__((always_inline)) {
      a[p] = t.a + t.a_run[r] + 3 * p * a_row;
      asm("" : "+r"(a[p]));
    });
    const T* b = t.b + t.b_run[r];
    for (std::int64_t k = t.k; k > 0; --k) {
      V bv[NV];
      unroll<NV>([&](auto j) __attribute__((always_inline)) {
        bv[j] = V::load(b + j * W);
        if constexpr (MR > 1) keep_in_register(bv[j]);
      });
      unroll<MR>([&](auto i) __attribute__((always_inline)) {
        const V av(a[i / 3][i % 3 * a_row]);
        unroll<NV>([&](auto j)
                       __attribute__((always_inline)) { acc[i][j] = fma(av, bv[j], acc[i][j]); });
      });
      if constexpr (kFetches) {
        __builtin_prefetch(next);
        next += next_step;
      }
      unroll<Pointers>([&](auto p) __attribute__((always_inline)) { a[p] += a_col; });
      b += b_row;
    }
  }
  const auto finish = [&](auto last_columns) __attribute__((always_inline)) {
    unroll<NV>([&](auto j) __attribute__((always_inline)) {
      // Only the last register may be partly valid.
      constexpr bool partial = decltype(last_columns)::value && j == NV - 1;
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
  if (t.n == NV * W)
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
  static constexpr TileFunction<T> of[] = {&multiply_tile<T, I + 1, NV>...};
};

/// The tile of `rows` (1 to kTileRows) by `registers` (1 or 2).
template <class T>
FG_INLINE TileFunction<T> tile_for(std::int64_t rows, int registers) {
  using Rows = std::make_integer_sequence<int, kTileRows>;
  return registers == 1 ? TileTable<T, 1, Rows>::of[rows - 1] : TileTable<T, 2, Rows>::of[rows - 1];
}

/// Splits m rows into tiles of nearly equal height: 15 rows run as 8 + 7, not as 14 + 1.
struct RowTiles {
  std::int64_t count, height, taller;
  explicit RowTiles(std::int64_t m)
      : count((m + kTileRows - 1) / kTileRows), height(m / count), taller(m % count) {}
  std::int64_t rows(std::int64_t tile) const { return height + (tile < taller ? 1 : 0); }
};

/// Registers of the tile for so few rows that all of them are one tile: enough sums side by side,
/// and long runs of a B that is read once, where it lies.
constexpr int wide_registers(std::int64_t rows) {
  if (kTileRows < 14) return rows <= 2 ? 4 : kPanel;
  return rows <= 2 ? 8 : rows <= 6 ? 4 : rows <= 9 ? 3 : kPanel;
}
template <class T, class Rows>
struct WideTable;
template <class T, int... I>
struct WideTable<T, std::integer_sequence<int, I...>> {
  static constexpr TileFunction<T> of[] = {&multiply_tile<T, I + 1, wide_registers(I + 1)>...};
};
template <class T>
FG_INLINE TileFunction<T> wide_tile_for(std::int64_t rows) {
  return WideTable<T, std::make_integer_sequence<int, kTileRows>>::of[rows - 1];
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
