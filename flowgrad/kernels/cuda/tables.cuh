#pragma once

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels::cuda {

/// Several arrays in one launch: a table, passed by value, of their addresses and of the block at
/// which each begins. Kernel arguments may take 4 KiB.
template <class T, int n_arrays>
struct Table {
  static constexpr int kMax = n_arrays == 1 ? 128 : 64;
  T* data[n_arrays][kMax];
  int64_t size[kMax];
  unsigned end[kMax];  // one past the item's last block
  int items = 0;
};

/// The block's place in the table: which item, and which block of that item.
struct Place {
  int item;
  unsigned block;
};
template <class T, int n>
GPU_INLINE Place place_of(const Table<T, n>& table, unsigned block) {
  int low = 0;
  int high = table.items - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (block < table.end[middle])
      high = middle;
    else
      low = middle + 1;
  }
  return {low, block - (low == 0 ? 0 : table.end[low - 1])};
}

/// Fills tables with the items of element type T that arrays(item) names, in order; run(table,
/// blocks) takes each. elements_per_block is how blocks are counted.
template <class T, int n, class Items, class ViewOf, class Arrays, class Run>
void for_tables(const Items& items, int64_t elements_per_block, ViewOf&& view_of, Arrays&& arrays,
                Run&& run) {
  Table<T, n> table;
  unsigned blocks = 0;
  const auto flush = [&] {
    if (table.items > 0) run(table, blocks);
    table.items = 0;
    blocks = 0;
  };
  for (const auto& item : items) {
    const View& view = view_of(item);
    if (view.dtype != dtype_of<T>()) continue;
    const int64_t size = view.numel();
    if (size == 0) continue;
    const int64_t own = (size + elements_per_block - 1) / elements_per_block;
    if (table.items == Table<T, n>::kMax || blocks + own > 0x7fffffff) flush();
    blocks += static_cast<unsigned>(own);
    arrays(item, [&](int array, T* data) { table.data[array][table.items] = data; });
    table.size[table.items] = size;
    table.end[table.items] = blocks;
    ++table.items;
  }
  flush();
}

}  // namespace flowgrad::kernels::cuda
