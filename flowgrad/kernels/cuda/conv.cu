#include <algorithm>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/divisor.cuh"
#include "flowgrad/kernels/cuda/matmul_tile.cuh"
#include "flowgrad/kernels/cuda/scratch.h"

// Convolutions as matrix products whose operands are read where they lie: a block computes one tile
// of a product, and what a problem below says of its operands' elements goes through shared memory.
namespace flowgrad::kernels {

using namespace cuda;

namespace {

constexpr int kTile = 64, kDepth = 16, kEdge = 4, kThreads = (kTile / kEdge) * (kTile / kEdge);
/// Pixels that one block sums for the gradient of the weights, and most such sums.
constexpr int64_t kLeastChunk = 4096, kMostChunks = 64;

/// How the window lies along an axis.
struct Steps {
  int stride, padding, dilation;
};

/// Sizes; channels and outputs are those of one group. by_...: what indices are divided by.
struct Sizes {
  int images, groups, channels, height, width, outputs, out_height, out_width;
  int kernel_height, kernel_width;
  Steps along_y, along_x;
  Divisor by_out_width{}, by_out_plane{}, by_kernel_width{}, by_taps{}, by_stride_y{},
      by_stride_x{};
  GPU_INLINE int plane() const { return height * width; }
  GPU_INLINE int out_plane() const { return out_height * out_width; }
  GPU_INLINE int taps() const { return kernel_height * kernel_width; }
};

Sizes sizes_of(const Convolution& c, const View& x, const View& weight, const View& out) {
  const auto at = [](const View& v, int axis) { return static_cast<int>((*v.shape)[axis]); };
  const auto of = [](int64_t n) { return static_cast<int>(n); };
  const auto along = [&](int axis) {
    return Steps{of(c.stride[axis]), of(c.padding[axis]), of(c.dilation[axis])};
  };
  Sizes s = {at(x, 0),      of(c.groups), at(weight, 1),
             at(x, 2),      at(x, 3),     at(weight, 0) / of(c.groups),
             at(out, 2),    at(out, 3),   at(weight, 2),
             at(weight, 3), along(0),     along(1)};
  const auto by = [](int n) { return Divisor(static_cast<uint32_t>(n)); };
  s.by_out_width = by(s.out_width);
  s.by_out_plane = by(s.out_plane());
  s.by_kernel_width = by(s.kernel_width);
  s.by_taps = by(s.taps());
  s.by_stride_y = by(s.along_y.stride);
  s.by_stride_x = by(s.along_x.stride);
  return s;
}

/// An image's element under tap (i, j) of the window at `pixel` of the output; 0 outside of it.
template <class T>
GPU_INLINE T seen(const Sizes& s, const T* plane, int pixel, int tap) {
  const auto place = [](const Steps& along, int window, int i) {
    return window * along.stride + i * along.dilation - along.padding;
  };
  const auto window = s.by_out_width.split(pixel), inside = s.by_kernel_width.split(tap);
  const int y = place(s.along_y, window.quotient, inside.quotient);
  const int x = place(s.along_x, window.rest, inside.rest);
  return y >= 0 && y < s.height && x >= 0 && x < s.width ? plane[y * s.width + x] : T(0);
}

/// out = weight (outputs, channels and taps) times windows (channels and taps, pixels).
template <class T>
struct Forward {
  Sizes s;
  const T *x, *weight, *bias;
  T* out;

  int m() const { return s.outputs; }
  int64_t most_n() const { return int64_t{s.out_height} * s.out_width; }
  int64_t batch() const { return int64_t{s.images} * s.groups; }

