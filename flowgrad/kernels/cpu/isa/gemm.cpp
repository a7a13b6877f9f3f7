// Matrix products for one instruction set: packing, the blocked product over register tiles, and
// the path for few columns. See gemm_tile.h for the tile and cpu/gemm.cpp for threads and memory.

#include "flowgrad/kernels/cpu/isa/gemm_few_rows.h"
#include "flowgrad/kernels/cpu/isa/gemm_pack.h"
#include "flowgrad/kernels/cpu/isa/gemm_small.h"
#include "flowgrad/kernels/cpu/isa/gemm_tile.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::GemmBlock;
using cpu::RunsBlock;

/// Tiles of rows that go over the panels of B together, so that their parts of A and of C stay in
/// the second-level cache; with AVX-512 as many of these as fit into half of its 2 MiB.
constexpr std::int64_t kLeastRowTiles = kIsAvx512 ? 8 : 16;
constexpr std::int64_t kMostRowTiles = kIsAvx512 ? 24 : 16;
template <class T>
std::int64_t group_rows(std::int64_t n) {
  const std::int64_t fit = (1 << 20) / std::int64_t{sizeof(T)} / (n + kGemmDepth) / kTileRows;
  const std::int64_t least = fit < kLeastRowTiles ? kLeastRowTiles : fit;
  return (least < kMostRowTiles ? least : kMostRowTiles) * kTileRows;
}

/// Each packed part of B costs another packing of A, a whole B of 2048 x 2048 none.
constexpr std::int64_t kPackedAtOnce = kIsAvx512 ? 1 << 22 : 1 << 21;

/// When A is packed: where more rows of a tile than these fall on the same lines of the first-level
/// cache, or columns are so many bytes apart. The caches beside AVX-512 have twelve ways, and
/// reading in place was measured to be no slower there but for rows or columns on pages of their
/// own.
constexpr std::int64_t kCollidingRows = kIsAvx512 ? 7 : 4;
constexpr std::int64_t kFarColumns = kIsAvx512 ? 4096 : 1024;

template <class T>
constexpr std::int64_t kPackedA = kGemmDepth* kMostRowTiles* kTileRows + kLanes<T>;

template <class T>
constexpr std::int64_t kScratch = kPackedA<T> + kGemmDepth* kPanelColumns<T> + kLanes<T>;

/// Rows or columns of a tile, `stride` bytes apart, that fall on the same lines of a first-level
/// cache with 4096 bytes a way.
constexpr std::int64_t colliding(std::int64_t count, std::int64_t stride) {
  const std::int64_t largest_power = stride & -stride;
  const std::int64_t apart = stride % 4096 == 0 ? 4096 : largest_power;
  return apart < 1024 ? 1 : (count * apart + 4095) / 4096;
}

/// A is read in place while its rows or its columns are contiguous, unless too many of a tile
/// collide in the first-level cache and are read often.
template <class T>
bool should_pack_a(const GemmBlock<T>& g) {
  const bool is_read_often = g.n >= 4 * kPanelColumns<T>;
  if (g.a_row == 1) return is_read_often && g.a_col * std::int64_t{sizeof(T)} >= kFarColumns;
  if (g.a_col != 1) return g.n > kPanelColumns<T>;
  return is_read_often && g.k >= 64 &&
         colliding(kTileRows, g.a_row * std::int64_t{sizeof(T)}) > kCollidingRows;
}

/// Depth to which all tiles of a group are packed before any of them further, where A's rows are
/// side by side: a tile reads less than a line for each k, and the next one reads on.
constexpr std::int64_t kLinesDepth = 16;

