#include <limits>

#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/rows.h"
#include "flowgrad/kernels/cuda/team.cuh"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

GPU_INLINE float exp_of(float x) { return expf(x); }
GPU_INLINE double exp_of(double x) { return exp(x); }

/// Exponentials of one thread under way at once: those of doubles fill the registers.
template <class T>
constexpr int kPowers = std::is_same_v<T, float> ? 4 : 1;

struct Add {
  GPU_INLINE double operator()(double a, double b) const { return a + b; }
};

/// NaN wins.
template <class T>
struct Larger {
  GPU_INLINE T operator()(T a, T b) const {
    if (a != a) return a;
    return a > b ? a : b;
  }
};

template <class T>
GPU_INLINE T lowest() {
  return -std::numeric_limits<T>::infinity();
}

/// Rows and the operands' steps along them; kept counts the rows, for operands in the same order.
struct Rows {
  Axes kept;
  RowWork work;
  int64_t step[3] = {};
};

/// Cached = 0: the row is read three times, from the caches where it fits. Otherwise every thread
/// keeps its Cached elements in registers. x is operand 1.
template <class Team, int Cached, class T>
__global__ void __launch_bounds__(Team::kThreads, 1)
    softmax_rows(bool logarithm, Rows rows, const T* __restrict__ x, T* __restrict__ out) {
  const Team team(rows.work.rows, 1);
  int64_t offset[2] = {};
  if (team.active) offsets_at(rows.kept, team.row, offset);
  const int64_t n = team.active ? rows.work.length : 0;
  const T* const in = x + offset[1];
  T* const to = out + offset[0];
  T largest[Team::kStreams];
  double sums[Team::kStreams];
#pragma unroll
  for (int j = 0; j < Team::kStreams; ++j) {
    largest[j] = lowest<T>();
    sums[j] = 0;
  }
  const auto write = [&](int64_t i, T shifted, T power, double sum, T scale) {
    to[i * rows.step[0]] =
        logarithm ? static_cast<T>(static_cast<double>(shifted) - sum) : power * scale;
  };
  if constexpr (Cached > 0) {
    T mine[Cached];
#pragma unroll
    for (int k = 0; k < Cached; ++k) {
      const int64_t i = team.first + k * Team::kStep;
      mine[k] = i < n ? in[i * rows.step[1]] : lowest<T>();
    }
#pragma unroll
    for (int k = 0; k < Cached; ++k) largest[0] = Larger<T>{}(largest[0], mine[k]);
    const T top = team.fold(largest, Larger<T>{});
#pragma unroll
    for (int k = 0; k < Cached; ++k) {
      mine[k] -= top;
      if (team.first + k * Team::kStep < n) sums[0] += static_cast<double>(exp_of(mine[k]));
    }
    const double sum = team.fold(sums, Add{});
    const double log_sum = logarithm ? log(sum) : 0;
    const T scale = static_cast<T>(1 / sum);
#pragma unroll
    for (int k = 0; k < Cached; ++k) {
      const int64_t i = team.first + k * Team::kStep;
      if (i < n) write(i, mine[k], logarithm ? T(0) : exp_of(mine[k]), log_sum, scale);
    }
  } else {
    each_element<4>(team, n, [&](int j, int64_t i) {
      largest[j] = Larger<T>{}(largest[j], in[i * rows.step[1]]);
    });
    const T top = team.fold(largest, Larger<T>{});
    each_element<kPowers<T>>(team, n, [&](int j, int64_t i) {
      sums[j] += static_cast<double>(exp_of(in[i * rows.step[1]] - top));
    });
    const double sum = team.fold(sums, Add{});
    const double log_sum = logarithm ? log(sum) : 0;
    const T scale = static_cast<T>(1 / sum);
    each_element<kPowers<T>>(team, n, [&](int, int64_t i) {
      const T shifted = in[i * rows.step[1]] - top;
      write(i, shifted, logarithm ? T(0) : exp_of(shifted), log_sum, scale);
    });
  }
}

