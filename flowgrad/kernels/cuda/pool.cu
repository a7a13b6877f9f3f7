#include <string>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

namespace {

constexpr unsigned kThreads = 256;

/// One axis of the planes: how many places are read and written, and the window along it, see
/// Pooling.
struct Axis {
  int from, to, kernel, stride, padding;
};

/// What a mean divides by along an axis: the kernel's size; where there is no kernel, the size of
/// the window's span; or the number of places that the window sees.
enum class Divisor { kernel, kernel_or_span, seen };

/// The part of [first, first + count) that lies in [0, size).
struct Range {
  int begin, end;
  GPU_INLINE Range(int first, int count, int size)
      : begin(first > 0 ? first : 0), end(first + count < size ? first + count : size) {}
  GPU_INLINE int count() const { return end - begin; }
};

/// Of `to` places that share `size`, what place `at` spans: the elements of a window, and just so
/// the windows that see an element. 32 bits, for division of 64 takes twice the registers.
GPU_INLINE Range span_of(int at, int to, int size) {
  const unsigned n = static_cast<unsigned>(size), parts = static_cast<unsigned>(to);
  const int begin = static_cast<int>(static_cast<unsigned>(at) * n / parts);
  const int end = static_cast<int>((static_cast<unsigned>(at + 1) * n - 1) / parts + 1);
  return Range(begin, end - begin, size);
}

/// What the window `at` of an axis sees of its `size` places.
GPU_INLINE Range window_of(int at, const Axis& a, int size) {
  return Range(at * a.stride - a.padding, a.kernel, size);
}

/// What a place of the result adds up: the elements that the window `at` sees, or (kBack) the
/// windows that see the element `at`, which are those that start in (at - kernel, at].
template <bool kBack>
GPU_INLINE Range terms_of(int at, const Axis& a) {
  if constexpr (kBack) {
    const int last = (at + a.padding) / a.stride, before = at + a.padding - a.kernel;
    const int first = before < 0 ? 0 : before / a.stride + 1;
    return Range(first, last - first + 1, a.from);
  } else {
    return window_of(at, a, a.from);
  }
}

/// An axis as a sum goes along it. Windows with divisors of their own divide what they give back.
template <bool kBack, Divisor kBy>
struct Terms {
  const Axis& a;
  Range range;
  GPU_INLINE Terms(int at, const Axis& a)
      : a(a), range(is_spans() ? span_of(at, a.to, a.from) : terms_of<kBack>(at, a)) {}
  GPU_INLINE bool is_spans() const { return kBy == Divisor::kernel_or_span && a.kernel == 0; }
  GPU_INLINE bool differs() const { return kBy == Divisor::seen || is_spans(); }
  template <class T>
  GPU_INLINE T share(T term, int at) const {
    if (!kBack || !differs()) return term;
    const Range window = is_spans() ? span_of(at, a.from, a.to) : window_of(at, a, a.to);
    return term / static_cast<T>(window.count());
  }
  GPU_INLINE int count() const { return !differs() ? a.kernel : kBack ? 1 : range.count(); }
};

template <bool kBack, Divisor kBy, class T>
__global__ void __launch_bounds__(kThreads)
    pool_means(Axis rows, Axis columns, int64_t total, const T* __restrict__ x,
               T* __restrict__ out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t line = i / columns.to, plane = line / rows.to;
  const Terms<kBack, kBy> ys(static_cast<int>(line - plane * rows.to), rows);
  const Terms<kBack, kBy> xs(static_cast<int>(i - line * columns.to), columns);
  const T* const from = x + plane * rows.from * columns.from;
  T sum = 0;
  for (int y = ys.range.begin; y < ys.range.end; ++y) {
    T line_sum = 0;
    for (int at = xs.range.begin; at < xs.range.end; ++at)
      line_sum += xs.share(from[int64_t{y} * columns.from + at], at);
    sum += ys.share(line_sum, y);
  }
  out[i] = sum / static_cast<T>(int64_t{ys.count()} * xs.count());
}

/// The largest element that a window sees, and its place within its plane.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_max(Axis rows, Axis columns, int64_t total, const T* __restrict__ x, T* __restrict__ out,
             int64_t* __restrict__ index) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t line = i / columns.to, plane = line / rows.to;
  const Terms<false, Divisor::kernel_or_span> ys(static_cast<int>(line - plane * rows.to), rows);
  const Terms<false, Divisor::kernel_or_span> xs(static_cast<int>(i - line * columns.to), columns);
  const T* const from = x + plane * rows.from * columns.from;
  int best_y = ys.range.begin, best_x = xs.range.begin;
  T largest = from[int64_t{best_y} * columns.from + best_x];
  for (int y = ys.range.begin; y < ys.range.end; ++y) {
    for (int at = xs.range.begin; at < xs.range.end; ++at) {
      const T value = from[int64_t{y} * columns.from + at];
      if (largest != largest || value <= largest) continue;  // a NaN stays, and wins
      best_y = y;
      best_x = at;
      largest = value;
    }
  }
  out[i] = largest;
  index[i] = int64_t{best_y} * columns.from + best_x;
}