/// Packs tiles [first, last) of A, of which `row` is the first row, one after the other.
template <class T>
void pack_tiles(const GemmBlock<T>& g, const RowTiles& tiles, std::int64_t first, std::int64_t last,
                std::int64_t row, std::int64_t k0, std::int64_t kc, T* out) {
  constexpr std::int64_t W = kLanes<T>;
  const std::int64_t depth = g.a_row == 1 && g.a_col != 1 ? kLinesDepth : kc;
  for (std::int64_t k = 0; k < kc; k += depth) {
    const std::int64_t part = kc - k < depth ? kc - k : depth;
    const T* a = g.a + row * g.a_row + (k0 + k) * g.a_col;
    T* to = out;
    std::int64_t at = row;
    for (std::int64_t tile = first; tile < last; ++tile) {
      const std::int64_t rows = tiles.rows(tile);
      // Whole squares are transposed faster: what is read beyond the tile is written over.
      const std::int64_t squares = (rows + W - 1) / W * W;
      const std::int64_t readable = g.a_col == 1 && at + squares <= g.m ? squares : rows;
      pack(a, g.a_col, g.a_row, part, readable, rows, to + k * rows);
      at += rows;
      a += rows * g.a_row;
      to += rows * kc;
    }
  }
}

/// Whether tiles read B where it lies: not where several do and its rows push each other out of the
/// first-level cache.
template <class T>
bool reads_b_in_place(const GemmBlock<T>& g, std::int64_t kc) {
  return g.b_col == 1 &&
         (g.m <= 3 * kTileRows || colliding(kc, g.b_row * std::int64_t{sizeof(T)}) <= 16);
}

/// Points the tile at a panel of B of `columns` from column j on: as it was packed before, in
/// place, or packed now into `panel_buffer`.
template <class T>
void take_panel(const GemmBlock<T>& g, std::int64_t k0, std::int64_t kc, std::int64_t j,
                std::int64_t columns, T* panel_buffer, Tile<T>& t) {
  constexpr std::int64_t W = kLanes<T>, panel = kPanelColumns<T>;
  const std::int64_t width = columns < panel ? (columns + W - 1) / W * W : panel;
  t.n = columns;
  t.bias = g.bias != nullptr && k0 == 0 ? g.bias + j : nullptr;
  t.b_row = width;
  if (g.packed != nullptr) {
    t.b = g.packed + k0 * g.packed_width + (g.packed_column + j) * kc;
    t.b_panel = panel * kc;
    return;
  }
  const T* b = g.b + k0 * g.b_row + j * g.b_col;
  // A tile reads whole registers, so columns that end within one are copied.
  if (columns % W == 0 && reads_b_in_place(g, kc)) {
    t.b = b;
    t.b_row = g.b_row;
    return;
  }
  pack(b, g.b_row, g.b_col, kc, columns, width, panel_buffer);
  t.b = panel_buffer;
}

/// Packs the panels of columns [j, j + columns), see GemmBlock::pack_to.
template <class T>
void pack_panels(const GemmBlock<T>& g, std::int64_t k0, std::int64_t kc, std::int64_t j,
                 std::int64_t columns) {
  constexpr std::int64_t W = kLanes<T>, panel = kPanelColumns<T>;
  for (const std::int64_t end = j + columns; j < end; j += panel) {
    const std::int64_t n = end - j < panel ? end - j : panel;
    pack(g.b + k0 * g.b_row + j * g.b_col, g.b_row, g.b_col, kc, n, (n + W - 1) / W * W,
         g.pack_to + k0 * g.packed_width + (g.packed_column + j) * kc);
  }
}

