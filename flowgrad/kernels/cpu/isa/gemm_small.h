#pragma once
// Small products, one or many of equal sizes: a tile of rows and up to two registers of columns for
// each, without the preparations that a large product earns back. k is summed as in gemm_tile.h:
// same bits.

#include "flowgrad/kernels/cpu/isa/gemm_pack.h"
#include "flowgrad/kernels/cpu/isa/gemm_tile.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// Rows of a tile of two registers.
constexpr int kSmallRows = kIsAvx512 ? 8 : 4;

template <class T>
struct SmallTile {
  std::int64_t k;
  const T* a;
  std::int64_t a_row, a_col;
  const T* b;
  std::int64_t b_row;
  T* c;
  std::int64_t ldc;
  const T* bias;
  bool add;
  int last;  // columns of the last register
};

template <class T, int NV, class Rows>
struct SmallProduct;
template <class T, int NV, int... R>
struct SmallProduct<T, NV, std::integer_sequence<int, R...>> {
  using V = vec<T>;
  static constexpr int MR = sizeof...(R), W = kLanes<T>;

  FG_INLINE static void take_row(const T* p, int last, V (&row)[NV]) {
    for (int j = 0; j < NV - 1; ++j) row[j] = V::load(p + j * W);
    p += (NV - 1) * W;
    row[NV - 1] = !kMaskedLoads && last == W ? V::load(p) : V::load(p, last);
  }
  FG_INLINE static void set_row(const V (&from)[NV], V (&sum)[NV]) {
    for (int j = 0; j < NV; ++j) sum[j] = from[j];
  }
  FG_INLINE static void multiply_row(V a, const V (&b)[NV], V (&sum)[NV]) {
    for (int j = 0; j < NV; ++j) sum[j] = fma(a, b[j], sum[j]);
  }
  FG_INLINE static void finish_row(V (&sum)[NV], T* c, bool add, int last) {
    if (add) {
      V old[NV];
      take_row(c, last, old);
      for (int j = 0; j < NV; ++j) sum[j] = sum[j] + old[j];
    }
    for (int j = 0; j < NV - 1; ++j) sum[j].store(c + j * W);
    sum[NV - 1].store(c + (NV - 1) * W, last);
  }

  static void run(const SmallTile<T>& t) {
    V sum[MR][NV], row[NV];
    for (V& x : row) x = V(0);
    if (t.bias != nullptr) take_row(t.bias, t.last, row);
    (set_row(row, sum[R]), ...);
    const T *a = t.a, *b = t.b;
    const std::int64_t a_row = t.a_row;
    for (std::int64_t k = 0; k < t.k; ++k, a += t.a_col, b += t.b_row) {
      take_row(b, kMaskedLoads ? t.last : W, row);
      (multiply_row(V(a[R * a_row]), row, sum[R]), ...);
    }
    (finish_row(sum[R], t.c + R * t.ldc, t.add, t.last), ...);
  }
};

template <class T, int NV, class Rows>
struct SmallTable;
template <class T, int NV, int... I>
struct SmallTable<T, NV, std::integer_sequence<int, I...>> {
  static constexpr void (*of[])(const SmallTile<T>&) = {
      &SmallProduct<T, NV, std::make_integer_sequence<int, I + 1>>::run...};
};

template <class T>
void small(const cpu::GemmBatch<T>& g) {
  using Rows = std::make_integer_sequence<int, kSmallRows>;
  constexpr std::int64_t W = kLanes<T>, most = cpu::kSmallSize;
  T packed[most * (most + W)];
  const RowTiles tiles(g.m, kSmallRows);
  const std::int64_t width = (g.n + W - 1) / W * W;
  const bool in_place = g.b_col == 1 && (kMaskedLoads || g.n == width);
  const bool by_registers = g.b_col == 1 || (g.b_row == 1 && g.n >= W / 2 && g.k >= W / 2);
  SmallTile<T> t{};
  t.k = g.k;
  t.a_row = g.a_row;
  t.a_col = g.a_col;
  t.b_row = in_place ? g.b_row : width;
  t.ldc = g.ldc;
  t.add = g.accumulate;
  for (std::int64_t item = 0; item < g.count; ++item) {
    const T *const a = g.a + item * g.a_item, *b = g.b + item * g.b_item;
    T* const c = g.c + item * g.c_item;
    if (!in_place) {
      if (item == 0 || g.b_item != 0)
        (by_registers ? pack<T> : pack_elements<T>)(b, g.b_row, g.b_col, g.k, g.n, width, packed);
      b = packed;
    }
    for (std::int64_t j = 0; j < g.n; j += 2 * W) {
      const std::int64_t left = g.n - j < 2 * W ? g.n - j : 2 * W;
      t.last = static_cast<int>(left > W ? left - W : left);
      t.b = b + j;
      t.bias = g.bias == nullptr ? nullptr : g.bias + j;
      t.a = a;
      t.c = c + j;
      for (std::int64_t tile = 0; tile < tiles.count; ++tile) {
        const std::int64_t rows = tiles.rows(tile);
        (left > W ? SmallTable<T, 2, Rows>::of : SmallTable<T, 1, Rows>::of)[rows - 1](t);
        t.a += rows * g.a_row;
        t.c += rows * g.ldc;
      }
    }
  }
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
