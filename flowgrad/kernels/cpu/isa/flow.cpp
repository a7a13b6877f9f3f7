// Layers of discrete flows: affine couplings along their elements, planar stacks with a row in
// every lane. The last elements and rows go through the same instructions as the rest.

#include "flowgrad/kernels/cpu/isa/math.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::CouplingRun;
using cpu::FlowTable;
using cpu::FlowTables;
using cpu::PlanarLayers;
using std::int64_t;

/// Signed log-scale of an element, its derivative by the net's output, and its exponential. What is
/// masked becomes 0 before anything is computed from it.
template <class T>
struct Scaled {
  vec<T> log_scale, slope, factor;
};
template <class T>
FG_INLINE Scaled<T> scaled(vec<T> scale, mask<T, kLanes<T>> active, T bound, T sign) {
  using V = vec<T>;
  const V raw = select(active, scale, V(0));
  V value = raw, slope(1);
  if (bound != T(0)) {
    const V h = tanh(raw * V(T(1) / bound));
    value = V(bound) * h;
    slope = fma(-h, h, V(1));
  }
  const V s = V(sign) * value;
  return {s, V(sign) * slope, exp(s)};
}

template <class T>
void coupling(const CouplingRun<T>& run, T* out, T* log_scale) {
  using V = vec<T>;
  for_registers<V::size>(
      run.n, [&](int64_t i, auto count) __attribute__((always_inline)) {
        const auto active = take(run.mask + i, count) == V(0);
        const auto s =
            scaled(take(run.scale + i, count), active, run.bound, run.inverse ? T(-1) : T(1));
        const V z = take(run.z + i, count), shift = take(run.shift + i, count);
        const V moved = run.inverse ? (z - shift) * s.factor : fma(z, s.factor, shift);
        put(select(active, moved, z), out + i, count);
        put(s.log_scale, log_scale + i, count);
      });
}

template <class T>
void coupling_grad(const CouplingRun<T>& run, const T* g, const T* g_log_det, T* g_z, T* g_scale,
                   T* g_shift) {
  using V = vec<T>;
  for_registers<V::size>(
      run.n, [&](int64_t i, auto count) __attribute__((always_inline)) {
        const auto active = take(run.mask + i, count) == V(0);
        const auto s =
            scaled(take(run.scale + i, count), active, run.bound, run.inverse ? T(-1) : T(1));
        const V z = take(run.z + i, count), given = take(g + i, count);
        const V from = run.inverse ? z - take(run.shift + i, count) : z;
        const V to_z = mul_zero(given, s.factor);
        const V to_s = (mul_zero(to_z, from) + take(g_log_det + i, count)) * s.slope;
        put(select(active, to_z, given), g_z + i, count);
        put(select(active, to_s, V(0)), g_scale + i, count);
        put(select(active, run.inverse ? -to_z : given, V(0)), g_shift + i, count);
      });
}

/// tanh of the root of s + k tanh(s) = c, see kernels::planar_root. A lane that has arrived stays
/// where it is, so a root does not depend on its neighbours.
template <int N>
FG_INLINE vec<double, N> tanh_of_root(vec<double, N> c, double k) {
  using V = vec<double, N>;
  // Infinite, NaN and 0 stay as they are.
  V s = k > 0 ? select(c - c == V(0), V(0), c)
              : select(c == V(0), c, c + copysign(V(__builtin_fabs(k)), c));
  V h = tanh(s);
  for (int step = 0; step < 60; ++step) {
    const V kh = V(k) * h, residual = s + kh - c;
    const V rounding = V(0x1p-52) * (abs(s) + abs(kh) + abs(c));
    const V slope = V(1) + V(k) * (V(1) - h * h);
    const auto moves = (abs(residual) > rounding) & (slope > V(0));
    if (!any(moves)) break;
    s = select(moves, s - residual / slope, s);
    h = tanh(s);
  }
  return h;
}
template <int N>
FG_INLINE vec<float, N> tanh_of_root(vec<float, N> c, double k) {
  const auto halves = widen(c);
  return narrow<N>(tanh_of_root(halves.low, k), tanh_of_root(halves.high, k));
}

/// tile[j * lanes + lane] = x[lane * dims + j], zeros beyond the rows; and back.
template <class T>
FG_INLINE void to_lanes(const T* x, int rows, int64_t dims, T* tile) {
  constexpr int W = kLanes<T>;
  for (int64_t j = 0; j < dims && rows < W; ++j) vec<T>(0).store(tile + j * W);
  for (int r = 0; r < rows; ++r)
    for (int64_t j = 0; j < dims; ++j) tile[j * W + r] = x[r * dims + j];
}
template <class T>
FG_INLINE void from_lanes(const T* tile, int rows, int64_t dims, T* x) {
  constexpr int W = kLanes<T>;
  for (int r = 0; r < rows; ++r)
    for (int64_t j = 0; j < dims; ++j) x[r * dims + j] = tile[j * W + r];
}