template <class T>
void block(const GemmBlock<T>& g) {
  if (takes_few_rows(g)) return few_rows<T>(g);
  constexpr std::int64_t W = kLanes<T>, panel = kPanelColumns<T>;
  const bool pack_a = should_pack_a(g);
  const bool stream_a = !pack_a && g.a_col == 1 && g.a_row == g.k && g.k <= kGemmDepth;
  T* const packed_a = g.scratch;
  T* const panel_buffer = g.scratch + kPackedA<T>;
  const bool is_packed = g.packed != nullptr;
  const bool has_runs = is_packed || reads_b_in_place(g, g.k);
  const bool is_shallow = kShallowRows < kTileRows && g.k <= kShallowDepth && has_runs;
  // Rows of A that lie apart would push each other out of the first-level cache.
  const bool is_tall = g.n <= W && (is_shallow || g.a_row == 1);
  const std::int64_t tile_rows = is_tall ? kTallRows : is_shallow ? kShallowRows : kTileRows;
  const RowTiles tiles(g.m, tile_rows);
  const int registers_wide = wide_registers(tiles.height);
  const bool takes_wide =
      has_runs && (is_shallow || tiles.count == 1) && (!is_packed || registers_wide % kPanel == 0);
  const std::int64_t wide = takes_wide ? registers_wide * W : 0;
  std::int64_t row = 0, first = 0, groups = 1;
  // No group is smaller; the divisions that this saves count in small products.
  if (g.m > kLeastRowTiles * kTileRows) {
    const std::int64_t most = group_rows<T>(g.n) / tile_rows;
    groups = (tiles.count + most - 1) / most;
  }
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t last = groups == 1 ? tiles.count : tiles.count * (group + 1) / groups;
    // All depth blocks of these rows, so that their part of C stays in the second-level cache.
    for (std::int64_t k0 = 0; k0 < g.k; k0 += kGemmDepth) {
      const std::int64_t kc = g.k - k0 < kGemmDepth ? g.k - k0 : kGemmDepth;
      Tile<T> t{};
      t.k = kc;
      t.ldc = g.ldc;
      t.add = g.accumulate || k0 > 0;
      const bool is_last = k0 + kc == g.k;
      t.relu = is_last && g.relu;
      if (pack_a) pack_tiles(g, tiles, first, last, row, k0, kc, packed_a);
      std::int64_t columns = 0;
      for (std::int64_t j = 0; j < g.n; j += columns) {
        const std::int64_t left = g.n - j;
        const bool is_wide = wide > panel && left >= wide;
        columns = is_wide ? wide : left < panel ? left : panel;
        take_panel(g, k0, kc, j, columns, panel_buffer, t);
        const int registers = columns > W ? 2 : 1;
        std::int64_t i = row;
        const T* a = packed_a;
        t.next = t.b;
        t.next_step = 0;
        const bool packs = g.pack_to != nullptr && group == 0;
        if (packs) pack_panels(g, k0, kc, j, columns);
        // Lines of a row of B that are still to be fetched by a tile each, before it is packed.
        std::int64_t lines = 0;
        if ((packs || t.b == panel_buffer) && g.b_col == 1 && left > panel) {
          t.next = g.b + k0 * g.b_row + j + columns;
          t.next_step = g.b_row;
          lines = (panel * std::int64_t{sizeof(T)} + 63) / 64;
        } else if (is_packed && left > panel) {
          t.next = t.b + panel * kc;
          t.next_step = (panel + last - first - 1) / (last - first);
        }
        for (std::int64_t tile = first; tile < last; ++tile) {
          const std::int64_t rows = tiles.rows(tile);
          if (stream_a && j == 0 && i + 2 * rows <= g.m) {
            t.next = g.a + (i + rows) * g.a_row + k0 * g.a_col;
            t.next_step = kTileRows;
          }
          if (pack_a) {
            t.a = a;
            t.a_row = 1;
            t.a_col = rows;
            a += rows * kc;
          } else {
            t.a = g.a + i * g.a_row + k0 * g.a_col;
            t.a_row = g.a_row;
            t.a_col = g.a_col;
          }
          t.row_bias = g.row_bias != nullptr && k0 == 0 ? g.row_bias + i : nullptr;
          t.c = g.c + i * g.ldc + j;
          t.gate = is_last && g.gate != nullptr ? g.gate + i * g.ldc + j : nullptr;
          t.ahead = is_last && g.ahead != nullptr ? g.ahead + i * g.ldc + j : nullptr;
          (is_wide ? wide_tile_for<T>(rows) : tile_for<T>(rows, registers))(t);
          i += rows;
          t.next += t.next_step * kc;
          if (lines > 0) {
            t.next += 64 / std::int64_t{sizeof(T)} - t.next_step * kc;
            if (--lines == 0) t.next_step = 0, t.next = t.b;
          }
        }
      }
    }
    for (; first < last; ++first) row += tiles.rows(first);
  }
}

