#include <algorithm>
#include <vector>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

template <class F>
void for_chunks(int64_t chunks, F&& f) {
  parallel_for_if(chunks > 2, chunks, f);
}

/// A coupling's rows in blocks of about kBlock elements, and the mask repeated over a block.
template <class T>
class CouplingBlocks {
 public:
  CouplingBlocks(const Coupling& c, const View& z)
      : rows_((*z.shape)[0]), d_((*z.shape)[1]), c_(c), z_(z) {
    block_ = std::clamp<int64_t>(kBlock / std::max<int64_t>(d_, 1), 1, std::max<int64_t>(rows_, 1));
    T* const mask = scratch_of<T>(ScratchSlot::operand, block_ * d_);
    for (int64_t r = 0; r < block_; ++r) std::copy_n(c.mask.as<const T>(), d_, mask + r * d_);
    mask_ = mask;
  }
  /// f(run, first row, rows) for every block.
  template <class F>
  void each(F&& f) const {
    constexpr int64_t kBlocksPerChunk = 4;
    const int64_t blocks = divide_up(rows_, block_);
    for_chunks(divide_up(blocks, kBlocksPerChunk), [&](int64_t chunk) {
      const int64_t end = std::min(blocks, (chunk + 1) * kBlocksPerChunk);
      for (int64_t i = chunk * kBlocksPerChunk; i < end; ++i) {
        const int64_t row = i * block_, n = std::min(block_, rows_ - row), at = row * d_;
        f(CouplingRun<T>{z_.as<const T>() + at, c_.scale.as<const T>() + at,
                         c_.shift.as<const T>() + at, mask_, n * d_, static_cast<T>(c_.bound),
                         c_.inverse},
          row, n);
      }
    });
  }
  int64_t dims() const { return d_; }

 private:
  int64_t rows_, d_, block_ = 1;
  const Coupling& c_;
  const View& z_;
  const T* mask_;
};

}  // namespace

void CpuBackendFast::coupling(const Coupling& c, View z, View out, View log_det) {
  visit_floating("coupling", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const CouplingBlocks<T> blocks(c, z);
    const int64_t d = blocks.dims();
    blocks.each([&](const CouplingRun<T>& run, int64_t row, int64_t n) {
      T* const log_scale = scratch_of<T>(ScratchSlot::tile, run.n);
      flow_table<T>().coupling(run, out.as<T>() + row * d, log_scale);
      reduce_table<T>().fold_rows[number::fold_sum](log_scale, n, d, d, log_det.as<T>() + row);
    });
  });
}

void CpuBackendFast::coupling_grad(const Coupling& c, View z, View g, View g_log_det, View g_z,
                                   View g_scale, View g_shift) {
  visit_floating("coupling_grad", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const CouplingBlocks<T> blocks(c, z);
    const int64_t d = blocks.dims();
    blocks.each([&](const CouplingRun<T>& run, int64_t row, int64_t n) {
      T* const of_rows = scratch_of<T>(ScratchSlot::tile, run.n);
      for (int64_t r = 0; r < n; ++r)
        std::fill_n(of_rows + r * d, d, g_log_det.as<const T>()[row + r]);
      const int64_t at = row * d;
      flow_table<T>().coupling_grad(run, g.as<const T>() + at, of_rows, g_z.as<T>() + at,
                                    g_scale.as<T>() + at, g_shift.as<T>() + at);
    });
  });
}

