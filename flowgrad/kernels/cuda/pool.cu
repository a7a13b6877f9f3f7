#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

namespace {

constexpr unsigned kThreads = 256;

/// Sizes of a plane of the large images and of the small ones.
struct Sizes {
  int height, width, small_height, small_width;
  int kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;
};

Sizes sizes_of(const Pooling& p, const Shape& large, const Shape& small) {
  const auto narrow = [](int64_t v) { return static_cast<int>(v); };
  return {narrow(large[2]),     narrow(large[3]),    narrow(small[2]),    narrow(small[3]),
          narrow(p.kernel[0]),  narrow(p.kernel[1]), narrow(p.stride[0]), narrow(p.stride[1]),
          narrow(p.padding[0]), narrow(p.padding[1])};
}

/// The part of [first, first + count) that lies in [0, size).
struct Range {
  int begin, end;
  GPU_INLINE Range(int first, int count, int size)
      : begin(first > 0 ? first : 0), end(first + count < size ? first + count : size) {}
};

/// Windows of one axis that see an element: those that start in (at - kernel, at].
GPU_INLINE Range windows_over(int at, int kernel, int stride, int padding, int windows) {
  const int last = (at + padding) / stride, before = at + padding - kernel;
  const int first = before < 0 ? 0 : before / stride + 1;
  return Range(first, last - first + 1, windows);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_means(Sizes s, int64_t total, const T* __restrict__ x, T* __restrict__ out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t line = i / s.small_width, plane = line / s.small_height;
  const int column = static_cast<int>(i - line * s.small_width);
  const int row = static_cast<int>(line - plane * s.small_height);
  const Range ys(row * s.stride_y - s.padding_y, s.kernel_y, s.height);
  const Range xs(column * s.stride_x - s.padding_x, s.kernel_x, s.width);
  const T* const from = x + plane * s.height * s.width;
  T sum = 0;
  for (int y = ys.begin; y < ys.end; ++y)
    for (int at = xs.begin; at < xs.end; ++at) sum += from[int64_t{y} * s.width + at];
  out[i] = sum / static_cast<T>(s.kernel_y * s.kernel_x);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_means_grad(Sizes s, int64_t total, const T* __restrict__ g, T* __restrict__ g_x) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t line = i / s.width, plane = line / s.height;
  const int column = static_cast<int>(i - line * s.width);
  const int row = static_cast<int>(line - plane * s.height);
  const Range ys = windows_over(row, s.kernel_y, s.stride_y, s.padding_y, s.small_height);
  const Range xs = windows_over(column, s.kernel_x, s.stride_x, s.padding_x, s.small_width);
  const T* const from = g + plane * s.small_height * s.small_width;
  T sum = 0;
  for (int y = ys.begin; y < ys.end; ++y)
    for (int at = xs.begin; at < xs.end; ++at) sum += from[int64_t{y} * s.small_width + at];
  g_x[i] = sum / static_cast<T>(s.kernel_y * s.kernel_x);
}

}  // namespace

void CudaBackend::avg_pool2d(const Pooling& p, View x, View out) {
  const int64_t total = out.numel();
  if (total == 0) return;
  visit_floating("avg_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    gpu::launch(pool_means<T>, dim3(gpu::blocks_for(static_cast<std::size_t>(total), kThreads)),
                dim3(kThreads), 0, gpu::default_stream(), sizes_of(p, *x.shape, *out.shape), total,
                x.as<const T>(), out.as<T>());
  });
}

void CudaBackend::avg_pool2d_grad(const Pooling& p, View g, View g_x) {
  const int64_t total = g_x.numel();
  if (total == 0) return;
  visit_floating("avg_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    gpu::launch(pool_means_grad<T>,
                dim3(gpu::blocks_for(static_cast<std::size_t>(total), kThreads)), dim3(kThreads), 0,
                gpu::default_stream(), sizes_of(p, *g_x.shape, *g.shape), total, g.as<const T>(),
                g_x.as<T>());
  });
}

}  // namespace flowgrad::kernels
