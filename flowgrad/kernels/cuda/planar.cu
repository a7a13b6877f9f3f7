#include <algorithm>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/row_lanes.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/planar_root.h"

// A planar stack in one launch. A row belongs to a few lanes, kEach elements to each, which stay in
// registers through all layers; the weights lie in shared memory. What the gradient sums over rows
// goes by shuffles over a warp's rows, over a block's warps and over the blocks in order.

namespace flowgrad::kernels {

using namespace cuda;

namespace {

constexpr int kWarps = 8;
constexpr int kMostEach = 8;
constexpr int kMostLayers = 4096;
constexpr int64_t kMostBlocks = 264;  // two for each multiprocessor of a large device

template <class T>
struct Stack {
  const T *w, *b, *u, *margin;
  int64_t n;  // rows
  int layers, dims;
  int lanes;   // of one row
  int padded;  // dims, to all lanes' elements; what is added are zeros
  bool inverse;

  GPU_INLINE int layer(int step) const { return inverse ? layers - 1 - step : step; }
  GPU_INLINE T sign() const { return inverse ? T(-1) : T(1); }
  /// Elements of the weights in shared memory, and of one set of their gradients.
  __host__ __device__ int elements() const { return layers * (2 * padded + 2); }
};

int each_of(int64_t d, int lanes) {
  int each = 2;
  while (int64_t{each} * lanes < d) each *= 2;
  return each;
}

template <class T>
Stack<T> stack_of(const PlanarStack& p, int64_t n) {
  Stack<T> s;
  s.w = p.w.as<const T>();
  s.b = p.b.as<const T>();
  s.u = p.u.as<const T>();
  s.margin = p.margin.as<const T>();
  s.n = n;
  s.layers = static_cast<int>((*p.w.shape)[0]);
  s.dims = static_cast<int>((*p.w.shape)[1]);
  s.lanes = lanes_of_row(s.dims, 2);
  s.padded = s.lanes * each_of(s.dims, s.lanes);
  s.inverse = p.inverse;
  return s;
}

/// Places in shared memory: w, u (K, padded), b, margin (K).
template <class T>
struct Weights {
  const T *w, *u, *b, *margin;

  /// All threads of the block bring them; ends with a barrier.
  GPU_INLINE Weights(const Stack<T>& s, T* shared) {
    T* const to_w = shared;
    T* const to_u = to_w + s.layers * s.padded;
    T* const to_b = to_u + s.layers * s.padded;
    T* const to_margin = to_b + s.layers;
    const int first = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    for (int i = first; i < s.layers * s.padded; i += threads) {
      const int j = i % s.padded;
      const int from = i / s.padded * s.dims + j;
      to_w[i] = j < s.dims ? s.w[from] : T(0);
      to_u[i] = j < s.dims ? s.u[from] : T(0);
    }
    for (int i = first; i < s.layers; i += threads) {
      to_b[i] = s.b[i];
      to_margin[i] = s.margin[i];
    }
    w = to_w;
    u = to_u;
    b = to_b;
    margin = to_margin;
    __syncthreads();
  }
};

/// A row's elements in its lanes: number lane + e * lanes in place e.
template <class T, int kEach>
struct Elements {
  T v[kEach];

  GPU_INLINE void load(const Stack<T>& s, const T* rows, int64_t row, int lane) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int j = lane + e * s.lanes;
      v[e] = row < s.n && j < s.dims ? rows[row * s.dims + j] : T(0);
    }
  }
  GPU_INLINE void store(const Stack<T>& s, T* rows, int64_t row, int lane) const {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int j = lane + e * s.lanes;
      if (row < s.n && j < s.dims) rows[row * s.dims + j] = v[e];
    }
  }
  GPU_INLINE T dot(const Stack<T>& s, const T* weights, int lane) const {
    T sum = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) sum = fma(weights[lane + e * s.lanes], v[e], sum);
    return sum_of_row(sum, s.lanes);
  }
  GPU_INLINE void add(const Stack<T>& s, T factor, const T* weights, int lane) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) v[e] = fma(factor, weights[lane + e * s.lanes], v[e]);
  }
};