/// The cotangents of the windows whose largest element this is, in their order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_max_grad(Axis rows, Axis columns, int64_t total, const T* __restrict__ g,
                  const int64_t* __restrict__ index, T* __restrict__ g_x) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t line = i / columns.to, plane = line / rows.to;
  const int64_t place = i - plane * rows.to * columns.to;
  const Terms<true, Divisor::kernel_or_span> ys(static_cast<int>(line - plane * rows.to), rows);
  const Terms<true, Divisor::kernel_or_span> xs(static_cast<int>(i - line * columns.to), columns);
  const int64_t from = plane * rows.from * columns.from;
  T sum = 0;
  for (int y = ys.range.begin; y < ys.range.end; ++y) {
    for (int at = xs.range.begin; at < xs.range.end; ++at) {
      const int64_t window = from + int64_t{y} * columns.from + at;
      if (index[window] == place) sum += g[window];
    }
  }
  g_x[i] = sum;
}

Axis axis_of(const char* op, const Pooling& p, View x, View out, int d) {
  const int64_t from = (*x.shape)[2 + d], to = (*out.shape)[2 + d];
  if (p.kernel[d] == 0 && from * to >= (int64_t{1} << 32)) {
    throw ValueError(std::string(op) + ": an axis of " + std::to_string(from) +
                     " places to one of " + std::to_string(to) +
                     "; a product below 2^32 is accepted on a device");
  }
  const auto narrow = [](int64_t v) { return static_cast<int>(v); };
  return {narrow(from), narrow(to), narrow(p.kernel[d]), narrow(p.stride[d]), narrow(p.padding[d])};
}

/// A thread for every element of `out`, the first of `to`.
template <class T, class... To>
void launch_pool(const char* op, void (*kernel)(Axis, Axis, int64_t, const T*, To*...),
                 const Pooling& p, View x, View out, To*... to) {
  const int64_t total = out.numel();
  if (total == 0) return;
  gpu::launch(kernel, dim3(gpu::blocks_for(static_cast<std::size_t>(total), kThreads)),
              dim3(kThreads), 0, gpu::default_stream(), axis_of(op, p, x, out, 0),
              axis_of(op, p, x, out, 1), total, x.as<const T>(), to...);
}

template <bool kBack>
void means(const char* op, const Pooling& p, View x, View out) {
  visit_floating(op, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool spans = p.kernel[0] == 0 || p.kernel[1] == 0;
    launch_pool<T, T>(op,
                      !p.counts_padding ? pool_means<kBack, Divisor::seen, T>
                      : spans           ? pool_means<kBack, Divisor::kernel_or_span, T>
                                        : pool_means<kBack, Divisor::kernel, T>,
                      p, x, out, out.as<T>());
  });
}

}  // namespace

void CudaBackend::avg_pool2d(const Pooling& p, View x, View out) {
  means<false>("avg_pool2d", p, x, out);
}

void CudaBackend::avg_pool2d_grad(const Pooling& p, View g, View g_x) {
  means<true>("avg_pool2d_grad", p, g, g_x);
}

void CudaBackend::max_pool2d(const Pooling& p, View x, View out, View index) {
  visit_floating("max_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_pool<T, T, int64_t>("max_pool2d", pool_max<T>, p, x, out, out.as<T>(),
                               index.as<int64_t>());
  });
}

void CudaBackend::max_pool2d_grad(const Pooling& p, View g, View index, View g_x) {
  visit_floating("max_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_pool<T, const int64_t, T>("max_pool2d_grad", pool_max_grad<T>, p, g, g_x,
                                     index.as<const int64_t>(), g_x.as<T>());
  });
}

}  // namespace flowgrad::kernels