template <class T>
FG_INLINE vec<T> dot(const T* weights, const T* tile, int64_t dims, vec<T> sum) {
  using V = vec<T>;
  for (int64_t j = 0; j < dims; ++j) sum = fma(V(weights[j]), V::load(tile + j * V::size), sum);
  return sum;
}

template <class T>
void planar(const PlanarLayers<T>& p, const T* z, int rows, T* out, T* log_det, T* heights,
            int64_t stride, T* scratch) {
  using V = vec<T>;
  constexpr int W = V::size;
  const V sign(p.inverse ? T(-1) : T(1));
  to_lanes(z, rows, p.dims, scratch);
  V sum(0);
  for (int64_t step = 0; step < p.layers; ++step) {
    const int64_t i = p.inverse ? p.layers - 1 - step : step;
    const V a = dot(p.w + i * p.dims, scratch, p.dims, V(p.b[i]));
    const T margin = p.margin[i];
    const V h = p.inverse ? tanh_of_root(a, static_cast<double>(margin) - 1) : tanh(a);
    const V moved = sign * h;
    for (int64_t j = 0; j < p.dims; ++j) {
      T* const at = scratch + j * W;
      fma(moved, V(p.u[i * p.dims + j]), V::load(at)).store(at);
    }
    sum = fma(sign, log(fma(fma(-h, h, V(1)), V(margin), h * h)), sum);
    if (heights != nullptr) h.store(heights + i * stride, rows);
  }
  from_lanes(scratch, rows, p.dims, out);
  sum.store(log_det, rows);
}

/// The formulas are those of ReferenceBackend::planar_grad.
template <class T>
void planar_grad(const PlanarLayers<T>& p, const T* z, const T* heights, int64_t stride, const T* g,
                 const T* g_log_det, int rows, T* g_z, T* sums, T* scratch) {
  using V = vec<T>;
  constexpr int W = V::size;
  const int64_t d = p.dims;
  const V sign(p.inverse ? T(-1) : T(1));
  const auto layer = [&](int64_t step) { return p.inverse ? p.layers - 1 - step : step; };
  // Where there is no row, 1: all of the layer's cotangents are 0 then.
  T edge[W];
  const auto height = [&](int64_t i) __attribute__((always_inline)) {
    if (rows == W) return V::load(heights + i * stride);
    for (int r = 0; r < W; ++r) edge[r] = r < rows ? heights[i * stride + r] : T(1);
    return V::load(edge);
  };
  T* const gx = scratch + p.layers * d * W;
  to_lanes(z, rows, d, scratch);
  to_lanes(g, rows, d, gx);
  for (int64_t step = 0; step + 1 < p.layers; ++step) {
    const T* const from = scratch + step * d * W;
    T* const to = scratch + (step + 1) * d * W;
    const V moved = sign * height(layer(step));
    for (int64_t j = 0; j < d; ++j)
      fma(moved, V(p.u[layer(step) * d + j]), V::load(from + j * W)).store(to + j * W);
  }
  const V gl = V::load(g_log_det, rows);
  for (int64_t step = p.layers - 1; step >= 0; --step) {
    const int64_t i = layer(step);
    const T *const w = p.w + i * d, *const u = p.u + i * d, *const x = scratch + step * d * W;
    T* const to_w = sums + i * (2 * d + 2) * W;
    T* const to_u = to_w + d * W;
    T* const to_b = to_u + d * W;
    T* const to_margin = to_b + W;
    const V h = height(i), q = fma(-h, h, V(1)), m(p.margin[i]), f = fma(q, m, h * h);
    const V share = gl / f;
    const V to_h = sign * fma(V(2) * h * (V(1) - m), share, dot(u, gx, d, V(0)));
    const V to_a = p.inverse ? to_h * q / f : to_h * q;
    const V by_det = sign * q * share;
    (V::load(to_margin) + (p.inverse ? fma(-to_a, h, by_det) : by_det)).store(to_margin);
    (V::load(to_b) + to_a).store(to_b);
    const V moved = sign * h;
    for (int64_t j = 0; j < d; ++j) {
      const V given = V::load(gx + j * W);
      fma(to_a, V::load(x + j * W), V::load(to_w + j * W)).store(to_w + j * W);
      fma(moved, given, V::load(to_u + j * W)).store(to_u + j * W);
      fma(to_a, V(w[j]), given).store(gx + j * W);
    }
  }
  from_lanes(gx, rows, d, g_z);
}

template <class T>
constexpr FlowTable<T> table_of() {
  return {kLanes<T>, &coupling<T>, &coupling_grad<T>, &planar<T>, &planar_grad<T>};
}

}  // namespace

extern const FlowTables flow_tables;
const FlowTables flow_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
