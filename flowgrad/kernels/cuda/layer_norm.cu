#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/rows.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/team.cuh"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// Two sums side by side.
struct Pair {
  double first, second;
};
struct AddPairs {
  GPU_INLINE Pair operator()(const Pair& a, const Pair& b) const {
    return {a.first + b.first, a.second + b.second};
  }
};

/// Rows as kernels::LayerNorm has them; weight and bias may be null.
template <class T>
struct Rows {
  const T *x, *weight, *bias;
  int64_t rows, n;

  GPU_INLINE double weight_at(int64_t j) const {
    return weight == nullptr ? 1 : static_cast<double>(weight[j]);
  }
};

template <class T>
Rows<T> rows_of(const LayerNorm& norm, const View& x) {
  return {x.as<const T>(), norm.weight.as<const T>(), norm.bias.as<const T>(), (*x.shape)[0],
          (*x.shape)[1]};
}

template <class Team, class T>
__global__ void __launch_bounds__(Team::kThreads)
    norm_rows(const __grid_constant__ Rows<T> rows, double epsilon, T* __restrict__ out,
              double* __restrict__ statistics) {
  const Team team(rows.rows, 1);
  const int64_t n = team.active ? rows.n : 0;
  const auto width = static_cast<double>(rows.n);
  const T* const x = rows.x + (team.active ? team.row * rows.n : 0);
  double sums[Team::kStreams] = {};
  each_element<4>(team, n, [&](int j, int64_t i) { sums[j] += static_cast<double>(x[i]); });
  const double mean = team.fold(sums, AddDoubles{}) / width;
  for (double& sum : sums) sum = 0;
  each_element<4>(team, n, [&](int j, int64_t i) {
    const double d = static_cast<double>(x[i]) - mean;
    sums[j] += d * d;
  });
  const double scale = 1 / sqrt(team.fold(sums, AddDoubles{}) / width + epsilon);
  if (team.leads()) {
    statistics[2 * team.row] = mean;
    statistics[2 * team.row + 1] = scale;
  }
  each_element<4>(team, n, [&](int, int64_t i) {
    double value = (static_cast<double>(x[i]) - mean) * scale * rows.weight_at(i);
    if (rows.bias != nullptr) value += static_cast<double>(rows.bias[i]);
    out[team.row * rows.n + i] = static_cast<T>(value);
  });
}

template <class Team, class T>
__global__ void __launch_bounds__(Team::kThreads)
    norm_rows_grad(const __grid_constant__ Rows<T> rows, const double* __restrict__ statistics,
                   const T* __restrict__ g, T* __restrict__ g_x) {
  const Team team(rows.rows, 1);
  const int64_t n = team.active ? rows.n : 0;
  const int64_t row = team.active ? team.row : 0;
  const auto width = static_cast<double>(rows.n);
  const T* const x = rows.x + row * rows.n;
  const T* const given = g + row * rows.n;
  const double mean = team.active ? statistics[2 * row] : 0;
  const double scale = team.active ? statistics[2 * row + 1] : 0;
  const auto value = [&](int64_t i) { return (static_cast<double>(x[i]) - mean) * scale; };
  const auto weighted = [&](int64_t i) {
    return static_cast<double>(given[i]) * rows.weight_at(i);
  };
  // Of the weighted cotangent, and of it times the normalised row.
  Pair sums[Team::kStreams] = {};
  each_element<4>(team, n, [&](int j, int64_t i) {
    const double h = weighted(i);
    sums[j].first += h;
    sums[j].second += h * value(i);
  });
  const Pair total = team.fold(sums, AddPairs{});
  each_element<4>(team, n, [&](int, int64_t i) {
    g_x[row * rows.n + i] = static_cast<T>(
        scale * (weighted(i) - total.first / width - value(i) * (total.second / width)));
  });
}

/// Rows that a block adds up; their number and so the order of the sums depends on the rows alone.
int64_t rows_of_chunk(int64_t rows) {
  constexpr int64_t kLeast = 256, kMostChunks = 64;
  return std::max(kLeast, (rows + kMostChunks - 1) / kMostChunks);
}