  struct Entry {
    int m, n, k;
    const T *x, *weight, *bias;
    T* out;
  };
  GPU_INLINE Entry entry(int64_t z) const {
    const int group = static_cast<int>(z % s.groups), depth = s.channels * s.taps();
    return {s.outputs,
            s.out_plane(),
            depth,
            x + z * s.channels * s.plane(),
            weight + int64_t{group} * s.outputs * depth,
            bias == nullptr ? nullptr : bias + group * s.outputs,
            out + z * s.outputs * s.out_plane()};
  }
  GPU_INLINE T a(const Entry& e, int i, int k) const { return e.weight[i * e.k + k]; }
  GPU_INLINE T b(const Entry& e, int k, int j) const {
    const auto place = s.by_taps.split(k);
    return seen(s, e.x + place.quotient * s.plane(), j, place.rest);
  }
  GPU_INLINE void put(const Entry& e, int i, int j, T sum) const {
    e.out[i * e.n + j] = e.bias == nullptr ? sum : sum + e.bias[i];
  }
};

/// Along an axis: the input pixels of one phase of the stride, first + i * stride, and the taps
/// that reach them, tap + i * step.
struct Phase {
  int first, pixels, tap, step, taps;
  GPU_INLINE Phase(const Steps& s, int size, int kernel, int phase) {
    first = (phase + s.stride - s.padding % s.stride) % s.stride;
    pixels = first < size ? (size - first + s.stride - 1) / s.stride : 0;
    tap = step = taps = 0;
    for (int i = 0; i < kernel; ++i) {
      if (i * s.dilation % s.stride != phase) continue;
      if (taps == 0) tap = i;
      if (taps == 1) step = i - tap;
      ++taps;
    }
  }
};

/// Gradient of x for every phase: weight (channels, outputs and taps) times windows of g.
template <class T>
struct GradientOfX {
  Sizes s;
  const T *g, *weight;
  T* to;

  int m() const { return s.channels; }
  int64_t most_n() const {
    const auto most = [](int size, int stride) { return int64_t{(size + stride - 1) / stride}; };
    return most(s.height, s.along_y.stride) * most(s.width, s.along_x.stride);
  }
  int64_t batch() const { return int64_t{s.images} * s.groups * phases(); }
  GPU_INLINE int phases() const { return s.along_y.stride * s.along_x.stride; }

  struct Entry {
    int m, n, k;
    Phase y, x;
    Divisor by_taps, by_x_taps;
    const T *g, *weight;
    T* to;
  };
  GPU_INLINE Entry entry(int64_t z) const {
    const int phase = static_cast<int>(z % phases());
    const int64_t image_and_group = z / phases();
    const Phase y(s.along_y, s.height, s.kernel_height, phase / s.along_x.stride);
    const Phase x(s.along_x, s.width, s.kernel_width, phase % s.along_x.stride);
    return {s.channels,
            y.pixels * x.pixels,
            s.outputs * y.taps * x.taps,
            y,
            x,
            Divisor(static_cast<uint32_t>(y.taps * x.taps)),
            Divisor(static_cast<uint32_t>(x.taps)),
            g + image_and_group * s.outputs * s.out_plane(),
            weight + image_and_group % s.groups * s.outputs * s.channels * s.taps(),
            to + image_and_group * s.channels * s.plane()};
  }
  /// A row of the product: an output of the convolution and a tap of the window.
  struct Row {
    int output, y, x;
  };
  GPU_INLINE Row row(const Entry& e, int k) const {
    const auto tap = e.by_taps.split(k), place = e.by_x_taps.split(tap.rest);
    return {tap.quotient, e.y.tap + place.quotient * e.y.step, e.x.tap + place.rest * e.x.step};
  }
  GPU_INLINE T a(const Entry& e, int i, int k) const {
    const Row from = row(e, k);
    return e.weight[(from.output * s.channels + i) * s.taps() + from.y * s.kernel_width + from.x];
  }
  GPU_INLINE T b(const Entry& e, int k, int j) const {
    const Row from = row(e, k);
    // Multiples of the stride, by the choice of taps.
    const Steps &along_y = s.along_y, &along_x = s.along_x;
    const int y = row_of(e, j) + along_y.padding - from.y * along_y.dilation;
    const int x = column_of(e, j) + along_x.padding - from.x * along_x.dilation;
    if (y < 0 || y >= s.out_height * along_y.stride || x < 0 || x >= s.out_width * along_x.stride)
      return T(0);
    return e.g[from.output * s.out_plane() + s.by_stride_y.split(y).quotient * s.out_width +
               s.by_stride_x.split(x).quotient];
  }
  GPU_INLINE void put(const Entry& e, int i, int j, T sum) const {
    e.to[i * s.plane() + row_of(e, j) * s.width + column_of(e, j)] = sum;
  }
  /// Where in x the pixel j of a phase is.
  GPU_INLINE int row_of(const Entry& e, int j) const {
    return e.y.first + j / e.x.pixels * s.along_y.stride;
  }
  GPU_INLINE int column_of(const Entry& e, int j) const {
    return e.x.first + j % e.x.pixels * s.along_x.stride;
  }
};

/// Gradient of the weights: g (outputs, pixels) times windows (pixels, channels and taps), summed
/// over one chunk of all images' pixels.
template <class T>
struct GradientOfWeight {
  Sizes s;
  const T *x, *g;
  T* to;
  int64_t chunk, chunks;

