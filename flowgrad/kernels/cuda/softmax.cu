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

/// A NaN need not win: by the sum of exponentials it reaches all of its row.
struct Larger {
  GPU_INLINE float operator()(float a, float b) const { return fmaxf(a, b); }
  GPU_INLINE double operator()(double a, double b) const { return a > b ? a : b; }
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

/// Elements that every thread of a team keeps in registers; none: rows are read several times, from
/// the caches where they fit. kWhole: all of these exist in every row, and neighbours touch, so
/// that nothing is asked for an element. The bits are the same in any case.
template <int Count, bool Whole = false>
struct Kept {
  static constexpr int kCount = Count;
  static constexpr bool kWhole = Whole;
};

/// Blocks of a multiprocessor that the registers of kept elements leave room for.
template <class T, class Kept>
constexpr int kResident = Kept::kCount == 0 || Kept::kCount * sizeof(T) > 128 ? 1
                          : Kept::kWhole                                      ? 3
                                                                              : 2;

/// f(k, in range) for the elements that a thread keeps.
template <class Kept, class Team, class F>
GPU_INLINE void each_kept(const Team& team, int64_t n, F&& f) {
  const int length = static_cast<int>(n);  // of a row that fits into registers
#pragma unroll
  for (int k = 0; k < Kept::kCount; ++k)
    f(k, Kept::kWhole || team.first + k * Team::kStep < length);
}

/// f(k, place in the row, in range): places are constants from the first one where neighbours
/// touch.
template <class Kept, class Team, class F>
GPU_INLINE void each_place(const Team& team, int64_t n, int64_t given_step, F&& f) {
  const int64_t step = Kept::kWhole ? 1 : given_step;
  int64_t at = team.first * step;
  each_kept<Kept>(team, n, [&](int k, bool exists) {
    f(k, at, exists);
    at += Team::kStep * step;
  });
}

/// x is operand 1.
template <class Team, class Kept, class T>
__global__ void __launch_bounds__(Team::kThreads, (kResident<T, Kept>))
    softmax_rows(bool logarithm, Rows rows, const T* __restrict__ x, T* __restrict__ out) {
  const Team team(rows.work.rows, 1);
  if (Kept::kWhole && !team.active) return;  // a warp, if any
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
  const auto result = [&](T shifted, T power, double log_sum, T scale) {
    return logarithm ? static_cast<T>(static_cast<double>(shifted) - log_sum) : power * scale;
  };
  if constexpr (Kept::kCount > 0) {
    T mine[Kept::kCount];
    each_place<Kept>(team, n, rows.step[1], [&](int k, int64_t at, bool exists) {
      mine[k] = exists ? in[at] : lowest<T>();
      largest[0] = Larger{}(largest[0], mine[k]);
    });
    const T top = team.fold(largest, Larger{});
    each_kept<Kept>(team, n, [&](int k, bool exists) {
      mine[k] -= top;
      const T power = exp_of(mine[k]);
      if (exists) sums[0] += static_cast<double>(power);
      if (!logarithm) mine[k] = power;
      if ((k + 1) % kPowers<T> == 0) __syncwarp();
    });
    const double sum = team.fold(sums, AddDoubles{});
    const double log_sum = logarithm ? log(sum) : 0;
    const T scale = static_cast<T>(1 / sum);
    each_place<Kept>(team, n, rows.step[0], [&](int k, int64_t at, bool exists) {
      if (exists) to[at] = result(mine[k], mine[k], log_sum, scale);
    });
  } else {
    each_element<4>(team, n, [&](int j, int64_t i) {
      largest[j] = Larger{}(largest[j], in[i * rows.step[1]]);
    });
    const T top = team.fold(largest, Larger{});
    each_element<kPowers<T>>(team, n, [&](int j, int64_t i) {
      sums[j] += static_cast<double>(exp_of(in[i * rows.step[1]] - top));
    });
    const double sum = team.fold(sums, AddDoubles{});
    const double log_sum = logarithm ? log(sum) : 0;
    const T scale = static_cast<T>(1 / sum);
    each_element<kPowers<T>>(team, n, [&](int, int64_t i) {
      const T shifted = in[i * rows.step[1]] - top;
      to[i * rows.step[0]] = result(shifted, logarithm ? T(0) : exp_of(shifted), log_sum, scale);
    });
  }
}

/// What is kept is of g. y is operand 1, g is operand 2.
template <class Team, class Kept, class T>
__global__ void __launch_bounds__(Team::kThreads, (kResident<T, Kept>))
    softmax_grad_rows(bool logarithm, Rows rows, const T* __restrict__ y, const T* __restrict__ g,
                      T* __restrict__ out) {
  const Team team(rows.work.rows, 1);
  int64_t offset[3] = {};
  if (team.active) offsets_at(rows.kept, team.row, offset);
  const int64_t n = team.active ? rows.work.length : 0;
  double sums[Team::kStreams];
#pragma unroll
  for (int j = 0; j < Team::kStreams; ++j) sums[j] = 0;
  // By name: whether a compiler fuses could differ between the kernels for rows of one length.
  const auto add = [&](double& sum, T ct, T value) {
    sum = fma(static_cast<double>(ct), logarithm ? 1.0 : static_cast<double>(value), sum);
  };
  // The difference cancels where g is nearly constant, so it is taken in double.
  const auto result = [&](T ct, T value, double sum) {
    const auto wide = static_cast<double>(ct);
    return logarithm ? static_cast<T>(wide - static_cast<double>(exp_of(value)) * sum)
                     : value * static_cast<T>(wide - sum);
  };
  if constexpr (Kept::kCount > 0) {
    // y is read again rather than kept: both would spill, and it is still in the cache.
    T ct[Kept::kCount];
    const T* const first_y = y + offset[1] + team.first * rows.step[1];
    const T* from = g + offset[2] + team.first * rows.step[2];
    each_kept<Kept>(team, n, [&](int k, bool exists) {
      ct[k] = exists ? *from : T(0);
      from += Team::kStep * rows.step[2];
    });
    const T* values = first_y;
    each_kept<Kept>(team, n, [&](int k, bool exists) {
      if (exists) add(sums[0], ct[k], *values);
      values += Team::kStep * rows.step[1];
      if (k % 4 == 3) __syncwarp();  // more loads ahead of their use would spill
    });
    const double sum = team.fold(sums, AddDoubles{});
    values = first_y;
    T* at = out + offset[0] + team.first * rows.step[0];
    each_kept<Kept>(team, n, [&](int k, bool exists) {
      if (exists) *at = result(ct[k], *values, sum);
      values += Team::kStep * rows.step[1];
      at += Team::kStep * rows.step[0];
    });
  } else {
    const T* const cotangents = g + offset[2];
    const T* const values = y + offset[1];
    each_element<4>(team, n, [&](int j, int64_t i) {
      add(sums[j], cotangents[i * rows.step[2]], values[i * rows.step[1]]);
    });
    const double sum = team.fold(sums, AddDoubles{});
    each_element<kPowers<T>>(team, n, [&](int, int64_t i) {
      out[offset[0] + i * rows.step[0]] =
          result(cotangents[i * rows.step[2]], values[i * rows.step[1]], sum);
    });
  }
}

/// f(Team, Kept, grid, block) for the smallest number of kept elements that holds a row.
template <class F>
void with_keeping_team(const RowWork& work, F&& f) {
  with_team(work, [&](auto tag, dim3 grid, dim3 block) {
    using Team = typename decltype(tag)::type;
    const auto run = [&](auto kept) {
      if (work.length > kept.kCount * int64_t{Team::kStep}) return false;
      f(tag, kept, grid, block);
      return true;
    };
    if constexpr (std::is_same_v<Team, WarpTeam>) {
      if (!run(Kept<4>{}) && !run(Kept<8>{})) run(Kept<32>{});
    } else if constexpr (std::is_same_v<Team, BlockTeam>) {
      if (!run(Kept<16>{})) f(tag, Kept<0>{}, grid, block);
    } else {
      f(tag, Kept<0>{}, grid, block);
    }
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
    with_keeping_team(rows.work, [&](auto tag, auto kept, dim3 grid, dim3 block) {
      using Team = typename decltype(tag)::type;
      constexpr int count = decltype(kept)::kCount;
      const auto run = [&](auto kernel) {
        gpu::launch(kernel, grid, block, 0, gpu::default_stream(), logarithm, rows, x.as<const T>(),
                    out.as<T>());
      };
      const bool whole = count > 0 && rows.work.length == count * int64_t{Team::kStep} &&
                         rows.step[0] == 1 && rows.step[1] == 1;
      if (!whole) return run(softmax_rows<Team, Kept<count>, T>);
      run(softmax_rows<Team, Kept<count, (count > 0)>, T>);
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
    with_keeping_team(rows.work, [&](auto tag, auto kept, dim3 grid, dim3 block) {
      using Team = typename decltype(tag)::type;
      gpu::launch(softmax_grad_rows<Team, decltype(kept), T>, grid, block, 0, gpu::default_stream(),
                  logarithm, rows, y.as<const T>(), g.as<const T>(), out.as<T>());
    });
  });
}

}  // namespace flowgrad::kernels