/// y is operand 1, g is operand 2.
template <class Team, class T>
__global__ void __launch_bounds__(Team::kThreads, 1)
    softmax_grad_rows(bool logarithm, Rows rows, const T* __restrict__ y, const T* __restrict__ g,
                      T* __restrict__ out) {
  const Team team(rows.work.rows, 1);
  int64_t offset[3] = {};
  if (team.active) offsets_at(rows.kept, team.row, offset);
  const int64_t n = team.active ? rows.work.length : 0;
  const auto cotangent = [&](int64_t i) { return g[offset[2] + i * rows.step[2]]; };
  const auto value = [&](int64_t i) { return y[offset[1] + i * rows.step[1]]; };
  double sums[Team::kStreams];
#pragma unroll
  for (int j = 0; j < Team::kStreams; ++j) sums[j] = 0;
  if (logarithm) {
    each_element<4>(team, n,
                    [&](int j, int64_t i) { sums[j] += static_cast<double>(cotangent(i)); });
  } else {
    each_element<4>(team, n, [&](int j, int64_t i) {
      sums[j] += static_cast<double>(cotangent(i)) * static_cast<double>(value(i));
    });
  }
  const double sum = team.fold(sums, Add{});
  each_element<kPowers<T>>(team, n, [&](int, int64_t i) {
    const auto ct = static_cast<double>(cotangent(i));
    const T v = value(i);
    const double result =
        logarithm ? ct - static_cast<double>(exp_of(v)) * sum : static_cast<double>(v) * (ct - sum);
    out[offset[0] + i * rows.step[0]] = static_cast<T>(result);
  });
}

/// Rows of operands of one shape along axis; operand 1 says how they lie in memory.
Rows rows_along(const View* const* operands, int count, int axis) {
  const View& out = *operands[0];
  const Strides* strides[3] = {};
  Rows rows;
  for (int k = 0; k < count; ++k) {
    strides[k] = operands[k]->strides;
    rows.step[k] = stride_along(*operands[k], axis);
  }
  rows.kept = ordered_axes(*out.shape, strides, count, 1, [&](int d) { return d != axis; });
  rows.work.rows = rows.kept.total;
  rows.work.length = size_along(out, axis);
  rows.work.along_memory = lies_along_memory(rows.kept, 1, rows.step[1]);
  rows.work.neighbours = rows.kept.inner();
  return rows;
}

}  // namespace

void CudaBackend::softmax(bool logarithm, View x, int axis, View out) {
  const char* op = logarithm ? "log_softmax" : "softmax";
  require_dtype(op, "out", out, x.dtype);
  visit_floating(op, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (out.numel() == 0) return;
    const View* const operands[] = {&out, &x};
    const Rows rows = rows_along(operands, 2, axis);
    with_team(rows.work, [&](auto tag, dim3 grid, dim3 block) {
      using Team = typename decltype(tag)::type;
      const auto run = [&](auto kernel) {
        gpu::launch(kernel, grid, block, 0, gpu::default_stream(), logarithm, rows, x.as<const T>(),
                    out.as<T>());
      };
      // Small multiples of the team's lanes; a row has a kernel by its length alone.
      if constexpr (std::is_same_v<Team, WarpTeam>) {
        if (rows.work.length <= 4 * kLanes) return run(softmax_rows<Team, 4, T>);
        return run(softmax_rows<Team, 32, T>);
      } else if constexpr (std::is_same_v<Team, BlockTeam>) {
        if (rows.work.length <= 16 * int64_t{kBlock}) return run(softmax_rows<Team, 16, T>);
        return run(softmax_rows<Team, 0, T>);
      } else {
        return run(softmax_rows<Team, 0, T>);
      }
    });
  });
}

void CudaBackend::softmax_grad(bool logarithm, View g, View y, int axis, View out) {
  const char* op = logarithm ? "log_softmax" : "softmax";
  require_dtype(op, "y", y, g.dtype);
  require_dtype(op, "out", out, g.dtype);
  visit_floating(op, g.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (out.numel() == 0) return;
    const View* const operands[] = {&out, &y, &g};
    const Rows rows = rows_along(operands, 3, axis);
    with_team(rows.work, [&](auto tag, dim3 grid, dim3 block) {
      using Team = typename decltype(tag)::type;
      gpu::launch(softmax_grad_rows<Team, T>, grid, block, 0, gpu::default_stream(), logarithm,
                  rows, y.as<const T>(), g.as<const T>(), out.as<T>());
    });
  });
}

}  // namespace flowgrad::kernels