template <class T>
void runs(const RunsBlock<T>& g) {
  Tile<T> t{};
  t.k = g.depth;
  t.a_row = g.a_row;
  t.a_col = g.a_col;
  t.b = g.b;
  t.b_row = g.b_row;
  t.ldc = g.ldc;
  t.n = g.n;
  t.add = g.add;
  t.runs = g.runs;
  t.a_run = g.a_run;
  t.b_run = g.b_run;
  t.next = g.b;
  const int registers = g.n > kLanes<T> ? 2 : 1;
  const RowTiles tiles(g.m, most_rows(registers));
  std::int64_t row = 0;
  for (std::int64_t tile = 0; tile < tiles.count; ++tile) {
    const std::int64_t rows = tiles.rows(tile);
    t.a = g.a + row * g.a_row;
    t.c = g.c + row * g.ldc;
    tile_for<T>(rows, registers)(t);
    row += rows;
  }
}

/// Depth of the running sums of the narrow path, per lane.
constexpr std::int64_t kNarrowDepth = 2048;

/// Rows x N sums over k with one lane per residue of k, for A with unit column stride.
template <class T, int N>
void narrow_rows(const GemmBlock<T>& g, const T* bt, std::int64_t k_padded) {
  using V = vec<T>;
  constexpr int W = kLanes<T>, R = W / N;
  // As the sums lie in a register, row by row.
  T biases[W] = {};
  for (int s = 0; s < R * N && g.bias != nullptr; ++s) biases[s] = g.bias[s % N];
  for (std::int64_t i = 0; i < g.m; i += R) {
    const std::int64_t rows = g.m - i < R ? g.m - i : R;
    V total[W];
    unroll<W>([&](auto s) __attribute__((always_inline)) { total[s] = V(0); });
    for (std::int64_t k0 = 0; k0 < g.k; k0 += kNarrowDepth) {
      const std::int64_t end = g.k - k0 < kNarrowDepth ? g.k : k0 + kNarrowDepth;
      V acc[R * N];
      unroll<R * N>([&](auto s) __attribute__((always_inline)) { acc[s] = V(0); });
      // Rows past the last are read from the last: their sums are dropped.
      const T* a[R];
      unroll<R>([&](auto r) __attribute__((always_inline)) {
        a[r] = g.a + (i + (r < rows ? r : rows - 1)) * g.a_row;
      });
      std::int64_t k = k0;
      for (; k + W <= end; k += W) {
        V bv[N];
        unroll<N>([&](auto j)
                      __attribute__((always_inline)) { bv[j] = V::load(bt + j * k_padded + k); });
        unroll<R>([&](auto r) __attribute__((always_inline)) {
          const V av = V::load(a[r] + k);
          unroll<N>([&](auto j) __attribute__((always_inline)) {
            acc[r * N + j] = fma(av, bv[j], acc[r * N + j]);
          });
        });
      }
      if (k < end) {
        // Lanes past the end multiply zeros by zeros.
        unroll<R>([&](auto r) __attribute__((always_inline)) {
          const V av = V::load(a[r] + k, static_cast<int>(end - k));
          unroll<N>([&](auto j) __attribute__((always_inline)) {
            acc[r * N + j] = fma(av, V::load(bt + j * k_padded + k), acc[r * N + j]);
          });
        });
      }
      unroll<R * N>([&](auto s) __attribute__((always_inline)) { total[s] = total[s] + acc[s]; });
    }
    V value = horizontal_sums(total);
    if (g.bias != nullptr) value = value + V::load(biases);
    T* const c = g.c + i * g.ldc;
    if (g.ldc == N) {
      const int count = static_cast<int>(rows * N);
      if (g.accumulate) value = value + V::load(c, count);
      value.store(c, count);
      continue;
    }
    T values[W];
    value.store(values);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (int j = 0; j < N; ++j) {
        T& to = c[r * g.ldc + j];
        to = g.accumulate ? values[r * N + j] + to : values[r * N + j];
      }
    }
  }
}