/// A chunk of rows: what it gives to the gradients of weight and bias at every column.
template <class T>
__global__ void __launch_bounds__(TileTeam<1>::kThreads)
    norm_columns_grad(const __grid_constant__ Rows<T> rows, const double* __restrict__ statistics,
                      const T* __restrict__ g, int64_t chunk_rows, int64_t chunks,
                      Pair* __restrict__ partial) {
  const TileTeam<1> team(rows.n, chunks);
  const int64_t begin = team.chunk * chunk_rows;
  const int64_t rest = rows.rows - begin;
  const int64_t count = !team.active ? 0 : rest < chunk_rows ? rest : chunk_rows;
  Pair sums[1] = {};
  each_element<4>(team, count, [&](int, int64_t i) {
    const int64_t row = begin + i;
    const auto given = static_cast<double>(g[row * rows.n + team.row]);
    const auto x = static_cast<double>(rows.x[row * rows.n + team.row]);
    sums[0].first += given * ((x - statistics[2 * row]) * statistics[2 * row + 1]);
    sums[0].second += given;
  });
  const Pair total = team.fold(sums, AddPairs{});
  if (team.leads()) partial[team.chunk * rows.n + team.row] = total;
}

/// The chunks of a column, one after the other. g_weight and g_bias may be null.
template <class T>
__global__ void __launch_bounds__(kBlock)
    norm_columns_end(const Pair* __restrict__ partial, int64_t n, int64_t chunks,
                     T* __restrict__ g_weight, T* __restrict__ g_bias) {
  const int64_t j = thread_number();
  if (j >= n) return;
  Pair total = {};
  for (int64_t i = 0; i < chunks; ++i) total = AddPairs{}(total, partial[i * n + j]);
  if (g_weight != nullptr) g_weight[j] = static_cast<T>(total.first);
  if (g_bias != nullptr) g_bias[j] = static_cast<T>(total.second);
}

/// f(Team, grid, block) for contiguous rows, which no tile of rows ever works on.
template <class T, class F>
void with_rows(const Rows<T>& rows, F&& f) {
  RowWork work;
  work.rows = rows.rows;
  work.length = rows.n;
  with_team(work, [&](auto tag, dim3 grid, dim3 block) {
    if constexpr (decltype(tag)::type::kThreads == kBlock) f(tag, grid, block);
  });
}

}  // namespace

void CudaBackend::layer_norm(const LayerNorm& norm, View x, View out, View statistics) {
  visit_floating("layer_norm", x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Rows<T> rows = rows_of<T>(norm, x);
    if (rows.rows == 0) return;
    with_rows(rows, [&](auto tag, dim3 grid, dim3 block) {
      using Team = typename decltype(tag)::type;
      gpu::launch(norm_rows<Team, T>, grid, block, 0, gpu::default_stream(), rows, norm.epsilon,
                  out.as<T>(), statistics.as<double>());
    });
  });
}

void CudaBackend::layer_norm_grad(const LayerNorm& norm, View x, View statistics, View g, View g_x,
                                  View g_weight, View g_bias) {
  visit_floating("layer_norm", x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Rows<T> rows = rows_of<T>(norm, x);
    if (rows.n == 0) return;
    if (g_x.defined() && rows.rows > 0) {
      with_rows(rows, [&](auto tag, dim3 grid, dim3 block) {
        using Team = typename decltype(tag)::type;
        gpu::launch(norm_rows_grad<Team, T>, grid, block, 0, gpu::default_stream(), rows,
                    statistics.as<const double>(), g.as<const T>(), g_x.as<T>());
      });
    }
    if (!g_weight.defined() && !g_bias.defined()) return;
    const int64_t chunk_rows = rows_of_chunk(rows.rows);
    const int64_t chunks = (rows.rows + chunk_rows - 1) / chunk_rows;
    const Scratch scratch(static_cast<std::size_t>(chunks * rows.n) * sizeof(Pair));
    if (chunks > 0) {
      const unsigned width = tile_width(rows.n, TileTeam<1>::kWidth);
      const int64_t tiles = (rows.n + width - 1) / width;
      gpu::launch(norm_columns_grad<T>, dim3(grid_of(tiles * chunks, 1)), dim3(width, kLanes), 0,
                  gpu::default_stream(), rows, statistics.as<const double>(), g.as<const T>(),
                  chunk_rows, chunks, scratch.as<Pair>());
    }
    gpu::launch(norm_columns_end<T>, dim3(blocks_of(rows.n)), dim3(kBlock), 0,
                gpu::default_stream(), scratch.as<const Pair>(), rows.n, chunks, g_weight.as<T>(),
                g_bias.as<T>());
  });
}

}  // namespace flowgrad::kernels
