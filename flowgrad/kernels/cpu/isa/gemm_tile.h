#pragma once
// The register tile of the matrix product: MR rows of A times NV registers of B's columns, all of
// one depth block, accumulators in registers. Any strides on A: rows or k may be contiguous, or
// neither.

#include "flowgrad/kernels/cpu/isa/shuffle.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// Whether a part of a register is one instruction to load, and costs no more than a whole one to
/// store.
#if defined(FG_AVX512)
constexpr bool kMaskedLoads = true, kMaskedStores = true;
constexpr int kTileRows = 14;
#elif defined(__AVX2__)
constexpr bool kMaskedLoads = true, kMaskedStores = false;
constexpr int kTileRows = 6;
#else
constexpr bool kMaskedLoads = false, kMaskedStores = false;
constexpr int kTileRows = 4;
#endif
/// 32 registers, and processors whose first two caches are larger and have more ways.
constexpr bool kIsAvx512 = kTileRows >= 14;
/// See GemmTable::depth. With AVX-512 a panel of B is longer than the first-level cache, which
/// costs less there than to write C twice as often.
constexpr std::int64_t kGemmDepth = kIsAvx512 ? 512 : 256;
/// Rows of a tile of one register: more sums side by side, and fewer turns for what a tile or a run
/// costs beside them.
constexpr int kTallRows = kIsAvx512 ? 24 : kTileRows;
/// Steps of k a turn of the sums' loop. What a turn costs beside its multiply-adds counts where a
/// core shares its front end with another thread.
constexpr int kSteps = 4;
/// Depth up to which the stores of a tile would wait for a C that was not fetched.
constexpr std::int64_t kShortSum = 16;
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
  /// From a row to the next, and from one panel of a wide tile to the next.
  std::int64_t b_row, b_panel = kPanelColumns<T>;
  T* c;
  std::int64_t ldc;
  /// Valid columns, more than those of the tile's registers but the last.
  std::int64_t n;
  const T *bias, *row_bias;
  /// Adds to C instead of overwriting it.
  bool add;
  /// See GemmBlock.
  bool relu;
  const T *gate, *ahead;
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
#if defined(__x86_64__) && !defined(FLOWGRAD_EMULATED_AVX512)
  asm("" : "+v"(x.v));
#endif
}
template <class T>
FG_INLINE void keep_address(const T*& p) {
  asm("" : "+r"(p));
}

/// x, 0 where the gate is at most 0: a relu where it is x itself.
template <class V>
FG_INLINE V gated(V gate, V x) {
  return select(gate <= V(0), V(0), x);
}

/// Rows R and registers C of the tile as packs, unrolled by folds: a lambda for every step of all
/// of these tiles would take most of the time to compile them.
template <class T, class Rows, class Registers>
struct MultiplyTile;
template <class T, int... R, int... C>
struct MultiplyTile<T, std::integer_sequence<int, R...>, std::integer_sequence<int, C...>> {
  using V = vec<T>;
  static constexpr int MR = sizeof...(R), NV = sizeof...(C), W = kLanes<T>;

  /// Registers but the last are whole; that one has `last` columns.
  FG_INLINE static V take_register(const T* p, int j, auto last) {
    return j < NV - 1 ? V::load(p + j * W) : take(p + j * W, last);
  }
  FG_INLINE static void multiply_row(const T* a, const V (&b)[NV], V (&sum)[NV]) {
    const V av(*a);
    ((sum[C] = fma(av, b[C], sum[C])), ...);
  }
  /// One fetch for every 64 bytes, not for every register: half of them may be on the same line.
  static constexpr bool starts_line(int j) { return j * W * int{sizeof(T)} % 64 == 0; }
  FG_INLINE static void fetch_row(T* c) {
    ((starts_line(C) ? __builtin_prefetch(c + C * W, 1) : void()), ...);
  }
  FG_INLINE static void fetch_row(const T* gate) {
    ((starts_line(C) ? __builtin_prefetch(gate + C * W) : void()), ...);
  }
  FG_INLINE static void set_row(const V (&from)[NV], V (&sum)[NV]) { ((sum[C] = from[C]), ...); }
  FG_INLINE static void fill_row(V value, V (&sum)[NV]) { ((sum[C] = value), ...); }
  FG_INLINE static void add_row(V (&sum)[NV], const T* c, auto last) {
    ((sum[C] = sum[C] + take_register(c, C, last)), ...);
  }
  FG_INLINE static void store_row(const V (&sum)[NV], T* c, auto last) {
    ((C < NV - 1 ? sum[C].store(c + C * W) : put(sum[C], c + C * W, last)), ...);
  }
  FG_INLINE static void relu_row(V (&sum)[NV]) { ((sum[C] = gated(sum[C], sum[C])), ...); }
  FG_INLINE static void gate_row(V (&sum)[NV], const T* gate, auto last) {
    ((sum[C] = gated(take_register(gate, C, last), sum[C])), ...);
  }
  FG_INLINE static void finish(const Tile<T>& t, V (&sum)[MR][NV], auto last) {
    T* const c = t.c;
    const T* const gate = t.gate;
    const std::int64_t ldc = t.ldc;
    if (t.add) (add_row(sum[R], c + R * ldc, last), ...);
    if (t.relu) (relu_row(sum[R]), ...);
    if (gate != nullptr) (gate_row(sum[R], gate + R * ldc, last), ...);
    (store_row(sum[R], c + R * ldc, last), ...);
  }