template <class T, int kEach>
__global__ void __launch_bounds__(kWarps * 32)
    stack_rows(const __grid_constant__ Stack<T> s, const T* __restrict__ z, T* __restrict__ out,
               T* __restrict__ log_det, T* __restrict__ heights) {
  GPU_DYN_SHARED(T, shared);
  const Weights<T> p(s, shared);
  const RowLane at(s.lanes);
  Elements<T, kEach> x;
  x.load(s, z, at.row, at.lane);
  T sum = 0;
  for (int step = 0; step < s.layers; ++step) {
    const int i = s.layer(step);
    const T m = p.margin[i];
    const T a = x.dot(s, p.w + i * s.padded, at.lane) + p.b[i];
    T h;
    if (s.inverse) {
      h = static_cast<T>(tanh(planar_root(static_cast<double>(a), static_cast<double>(m) - 1)));
    } else {
      h = tanh(a);
    }
    x.add(s, s.sign() * h, p.u + i * s.padded, at.lane);
    sum += s.sign() * log(fma(fma(-h, h, T(1)), m, h * h));
    if (heights != nullptr && at.row < s.n && at.lane == 0) heights[i * s.n + at.row] = h;
  }
  x.store(s, out, at.row, at.lane);
  if (at.row < s.n && at.lane == 0) log_det[at.row] = sum;
}

template <class T>
struct Cotangents {
  const T *z, *heights, *g, *g_log_det;
  T* g_z;
  T* shares;  // (blocks, elements of the gradients)
};

/// The formulas are those of ReferenceBackend::planar_grad. Shared memory: the weights; each warp's
/// sums, as the weights lie; every layer's input of the rows at hand.
template <class T, int kEach>
__global__ void __launch_bounds__(kWarps * 32)
    stack_rows_grad(const __grid_constant__ Stack<T> s, const __grid_constant__ Cotangents<T> c,
                    int64_t tiles) {
  GPU_DYN_SHARED(T, shared);
  const int elements = s.elements();
  const int threads = static_cast<int>(blockDim.x);
  const int warps = threads / 32;
  const int first = static_cast<int>(threadIdx.x);
  T* const all_sums = shared + elements;
  for (int i = first; i < warps * elements; i += threads) all_sums[i] = 0;
  const Weights<T> p(s, shared);
  T* const sums = all_sums + first / 32 * elements;
  T* const inputs = all_sums + warps * elements + first;
  const int rows = threads / s.lanes;  // of a tile
  const int lane = first & (s.lanes - 1);
  const bool keeps = first % 32 < s.lanes;  // a warp's sums over rows
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t row = tile * rows + first / s.lanes;
    const bool inside = row < s.n;
    // Where there is no row, 1: all of the layer's cotangents are 0 then.
    const auto height = [&](int i) { return inside ? c.heights[i * s.n + row] : T(1); };
    Elements<T, kEach> x;
    x.load(s, c.z, row, lane);
    for (int step = 0; step < s.layers; ++step) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) inputs[(step * kEach + e) * threads] = x.v[e];
      const int i = s.layer(step);
      x.add(s, s.sign() * height(i), p.u + i * s.padded, lane);
    }
    Elements<T, kEach> g;
    g.load(s, c.g, row, lane);
    const T to_log_det = inside ? c.g_log_det[row] : T(0);
    for (int step = s.layers - 1; step >= 0; --step) {
      const int i = s.layer(step);
      const T h = height(i);
      const T q = fma(-h, h, T(1));
      const T m = p.margin[i];
      const T f = fma(q, m, h * h);
      const T share = to_log_det / f;
      const T along = g.dot(s, p.u + i * s.padded, lane);
      const T to_h = s.sign() * fma(T(2) * h * (T(1) - m), share, along);
      const T to_a = s.inverse ? to_h * q / f : to_h * q;
      T to_margin = s.sign() * q * share;
      if (s.inverse) to_margin = fma(-to_a, h, to_margin);
      const T moved = s.sign() * h;
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        const int j = i * s.padded + lane + e * s.lanes;
        const T to_w = sum_over_rows(to_a * inputs[(step * kEach + e) * threads], s.lanes);
        const T to_u = sum_over_rows(moved * g.v[e], s.lanes);
        if (keeps) {
          sums[j] += to_w;
          sums[s.layers * s.padded + j] += to_u;
        }
      }
      const T all_a = sum_over_rows(to_a, s.lanes);
      const T all_margin = sum_over_rows(to_margin, s.lanes);
      if (first % 32 == 0) {
        T* const behind = sums + 2 * s.layers * s.padded;
        behind[i] += all_a;
        behind[s.layers + i] += all_margin;
      }
      g.add(s, to_a, p.w + i * s.padded, lane);
    }
    g.store(s, c.g_z, row, lane);
  }
  __syncthreads();
  for (int i = first; i < elements; i += threads) {
    T sum = all_sums[i];
    for (int w = 1; w < warps; ++w) sum += all_sums[w * elements + i];
    c.shares[static_cast<int64_t>(blockIdx.x) * elements + i] = sum;
  }
}