  int m() const { return s.outputs; }
  int64_t most_n() const { return int64_t{s.channels} * s.taps(); }
  int64_t batch() const { return s.groups * chunks; }

  struct Entry {
    int m, n, k, pixel;  // of the first image, where the chunk begins
    const T *x, *g;      // the first image's
    T* to;
  };
  GPU_INLINE Entry entry(int64_t z) const {
    const int64_t group = z % s.groups, first = z / s.groups * chunk;
    const int64_t left = int64_t{s.images} * s.out_plane() - first;
    const int depth = s.channels * s.taps();
    const int64_t image = first / s.by_out_plane.value, planes = image * s.groups + group;
    return {s.outputs,
            depth,
            static_cast<int>(left < chunk ? left : chunk),
            static_cast<int>(first - image * s.out_plane()),
            x + planes * s.channels * s.plane(),
            g + planes * s.outputs * s.out_plane(),
            to + z * s.outputs * depth};
  }
  GPU_INLINE T a(const Entry& e, int i, int k) const {
    const auto at = s.by_out_plane.split(e.pixel + k);
    return e.g[(int64_t{at.quotient} * s.groups * s.outputs + i) * s.out_plane() + at.rest];
  }
  GPU_INLINE T b(const Entry& e, int k, int j) const {
    const auto at = s.by_out_plane.split(e.pixel + k), place = s.by_taps.split(j);
    const int64_t plane = int64_t{at.quotient} * s.groups * s.channels + place.quotient;
    return seen(s, e.x + plane * s.plane(), at.rest, place.rest);
  }
  GPU_INLINE void put(const Entry& e, int i, int j, T sum) const { e.to[i * e.n + j] = sum; }
};

/// Block x holds one entry of the batch and one tile of its columns, block y one of its rows.
template <class T, class Problem>
__global__ void __launch_bounds__(kThreads)
    convolve(const __grid_constant__ Problem problem, int column_tiles) {
  GPU_SHARED(T, a, [kDepth][kTile + 1]);
  GPU_SHARED(T, b, [kDepth][kTile]);
  const int thread = static_cast<int>(threadIdx.x);
  const auto e = problem.entry(static_cast<int64_t>(blockIdx.x) / column_tiles);
  const int row0 = static_cast<int>(blockIdx.y) * kTile;
  const int column0 = static_cast<int>(blockIdx.x) % column_tiles * kTile;
  if (column0 >= e.n) return;  // the whole block
  const int row = thread / (kTile / kEdge) * kEdge, column = thread % (kTile / kEdge);
  constexpr int kEach = kTile * kDepth / kThreads;
  T sum[kEdge][kEdge] = {};
  for (int k0 = 0; k0 < e.k; k0 += kDepth) {
    // A thread keeps its k of a and its column of b: what follows from those is computed once.
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = thread / kDepth + j * (kThreads / kDepth);
      const int m = row0 + i, k = k0 + thread % kDepth;
      a[thread % kDepth][i] = m < e.m && k < e.k ? problem.a(e, m, k) : T(0);
    }
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = thread / kTile + j * (kThreads / kTile);
      const int n = column0 + thread % kTile, k = k0 + i;
      b[i][thread % kTile] = n < e.n && k < e.k ? problem.b(e, k, n) : T(0);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      T left[kEdge], right[kEdge];
#pragma unroll
      for (int i = 0; i < kEdge; ++i) {
        left[i] = a[k][row + i];
        right[i] = b[k][column + i * (kTile / kEdge)];
      }
#pragma unroll
      for (int i = 0; i < kEdge; ++i)
#pragma unroll
        for (int j = 0; j < kEdge; ++j) sum[i][j] = multiply_add(left[i], right[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEdge; ++i)
#pragma unroll
    for (int j = 0; j < kEdge; ++j) {
      const int m = row0 + row + i, n = column0 + column + j * (kTile / kEdge);
      if (m < e.m && n < e.n) problem.put(e, m, n, sum[i][j]);
    }
}

template <class T, class Problem>
void run(const Problem& problem) {
  const auto tiles = [](int64_t n) { return (n + kTile - 1) / kTile; };
  const int64_t columns = tiles(problem.most_n());
  gpu::launch(convolve<T, Problem>,
              dim3(static_cast<unsigned>(columns * problem.batch()),
                   static_cast<unsigned>(tiles(problem.m()))),
              kThreads, 0, gpu::default_stream(), problem, static_cast<int>(columns));
}

template <class T>
__global__ void __launch_bounds__(256)
    add_chunks(const T* __restrict__ partial, int64_t n, int64_t chunks, T* __restrict__ to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= n) return;
  T sum = 0;
  for (int64_t c = 0; c < chunks; ++c) sum += partial[c * n + i];
  to[i] = sum;
}

template <class T>
void gradient_of_weight(const Sizes& s, const T* x, const T* g, const View& to) {
  const int64_t n = to.numel(), pixels = int64_t{s.images} * s.out_height * s.out_width;
  // A chunk begins in an image; its places from there on are counted in 31 bits.
  const int64_t most = std::max<int64_t>(1, INT32_MAX - int64_t{s.out_height} * s.out_width);
  const int64_t chunk =
      std::min(most, std::max(kLeastChunk, (pixels + kMostChunks - 1) / kMostChunks));
  const int64_t chunks = (pixels + chunk - 1) / chunk;
  if (chunks <= 1) return run<T>(GradientOfWeight<T>{s, x, g, to.as<T>(), chunk, 1});
  const Scratch partial(static_cast<std::size_t>(chunks * n) * sizeof(T));
  run<T>(GradientOfWeight<T>{s, x, g, partial.as<T>(), chunk, chunks});
  gpu::launch(add_chunks<T>, gpu::blocks_for(static_cast<std::size_t>(n), 256), 256, 0,
              gpu::default_stream(), partial.as<T>(), n, chunks, to.as<T>());
}

}  // namespace

void CudaBackend::conv2d(const Convolution& c, View x, View weight, View bias, View out) {
  visit_floating("conv2d", x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (out.numel() == 0) return;
    run<T>(Forward<T>{sizes_of(c, x, weight, out), x.as<const T>(), weight.as<const T>(),
                      bias.defined() ? bias.as<const T>() : nullptr, out.as<T>()});
  });
}

void CudaBackend::conv2d_grad(const Convolution& c, View x, View weight, View g, View g_x,
                              View g_weight, View g_bias) {
  visit_floating("conv2d_grad", x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Sizes s = sizes_of(c, x, weight, g);
    if (g_x.defined() && g_x.numel() > 0)
      run<T>(GradientOfX<T>{s, g.as<const T>(), weight.as<const T>(), g_x.as<T>()});
    if (g_weight.defined() && g_weight.numel() > 0)
      gradient_of_weight<T>(s, x.as<const T>(), g.as<const T>(), g_weight);
    if (!g_bias.defined()) return;
    const Shape kept{1, g_bias.numel(), 1, 1};
    const Strides strides{0, 1, 0, 0};
    View sums = g_bias;
    sums.shape = &kept;
    sums.strides = &strides;
    reduce(ReduceOp::sum, g, sums);
  });
}

}  // namespace flowgrad::kernels
