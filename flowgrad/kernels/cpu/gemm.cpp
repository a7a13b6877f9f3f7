#include "flowgrad/kernels/cpu/gemm.h"

#include <algorithm>

#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"

namespace flowgrad::kernels::cpu {
namespace {

/// Depth up to which a B with unit column stride is read where it lies, for C is the bottleneck.
constexpr std::int64_t kShallow = 8;
/// Elements of A that a thread may read once for each of its parts of B.
constexpr std::int64_t kNearElements = 1 << 19;
/// Tiles of rows up to which threads share out the columns, so that each reads only its part of B.
constexpr std::int64_t kTilesOfFewRows = 4;

std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

/// A shallow product is as much work as its C is to write.
template <class T>
bool worth_threads(const Gemm<T>& g) {
  return g.m * g.n * std::max(g.k, kShallow) >= kParallelWork && !in_parallel_region() &&
         num_threads() > 1;
}

template <class T>
GemmBlock<T> block_of(const Gemm<T>& g) {
  GemmBlock<T> b{};
  b.m = g.m;
  b.n = g.n;
  b.k = g.k;
  b.a = g.a;
  b.a_row = g.a_row;
  b.a_col = g.a_col;
  b.b = g.b;
  b.b_row = g.b_row;
  b.b_col = g.b_col;
  b.c = g.c;
  b.ldc = g.ldc;
  b.bias = g.bias;
  b.accumulate = g.accumulate;
  b.gate = g.gate;
  b.ahead = g.ahead;
  return b;
}

template <class T>
void take_rows(GemmBlock<T>& part, std::int64_t begin, std::int64_t end) {
  part.m = end - begin;
  part.a += begin * part.a_row;
  part.c += begin * part.ldc;
  if (part.gate != nullptr) part.gate += begin * part.ldc;
  if (part.ahead != nullptr) part.ahead += begin * part.ldc;
}

template <class T>
Gemm<T> columns_of(Gemm<T> g, std::int64_t begin, std::int64_t end) {
  g.n = end - begin;
  g.b += begin * g.b_col;
  g.c += begin;
  if (g.bias != nullptr) g.bias += begin;
  if (g.gate != nullptr) g.gate += begin;
  if (g.ahead != nullptr) g.ahead += begin;
  return g;
}

/// Gemm::f or Gemm::gate of elements of C that are complete.
template <class T>
void finish(UnaryKernel<T> f, const T* gate, std::int64_t m, std::int64_t n, T* c,
            std::int64_t ldc) {
  if (f == nullptr && gate == nullptr) return;
  const auto relu_grad = elementwise_table<T>().unary_grad[number::unary_relu];
  const std::int64_t runs = ldc == n ? 1 : m, length = m * n / runs;
  for (std::int64_t i = 0; i < runs; ++i) {
    T* const at = c + i * ldc;
    if (f != nullptr) f(at, at, length, T(0), T(0));
    if (gate != nullptr) relu_grad(at, gate + i * ldc, nullptr, at, length, T(0), T(0));
  }
}

/// Splits C over the threads, rows first since they share the panels of B, and runs every part: a
/// group of rows each where there are many, so that a thread that is done early takes over.
/// Which thread computes what does not matter for the bits.
template <class T>
void run_blocks(const GemmTable<T>& t, GemmBlock<T> whole, bool threads_help, UnaryKernel<T> f) {
  whole.relu = f == elementwise_table<T>().unary[number::unary_relu];
  if (whole.relu) f = nullptr;
  const std::int64_t panels = divide_up(whole.n, t.panel_columns);
  std::int64_t rows = f == nullptr ? 1 : divide_up(whole.m, t.group_rows(whole.n)), columns = 1;
  if (threads_help) {
    rows = std::min<std::int64_t>(num_threads(), divide_up(whole.m, kTilesOfFewRows * t.tile_rows));
    columns = std::min(divide_up(num_threads(), rows), panels);
    rows *= divide_up(whole.m, rows * t.group_rows(whole.n));
  }
  const auto run_part = [&](GemmBlock<T>& part) {
    part.scratch = scratch_of<T>(ScratchSlot::tile, t.scratch_elements);
    t.block(part);
    finish<T>(f, nullptr, part.m, part.n, part.c, part.ldc);
  };
  if (rows * columns == 1) return run_part(whole);
  parallel_for_if(threads_help, rows * columns, [&](std::int64_t chunk) {
    const std::int64_t r = chunk / columns, c = chunk % columns;
    GemmBlock<T> part = whole;
    if (chunk > 0) part.pack_to = nullptr;
    take_rows(part, whole.m * r / rows, whole.m * (r + 1) / rows);
    const std::int64_t begin = panels * c / columns * t.panel_columns;
    part.n = std::min(whole.n, panels * (c + 1) / columns * t.panel_columns) - begin;
    part.c += begin;
    if (part.bias != nullptr) part.bias += begin;
    if (part.gate != nullptr) part.gate += begin;
    if (part.ahead != nullptr) part.ahead += begin;
    if (part.packed != nullptr)
      part.packed_column += begin;
    else
      part.b += begin * part.b_col;
    run_part(part);
  });
}

/// Packs all of B, depth block by depth block and panel by panel, see GemmBlock.
template <class T>
void pack_b(const GemmTable<T>& t, const Gemm<T>& g, std::int64_t width, T* out,
            bool threads_help) {
  const std::int64_t panels = divide_up(g.n, t.panel_columns), depths = divide_up(g.k, t.depth);
  const auto pack_one = [&](std::int64_t i) {
    const std::int64_t k0 = i / panels * t.depth, j = i % panels * t.panel_columns;
    const std::int64_t kc = std::min(t.depth, g.k - k0);
    const std::int64_t n = std::min<std::int64_t>(t.panel_columns, g.n - j);
    t.pack(g.b + k0 * g.b_row + j * g.b_col, g.b_row, g.b_col, kc, n, round_up(n, t.lanes),
           out + k0 * width + j * kc);
  };
  parallel_for_if(threads_help && g.k * g.n >= (1 << 14), panels * depths, pack_one);
}

/// `pack_to`: see GemmBlock, for one thread alone.
template <class T>
void run_with(const GemmTable<T>& t, const Gemm<T>& g, const T* packed, bool threads_help,
              const T* row_bias = nullptr, T* pack_to = nullptr) {
  GemmBlock<T> block = block_of(g);
  block.pack_to = pack_to;
  block.row_bias = row_bias;
  block.packed_width = round_up(g.n, t.lanes);
  block.packed = packed;
  run_blocks(t, block, threads_help, g.f);
}

template <class T>
void run_packed(const GemmTable<T>& t, const Gemm<T>& g, bool threads_help,
                const T* row_bias = nullptr) {
  const std::int64_t most = std::max<std::int64_t>(1, t.packed_at_once / g.k / t.panel_columns);
  const std::int64_t slab = most * t.panel_columns;
  for (std::int64_t j = 0; j < g.n; j += slab) {
    const Gemm<T> part = columns_of(g, j, std::min(j + slab, g.n));
    T* const packed = scratch_of<T>(ScratchSlot::packed_b, packed_elements<T>(part.k, part.n));
    if (threads_help) pack_b(t, part, round_up(part.n, t.lanes), packed, threads_help);
    run_with(t, part, packed, threads_help, row_bias, threads_help ? nullptr : packed);
  }
}

template <class T>
void run_narrow(const GemmTable<T>& t, Gemm<T> g, bool threads_help) {
  const std::int64_t k_padded = round_up(g.k, t.lanes);
  const bool copy_a = g.a_col != 1 && g.a_row != 1 && g.m > 1;
  const bool copy_b = g.b_row != 1 || g.k < k_padded;
  const std::int64_t copied_b = copy_b ? k_padded * g.n : 0, copied_a = copy_a ? k_padded * g.m : 0;
  T* const memory = scratch_of<T>(ScratchSlot::narrow, copied_b + copied_a + 2 * t.lanes);
  if (copy_b) t.pack(g.b, g.b_col, g.b_row, g.n, g.k, k_padded, memory);
  const T* const bt = copy_b ? memory : g.b;
  if (copy_a) {
    T* const a = memory + copied_b;
    t.pack(g.a, g.a_row, g.a_col, g.m, g.k, k_padded, a);
    g.a = a;
    g.a_row = k_padded;
    g.a_col = 1;
  }
  const std::int64_t bt_row = copy_b ? k_padded : g.b_col;
  const GemmBlock<T> whole = block_of(g);
  const std::int64_t parts =
      threads_help ? std::min<std::int64_t>(4 * num_threads(), divide_up(g.m, 4 * t.lanes)) : 1;
  parallel_for(parts, [&](std::int64_t i) {
    GemmBlock<T> part = whole;
    take_rows(part, whole.m * i / parts, whole.m * (i + 1) / parts);
    t.narrow(part, bt, bt_row);
    finish(g.f, part.gate, part.m, part.n, part.c, part.ldc);
  });
}

/// Whether A with so few rows is cheaper to pack than B, whose columns are contiguous: C^T is
/// computed, from B where it lies. More rows than fill whole panels must nearly fill one more.
template <class T>
bool is_better_transposed(const GemmTable<T>& t, const Gemm<T>& g) {
  const std::int64_t last = (g.m - 1) % t.panel_columns + 1;
  return g.b_row == 1 && g.b_col != 1 && !g.accumulate && g.ldc == g.n && 4 * g.m >= 3 * t.lanes &&
         (g.m == last || 4 * last > t.panel_columns) && 2 * g.m * (g.n + g.k) <= g.n * g.k;
}

/// By the calling thread alone: where others help, each packing panels of B of its own was measured
/// to be faster.
template <class T>
void run_transposed(const GemmTable<T>& t, const Gemm<T>& g) {
  T* const c = scratch_of<T>(ScratchSlot::transposed, g.n * g.m);
  run_packed(t, product<T>(g.n, g.m, g.k, {g.b, g.b_col, g.b_row}, {g.a, g.a_col, g.a_row}, c),
             /*threads_help=*/false, g.bias);
  t.pack(c, 1, g.m, g.m, g.n, g.n, g.c);
  finish(g.f, g.gate, g.m, g.n, g.c, g.ldc);
}

/// Rows share the panels of B: packing all of B pays when a thread goes over it several times, else
/// each packs its panels.
template <class T>
void run_by_rows(const GemmTable<T>& t, const Gemm<T>& g, bool threads_help) {
  const std::int64_t threads = threads_help ? num_threads() : 1;
  if (g.m > threads * t.group_rows(g.n) && (g.k > kShallow || g.b_col != 1))
    return run_packed(t, g, threads_help);
  run_blocks(t, block_of(g), threads_help, g.f);
}

/// Whether threads had better share out the columns, each packing its part of B and going over all
/// of A: no thread waits for another's packing. A must be near and need no packing itself, and few
/// rows read a B with contiguous rows where it lies.
template <class T>
bool is_better_by_columns(const GemmTable<T>& t, const Gemm<T>& g) {
  return g.a_col == 1 && g.k > kShallow && g.m * g.k <= kNearElements && g.m <= 4 * g.n &&
         divide_up(g.n, t.panel_columns) >= 2 * num_threads() &&
         (g.b_col != 1 || g.m > 6 * t.tile_rows);
}

template <class T>
void run_by_columns(const GemmTable<T>& t, const Gemm<T>& g) {
  const std::int64_t panels = divide_up(g.n, t.panel_columns);
  const std::int64_t parts = std::min<std::int64_t>(panels, 4 * num_threads());
  parallel_for(parts, [&](std::int64_t i) {
    const std::int64_t begin = panels * i / parts * t.panel_columns;
    const std::int64_t end = std::min(g.n, panels * (i + 1) / parts * t.panel_columns);
    run_by_rows(t, columns_of(g, begin, end), /*threads_help=*/false);
  });
}

/// A sum over nothing: C = f(bias (+ C)).
template <class T>
void run_empty(const Gemm<T>& g) {
  for (std::int64_t i = 0; i < g.m; ++i) {
    for (std::int64_t j = 0; j < g.n; ++j) {
      T& c = g.c[i * g.ldc + j];
      const T value = g.bias != nullptr ? g.bias[j] : T(0);
      c = g.accumulate ? value + c : value;
    }
  }
  finish(g.f, g.gate, g.m, g.n, g.c, g.ldc);
}

template <class T>
bool is_small(const Gemm<T>& g) {
  return std::max({g.m, g.n, g.k}) <= kSmallSize && std::min({g.m, g.n, g.k}) > 0 &&
         !is_narrow<T>(g.k, g.n);
}

template <class T>
void run_small(const GemmTable<T>& t, const Gemm<T>& g, std::int64_t count, std::int64_t a_item,
               std::int64_t b_item, std::int64_t c_item) {
  t.small({count, g.m, g.n, g.k, g.a, g.a_row, g.a_col, a_item, g.b, g.b_row, g.b_col, b_item, g.c,
           g.ldc, c_item, g.bias, g.accumulate});
  const bool is_finished = g.f == nullptr && g.gate == nullptr;
  for (std::int64_t i = 0; !is_finished && i < count; ++i)
    finish(g.f, g.gate == nullptr ? nullptr : g.gate + i * c_item, g.m, g.n, g.c + i * c_item,
           g.ldc);
}

}  // namespace

template <class T>
void gemm(Gemm<T> g) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) return run_empty(g);
  const GemmTable<T>& t = gemm_table<T>();
  // A stride over one element is never used, so it may as well be the handiest.
  if (g.n == 1) g.b_col = 1;
  if (g.k == 1) g.a_col = 1;
  if (is_small(g)) return run_small(t, g, 1, 0, 0, 0);
  const bool threads_help = worth_threads(g);
  if (is_narrow<T>(g.k, g.n)) return run_narrow(t, g, threads_help);
  if (!threads_help && is_better_transposed(t, g)) return run_transposed(t, g);
  if (threads_help && is_better_by_columns(t, g)) return run_by_columns(t, g);
  run_by_rows(t, g, threads_help);
}