/// The same sums, term for term, for A with unit row stride: a register holds W rows, and each lane
/// of narrow_rows has registers of its own. `rows` is U * W, or less where U is 1. A is walked in
/// squares that stay in the first-level cache, since its columns are far apart.
template <class T, int N, int U, int... S>
void narrow_column_block(const GemmBlock<T>& g, const T* bt, std::int64_t k_padded, std::int64_t i,
                         int rows, std::integer_sequence<int, S...>) {
  using V = vec<T>;
  constexpr int W = kLanes<T>, Sums = sizeof...(S);
  V total[W][Sums], acc[W][Sums];
  for (auto& lane : total)
    for (V& sum : lane) sum = V(0);
  for (std::int64_t k0 = 0; k0 < g.k; k0 += kNarrowDepth) {
    const std::int64_t end = g.k - k0 < kNarrowDepth ? g.k : k0 + kNarrowDepth;
    for (auto& lane : acc)
      for (V& sum : lane) sum = V(0);
    for (std::int64_t square = k0; square < end; square += 4 * W) {
      const std::int64_t square_end = end - square < 4 * W ? end : square + 4 * W;
      for (int lane = 0; lane < W; ++lane) {
        V sum[Sums] = {acc[lane][S]...};
        for (std::int64_t k = square + lane; k < square_end; k += W) {
          const T* a = g.a + i + k * g.a_col;
          const bool whole = U > 1 || rows == W;
          ((sum[S] = fma(whole ? V::load(a + S % U * W) : V::load(a, rows),
                         V(bt[S / U * k_padded + k]), sum[S])),
           ...);
        }
        ((acc[lane][S] = sum[S]), ...);
      }
    }
    for (int lane = 0; lane < W; ++lane)
      for (int s = 0; s < Sums; ++s) total[lane][s] = total[lane][s] + acc[lane][s];
  }
  for (int half = W / 2; half >= 1; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      for (int s = 0; s < Sums; ++s) total[lane][s] = total[lane][s] + total[lane + half][s];
  for (int j = 0; j < N; ++j) {
    T sums[U * W];
    for (int u = 0; u < U; ++u) total[0][j * U + u].store(sums + u * W);
    for (int r = 0; r < rows; ++r) {
      T* c = g.c + (i + r) * g.ldc + j;
      T value = sums[r];
      if (g.bias != nullptr) value += g.bias[j];
      *c = g.accumulate ? value + *c : value;
    }
  }
}
template <class T, int N>
void narrow_columns(const GemmBlock<T>& g, const T* bt, std::int64_t k_padded) {
  constexpr int W = kLanes<T>, U = N <= 2 ? 4 : N <= 4 ? 2 : 1;
  std::int64_t i = 0;
  if constexpr (U > 1)
    for (; i + U * W <= g.m; i += U * W)
      narrow_column_block<T, N, U>(g, bt, k_padded, i, U * W,
                                   std::make_integer_sequence<int, N * U>{});
  for (; i < g.m; i += W)
    narrow_column_block<T, N, 1>(g, bt, k_padded, i, g.m - i < W ? static_cast<int>(g.m - i) : W,
                                 std::make_integer_sequence<int, N>{});
}

template <class T, int N = 1>
void narrow(const GemmBlock<T>& g, const T* bt, std::int64_t k_padded) {
  if constexpr (N <= kLanes<T> / 2) {
    if (g.n == N) {
      if (g.a_col == 1)
        narrow_rows<T, N>(g, bt, k_padded);
      else
        narrow_columns<T, N>(g, bt, k_padded);
      return;
    }
    narrow<T, N + 1>(g, bt, k_padded);
  }
}

template <class T>
constexpr cpu::GemmTable<T> table_of() {
  return {kTileRows, kPanelColumns<T>, kLanes<T>,   kGemmDepth,    &group_rows<T>, kPackedAtOnce,
          &pack<T>,  &block<T>,        kScratch<T>, &narrow<T, 1>, &runs<T>,       &small<T>};
}

}  // namespace

extern const cpu::GemmTables gemm_tables;
const cpu::GemmTables gemm_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
