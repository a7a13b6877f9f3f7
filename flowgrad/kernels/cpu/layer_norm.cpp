#include <algorithm>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows `begin` and on, at most `count` of them.
template <class T>
NormRows<T> norm_rows(const LayerNorm& norm, const View& x, int64_t begin, int64_t count) {
  const int64_t rows = (*x.shape)[0], n = (*x.shape)[1];
  return {x.as<const T>() + begin * n, norm.weight.as<const T>(), norm.bias.as<const T>(),
          std::min(count, rows - begin), n};
}

}  // namespace

void CpuBackendFast::layer_norm(const LayerNorm& norm, View x, View out, View statistics) {
  visit_floating("layer_norm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t rows = (*x.shape)[0], n = (*x.shape)[1];
    const int64_t group = std::max<int64_t>(1, kChunk / 2 / std::max<int64_t>(n, 1));
    for_tasks(divide_up(rows, group), 2 * x.numel(), [&](int64_t i) {
      const int64_t begin = i * group;
      norm_table<T>().layer_norm(norm_rows<T>(norm, x, begin, group), norm.epsilon,
                                 out.as<T>() + begin * n, statistics.as<double>() + 2 * begin);
    });
  });
}

void CpuBackendFast::layer_norm_grad(const LayerNorm& norm, View x, View statistics, View g,
                                     View g_x, View g_weight, View g_bias) {
  visit_floating("layer_norm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int64_t kMostGroups = 32, kMostLanes = 16;
    const int64_t rows = (*x.shape)[0], n = (*x.shape)[1];
    const int64_t group =
        std::max(divide_up(kChunk, std::max<int64_t>(n, 1)), divide_up(rows, kMostGroups));
    const int64_t groups = divide_up(rows, group);
    const int64_t columns = divide_up(n, kMostLanes) * kMostLanes;
    const bool sums_wanted = g_weight.defined() || g_bias.defined();
    double* const sums = sums_wanted
                             ? scratch_of<double>(ScratchSlot::partial, (groups + 1) * 2 * columns)
                             : nullptr;
    for_tasks(groups, 4 * x.numel(), [&](int64_t i) {
      const int64_t begin = i * group;
      double* const mine = sums_wanted ? sums + i * 2 * columns : nullptr;
      T* const few = sums_wanted ? scratch_of<T>(ScratchSlot::tile, 2 * columns) : nullptr;
      if (sums_wanted) std::fill_n(mine, 2 * columns, 0.0);
      norm_table<T>().layer_norm_grad(
          norm_rows<T>(norm, x, begin, group), statistics.as<const double>() + 2 * begin,
          g.as<const T>() + begin * n, g_x.defined() ? g_x.as<T>() + begin * n : nullptr, mine, few,
          columns);
    });
    if (!sums_wanted) return;
    double* const total = sums + groups * 2 * columns;
    std::fill_n(total, 2 * columns, 0.0);
    for (int64_t i = 0; i < groups; ++i)
      for (int64_t j = 0; j < 2 * columns; ++j) total[j] += sums[i * 2 * columns + j];
    for (int64_t j = 0; j < n; ++j) {
      if (g_weight.defined()) g_weight.as<T>()[j] = static_cast<T>(total[j]);
      if (g_bias.defined()) g_bias.as<T>()[j] = static_cast<T>(total[columns + j]);
    }
  });
}

}  // namespace flowgrad::kernels
