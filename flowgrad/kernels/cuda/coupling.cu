#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/row_lanes.cuh"
#include "flowgrad/kernels/functions.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

constexpr unsigned kThreads = 256;

template <class T>
struct Rows {
  const T *z, *scale, *shift, *mask;
  int64_t n, d;
  T bound;
  bool inverse;
  int lanes;  // of one row

  /// Signed log-scale of an element that moves, its exponential, its derivative by the net's
  /// output.
  struct LogScale {
    T value, factor, slope;
  };
  GPU_INLINE LogScale log_scale(int64_t i) const {
    T s = scale[i];
    T slope = 1;
    if (bound != T(0)) {
      const T h = tanh(s / bound);
      s = bound * h;
      slope = fma(-h, h, T(1));
    }
    if (inverse) {
      s = -s;
      slope = -slope;
    }
    return {s, exp(s), slope};
  }
};

template <class T>
Rows<T> rows_of(const Coupling& c, View z) {
  const int64_t d = (*z.shape)[1];
  return {z.as<const T>(),         c.scale.as<const T>(),
          c.shift.as<const T>(),   c.mask.as<const T>(),
          (*z.shape)[0],           d,
          static_cast<T>(c.bound), c.inverse,
          lanes_of_row(d, 1)};
}

template <class T>
unsigned blocks_of(const Rows<T>& rows) {
  return gpu::blocks_for(static_cast<std::size_t>(rows.n * rows.lanes), kThreads);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    move_rows(const __grid_constant__ Rows<T> rows, T* __restrict__ out, T* __restrict__ log_det) {
  const RowLane at(rows.lanes);
  double sum = 0;
  if (at.row < rows.n) {
    for (int64_t j = at.lane; j < rows.d; j += rows.lanes) {
      const int64_t i = at.row * rows.d + j;
      const T z = rows.z[i];
      T x = z;
      if (rows.mask[j] == T(0)) {
        const auto s = rows.log_scale(i);
        const T shift = rows.shift[i];
        x = rows.inverse ? (z - shift) * s.factor : fma(z, s.factor, shift);
        sum += static_cast<double>(s.value);
      }
      out[i] = x;
    }
  }
  sum = sum_of_row(sum, rows.lanes);
  if (at.row < rows.n && at.lane == 0) log_det[at.row] = static_cast<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    move_rows_grad(const __grid_constant__ Rows<T> rows, const T* __restrict__ g,
                   const T* __restrict__ g_log_det, T* __restrict__ g_z, T* __restrict__ g_scale,
                   T* __restrict__ g_shift) {
  const RowLane at(rows.lanes);
  if (at.row >= rows.n) return;
  const T to_row = g_log_det[at.row];
  for (int64_t j = at.lane; j < rows.d; j += rows.lanes) {
    const int64_t i = at.row * rows.d + j;
    const T given = g[i];
    T to_z = given;
    T to_scale = 0;
    T to_shift = 0;
    if (rows.mask[j] == T(0)) {
      const auto s = rows.log_scale(i);
      to_z = scalar::mul_zero(given, s.factor);
      const T from = rows.inverse ? rows.z[i] - rows.shift[i] : rows.z[i];
      to_scale = (scalar::mul_zero(to_z, from) + to_row) * s.slope;
      to_shift = rows.inverse ? -to_z : given;
    }
    g_z[i] = to_z;
    g_scale[i] = to_scale;
    g_shift[i] = to_shift;
  }
}

}  // namespace

void CudaBackend::coupling(const Coupling& c, View z, View out, View log_det) {
  visit_floating("coupling", z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Rows<T> rows = rows_of<T>(c, z);
    if (rows.n == 0) return;
    gpu::launch(move_rows<T>, blocks_of(rows), kThreads, 0, gpu::default_stream(), rows,
                out.as<T>(), log_det.as<T>());
  });
}

void CudaBackend::coupling_grad(const Coupling& c, View z, View g, View g_log_det, View g_z,
                                View g_scale, View g_shift) {
  visit_floating("coupling_grad", z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Rows<T> rows = rows_of<T>(c, z);
    if (rows.n * rows.d == 0) return;
    gpu::launch(move_rows_grad<T>, blocks_of(rows), kThreads, 0, gpu::default_stream(), rows,
                g.as<const T>(), g_log_det.as<const T>(), g_z.as<T>(), g_scale.as<T>(),
                g_shift.as<T>());
  });
}

}  // namespace flowgrad::kernels