template <class T>
void gemm_batch(Gemm<T> g, std::int64_t count, std::int64_t a_item, std::int64_t b_item,
                std::int64_t c_item) {
  if (is_small(g)) return run_small(gemm_table<T>(), g, count, a_item, b_item, c_item);
  for (; count > 0; --count, g.a += a_item, g.b += b_item, g.c += c_item) {
    gemm(g);
    if (g.gate != nullptr) g.gate += c_item;
  }
}

template <class T>
bool is_narrow(std::int64_t k, std::int64_t n) {
  const int lanes = gemm_table<T>().lanes;
  return n <= lanes / 2 && k >= 2 * lanes;
}

template <class T>
std::int64_t packed_elements(std::int64_t k, std::int64_t n) {
  const GemmTable<T>& t = gemm_table<T>();
  return round_up(n, t.lanes) * k + t.panel_columns;
}

template <class T>
void pack_matrix(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n,
                 T* packed) {
  const GemmTable<T>& t = gemm_table<T>();
  Gemm<T> g;
  g.n = n;
  g.k = k;
  g.b = b;
  g.b_row = b_row;
  g.b_col = b_col;
  pack_b(t, g, round_up(n, t.lanes), packed, !in_parallel_region() && num_threads() > 1);
}

template <class T>
void gemm_packed(const Gemm<T>& g, const T* packed) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) return run_empty(g);
  run_with(gemm_table<T>(), g, packed, worth_threads(g));
}

template void gemm(Gemm<float>);
template void gemm(Gemm<double>);
template void gemm_batch(Gemm<float>, std::int64_t, std::int64_t, std::int64_t, std::int64_t);
template void gemm_batch(Gemm<double>, std::int64_t, std::int64_t, std::int64_t, std::int64_t);
template bool is_narrow<float>(std::int64_t, std::int64_t);
template bool is_narrow<double>(std::int64_t, std::int64_t);
template std::int64_t packed_elements<float>(std::int64_t, std::int64_t);
template std::int64_t packed_elements<double>(std::int64_t, std::int64_t);
template void pack_matrix(const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                          float*);
template void pack_matrix(const double*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                          double*);
template void gemm_packed(const Gemm<float>&, const float*);
template void gemm_packed(const Gemm<double>&, const double*);

}  // namespace flowgrad::kernels::cpu
