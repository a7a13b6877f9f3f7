#pragma once
// What an instruction set offers: tables of plain functions. The files below cpu/isa are compiled once
// per instruction set and export these tables and nothing else; everything around them (views, threads,
// memory) is compiled once and calls through the table that dispatch.h chose.

#include <cstdint>

namespace flowgrad::kernels::cpu {

/// Length of the blocks that every product sums k in: within a block one running sum, then the blocks'
/// sums in order. It is part of the result, so all paths and tile shapes share it.
constexpr std::int64_t kGemmDepth = 256;

/// A part of C = A B (+ bias) (+ C): all of k, some rows, some columns starting at a panel.
template <class T>
struct GemmBlock {
  std::int64_t m, n, k;
  const T* a;
  std::int64_t a_row, a_col;
  /// Either B itself with unit column stride, element (k, j) at b[k * b_row + j] ...
  const T* b;
  std::int64_t b_row;
  /// ... or B packed: the panel at column j of depth block k0 (length kc) starts at
  /// packed[k0 * packed_width + (packed_column + j) * kc]. Null when b is used.
  const T* packed;
  std::int64_t packed_width, packed_column;
  T* c;
  std::int64_t ldc;
  const T* bias;
  bool accumulate;
  /// Room for gemm.scratch_elements(k) elements.
  T* scratch;
};

template <class T>
struct GemmTable {
  int tile_rows, panel_columns, lanes;
  /// out[k * width + j] = b[k * b_row + j * b_col], zeros for n <= j < width.
  void (*pack)(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n,
               std::int64_t width, T* out);
  void (*block)(const GemmBlock<T>& block);
  std::int64_t (*scratch_elements)(std::int64_t k);
  /// The path for few columns (n <= lanes / 2): B transposed and padded, bt[j * k_padded + k].
  void (*narrow)(const GemmBlock<T>& block, const T* bt, std::int64_t k_padded);
};

struct GemmTables {
  GemmTable<float> f32;
  GemmTable<double> f64;
};

}  // namespace flowgrad::kernels::cpu