/// One thread adds the blocks' shares of one weight, in their order. Out: w, b, u, margin.
template <class T>
__global__ void add_shares(const __grid_constant__ Stack<T> s, const T* __restrict__ shares,
                           int blocks, T* __restrict__ out) {
  const int n = s.layers * s.dims;
  const int item = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (item >= 2 * (n + s.layers)) return;
  const bool second = item >= n + s.layers;  // u and margin
  const int at = second ? item - n - s.layers : item;
  const int matrix = s.layers * s.padded;
  const int element = at < n ? (second ? matrix : 0) + at / s.dims * s.padded + at % s.dims
                             : 2 * matrix + (second ? s.layers : 0) + at - n;
  double sum = 0;
  for (int b = 0; b < blocks; ++b) {
    sum += static_cast<double>(shares[static_cast<int64_t>(b) * s.elements() + element]);
  }
  out[item] = static_cast<T>(sum);
}

template <class T>
std::size_t grad_bytes(const Stack<T>& s, int warps) {
  const int inputs = s.layers * (s.padded / s.lanes) * 32;
  return static_cast<std::size_t>(s.elements() * (1 + warps) + inputs * warps) * sizeof(T);
}

std::size_t shared_limit() {
  static const std::size_t bytes = gpu::device_info(0).shared_bytes_per_block;
  return bytes;
}

/// run(an integral constant of the elements to a lane).
template <class T, class Run>
void with_each(const Stack<T>& s, Run&& run) {
  const int each = s.padded / s.lanes;
  if (each == 2) return run(std::integral_constant<int, 2>());
  if (each == 4) return run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, kMostEach>());
}

}  // namespace

bool CudaBackend::has_planar(const PlanarStack& p) const {
  const int64_t layers = (*p.w.shape)[0];
  const int64_t dims = (*p.w.shape)[1];
  if (layers < 1 || dims < 1 || layers > kMostLayers || dims > 32 * kMostEach) return false;
  if (p.w.dtype == DType::float32) return grad_bytes(stack_of<float>(p, 1), 1) <= shared_limit();
  return p.w.dtype == DType::float64 && grad_bytes(stack_of<double>(p, 1), 1) <= shared_limit();
}

void CudaBackend::planar(const PlanarStack& stack, View z, View out, View log_det, View heights) {
  visit_floating("planar", z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Stack<T> s = stack_of<T>(stack, (*z.shape)[0]);
    if (s.n == 0) return;
    constexpr unsigned kThreads = kWarps * 32;
    with_each(s, [&](auto each) {
      gpu::launch(stack_rows<T, decltype(each)::value>,
                  gpu::blocks_for(static_cast<std::size_t>(s.n * s.lanes), kThreads), kThreads,
                  static_cast<std::size_t>(s.elements()) * sizeof(T), gpu::default_stream(), s,
                  z.as<const T>(), out.as<T>(), log_det.as<T>(), heights.as<T>());
    });
  });
}

void CudaBackend::planar_grad(const PlanarStack& stack, View z, View heights, View g,
                              View g_log_det, View g_z, View g_weights) {
  visit_floating("planar_grad", z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Stack<T> s = stack_of<T>(stack, (*z.shape)[0]);
    if (s.n == 0) return fill(g_weights, 0);
    int warps = kWarps;
    while (warps > 1 && grad_bytes(s, warps) > shared_limit()) warps /= 2;
    const unsigned threads = static_cast<unsigned>(warps) * 32;
    const auto rows = static_cast<int64_t>(threads) / s.lanes;
    const int64_t tiles = (s.n + rows - 1) / rows;
    const auto blocks = static_cast<unsigned>(std::min(tiles, kMostBlocks));
    const Scratch shares(static_cast<std::size_t>(s.elements()) * blocks * sizeof(T));
    const Cotangents<T> c{z.as<const T>(),         heights.as<const T>(), g.as<const T>(),
                          g_log_det.as<const T>(), g_z.as<T>(),           shares.as<T>()};
    with_each(s, [&](auto each) {
      gpu::launch(stack_rows_grad<T, decltype(each)::value>, blocks, threads, grad_bytes(s, warps),
                  gpu::default_stream(), s, c, tiles);
    });
    constexpr unsigned kBlock = 128;
    gpu::launch(add_shares<T>, gpu::blocks_for(static_cast<std::size_t>(g_weights.numel()), kBlock),
                kBlock, 0, gpu::default_stream(), s, shares.as<const T>(), static_cast<int>(blocks),
                g_weights.as<T>());
  });
}

}  // namespace flowgrad::kernels