  static void run(const Tile<T>& t) {
    const int last = static_cast<int>(t.n) - (NV - 1) * W;
    V sum[MR][NV], first[NV] = {(void(C), V(0))...};
    if (t.bias != nullptr) ((first[C] = take_register(t.bias, C, last)), ...);
    (set_row(first, sum[R]), ...);
    if (t.row_bias != nullptr) (fill_row(V(t.row_bias[R]), sum[R]), ...);
    // While the sums run.
    if (t.add || t.k <= kShortSum) (fetch_row(t.c + R * t.ldc), ...);
    if (t.gate != nullptr) (fetch_row(t.gate + R * t.ldc), ...);
    if (t.ahead != nullptr) (fetch_row(t.ahead + R * t.ldc), ...);
    // Low tiles run alone and have nothing to wait for but B.
    constexpr bool kFetches = 3 * MR >= 2 * kTileRows;
    [[maybe_unused]] const T* next = t.next;
    [[maybe_unused]] const std::int64_t next_step = t.next_step;
    const std::int64_t a_row = t.a_row, a_col = t.a_col, b_row = t.b_row;
    [[maybe_unused]] const std::int64_t b_panel = t.b_panel;
    for (std::int64_t r = 0; r < t.runs; ++r) {
      // A pointer for every third row: with the offsets 0, 1 and 2 rows that an address can hold,
      // no row costs an instruction, where one pointer to all would have its offsets reloaded for
      // every k.
      constexpr int kPointers = (MR + 2) / 3;
      const T* a[kPointers];
      for (int p = 0; p < kPointers; ++p) a[p] = t.a + t.a_run[r] + 3 * p * a_row;
      (keep_address(a[R / 3]), ...);
      const T* b = t.b + t.b_run[r];
#pragma GCC unroll kSteps
      for (std::int64_t k = t.k; k > 0; --k) {
        V bv[NV] = {V::load(b + C / kPanel * b_panel + C % kPanel * W)...};
        if constexpr (MR > 1) (keep_in_register(bv[C]), ...);
        (multiply_row(a[R / 3] + R % 3 * a_row, bv, sum[R]), ...);
        if constexpr (kFetches) {
          __builtin_prefetch(next);
          next += next_step;
        }
        ((R % 3 == 0 ? void(a[R / 3] += a_col) : void()), ...);
        b += b_row;
      }
    }
    // Where a masked store costs no more than another, one end is enough.
    if (kMaskedStores || last < W)
      finish(t, sum, last);
    else
      finish(t, sum, std::integral_constant<int, W>{});
  }
};

template <class T>
using TileFunction = void (*)(const Tile<T>&);

template <class T, int MR, int NV>
constexpr TileFunction<T> kTile =
    &MultiplyTile<T, std::make_integer_sequence<int, MR>, std::make_integer_sequence<int, NV>>::run;

template <class T, int NV, class Rows>
struct TileTable;
template <class T, int NV, int... I>
struct TileTable<T, NV, std::integer_sequence<int, I...>> {
  static constexpr TileFunction<T> of[] = {kTile<T, I + 1, NV>...};
};

/// The tile of `rows` (1 to most_rows(registers)) by `registers` (1 or 2).
template <class T>
FG_INLINE TileFunction<T> tile_for(std::int64_t rows, int registers) {
  using Tall = std::make_integer_sequence<int, kTallRows>;
  using Rows = std::make_integer_sequence<int, kTileRows>;
  return registers == 1 ? TileTable<T, 1, Tall>::of[rows - 1] : TileTable<T, 2, Rows>::of[rows - 1];
}
constexpr int most_rows(int registers) { return registers == 1 ? kTallRows : kTileRows; }

/// Splits m rows into tiles of nearly equal height: 15 rows run as 8 + 7, not as 14 + 1.
struct RowTiles {
  std::int64_t count, height, taller;
  RowTiles(std::int64_t m, std::int64_t most)
      : count((m + most - 1) / most), height(m / count), taller(m % count) {}
  std::int64_t rows(std::int64_t tile) const { return height + (tile < taller ? 1 : 0); }
};

/// A product of this depth is bound by its C, written in longer runs by low and wide tiles; all
/// that split more rows than one tile has (3 to 6) take as many registers.
constexpr std::int64_t kShallowDepth = 64;
constexpr int kShallowRows = kIsAvx512 ? 6 : kTileRows;
/// Registers of the tile for so few rows that all of them are one tile, or for shallow products:
/// enough sums side by side, and long runs of B, where it lies or as several packed panels.
constexpr int wide_registers(std::int64_t rows) {
  if (!kIsAvx512) return rows == 1 ? 8 : rows == 2 ? 4 : kPanel;
  return rows <= 2 ? 8 : rows <= 6 ? 4 : rows <= 9 ? 3 : kPanel;
}
template <class T, class Rows>
struct WideTable;
template <class T, int... I>
struct WideTable<T, std::integer_sequence<int, I...>> {
  static constexpr TileFunction<T> of[] = {kTile<T, I + 1, wide_registers(I + 1)>...};
};
template <class T>
FG_INLINE TileFunction<T> wide_tile_for(std::int64_t rows) {
  return WideTable<T, std::make_integer_sequence<int, kTileRows>>::of[rows - 1];
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