namespace {

template <class T>
PlanarLayers<T> layers_of(const PlanarStack& p) {
  return {p.w.as<const T>(), p.b.as<const T>(), p.u.as<const T>(), p.margin.as<const T>(),
          (*p.w.shape)[0],   (*p.w.shape)[1],   p.inverse};
}

/// Rows in chunks; their number, and so the order of the gradient's sums, depends on the rows
/// alone.
struct RowChunks {
  static constexpr int64_t kLeast = 512, kMost = 64;
  int64_t rows, per_chunk, chunks;
  explicit RowChunks(int64_t n)
      : rows(n),
        per_chunk(std::max<int64_t>(1, divide_up(n, kLeast * kMost)) * kLeast),
        chunks(divide_up(n, per_chunk)) {}
  /// f(row, count) for the tiles of a chunk.
  template <class F>
  void each_tile(int64_t chunk, int lanes, F&& f) const {
    const int64_t end = std::min(rows, (chunk + 1) * per_chunk);
    for (int64_t row = chunk * per_chunk; row < end; row += lanes)
      f(row, static_cast<int>(std::min<int64_t>(lanes, end - row)));
  }
};

}  // namespace

void CpuBackendFast::planar(const PlanarStack& stack, View z, View out, View log_det,
                            View heights) {
  visit_floating("planar", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const FlowTable<T>& table = flow_table<T>();
    const PlanarLayers<T> p = layers_of<T>(stack);
    const int64_t d = p.dims;
    const RowChunks rows((*z.shape)[0]);
    for_chunks(rows.chunks, [&](int64_t chunk) {
      T* const scratch = scratch_of<T>(ScratchSlot::tile, d * table.lanes);
      rows.each_tile(chunk, table.lanes, [&](int64_t row, int count) {
        table.planar(p, z.as<const T>() + row * d, count, out.as<T>() + row * d,
                     log_det.as<T>() + row, heights.defined() ? heights.as<T>() + row : nullptr,
                     rows.rows, scratch);
      });
    });
  });
}

void CpuBackendFast::planar_grad(const PlanarStack& stack, View z, View heights, View g,
                                 View g_log_det, View g_z, View g_weights) {
  visit_floating("planar_grad", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const FlowTable<T>& table = flow_table<T>();
    const PlanarLayers<T> p = layers_of<T>(stack);
    const int64_t d = p.dims, k = p.layers, items = k * (2 * d + 2), lanes = table.lanes;
    const RowChunks rows((*z.shape)[0]);
    double* const partial = scratch_of<double>(ScratchSlot::partial, rows.chunks * items + items);
    for_chunks(rows.chunks, [&](int64_t chunk) {
      T* const sums = scratch_of<T>(ScratchSlot::operand, items * lanes);
      T* const scratch = scratch_of<T>(ScratchSlot::tile, (k + 1) * d * lanes);
      std::fill_n(sums, items * lanes, T(0));
      rows.each_tile(chunk, table.lanes, [&](int64_t row, int count) {
        table.planar_grad(p, z.as<const T>() + row * d, heights.as<const T>() + row, rows.rows,
                          g.as<const T>() + row * d, g_log_det.as<const T>() + row, count,
                          g_z.as<T>() + row * d, sums, scratch);
      });
      for (int64_t i = 0; i < items; ++i) {
        double sum = 0;
        for (int64_t l = 0; l < lanes; ++l) sum += static_cast<double>(sums[i * lanes + l]);
        partial[chunk * items + i] = sum;
      }
    });
    double* const total = partial + rows.chunks * items;
    std::fill_n(total, items, 0.0);
    for (int64_t i = 0; i < rows.chunks * items; ++i) total[i % items] += partial[i];
    T *const to_w = g_weights.as<T>(), *const to_b = to_w + k * d, *const to_u = to_b + k,
             *const to_margin = to_u + k * d;
    for (int64_t i = 0; i < k; ++i) {
      const double* const of_w = total + i * (2 * d + 2);
      const double *const of_u = of_w + d, *const of_b = of_u + d;
      for (int64_t j = 0; j < d; ++j) {
        to_w[i * d + j] = static_cast<T>(of_w[j]);
        to_u[i * d + j] = static_cast<T>(of_u[j]);
      }
      to_b[i] = static_cast<T>(of_b[0]);
      to_margin[i] = static_cast<T>(of_b[1]);
    }
  });
}

}  // namespace flowgrad::kernels
