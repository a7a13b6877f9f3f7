#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

namespace {

constexpr unsigned kThreads = 256;

/// One axis of the planes: how many places are read and written, and the window along it.
struct Axis {
  int from, to, kernel, stride, padding;
};

/// The part of [first, first + count) that lies in [0, size).
struct Range {
  int begin, end;
  GPU_INLINE Range(int first, int count, int size)
      : begin(first > 0 ? first : 0), end(first + count < size ? first + count : size) {}
};

/// What a place of the result adds up: the elements that the window `at` sees, or (kBack) the
/// windows that see the element `at`, which are those that start in (at - kernel, at].
template <bool kBack>
GPU_INLINE Range terms_of(int at, const Axis& a) {
  if constexpr (kBack) {
    const int last = (at + a.padding) / a.stride, before = at + a.padding - a.kernel;
    const int first = before < 0 ? 0 : before / a.stride + 1;
    return Range(first, last - first + 1, a.from);
  } else {
    return Range(at * a.stride - a.padding, a.kernel, a.from);
  }
}

template <bool kBack, class T>
__global__ void __launch_bounds__(kThreads)
    pool_means(Axis rows, Axis columns, int64_t total, const T* __restrict__ x,
               T* __restrict__ out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t line = i / columns.to, plane = line / rows.to;
  const Range ys = terms_of<kBack>(static_cast<int>(line - plane * rows.to), rows);
  const Range xs = terms_of<kBack>(static_cast<int>(i - line * columns.to), columns);
  const T* const from = x + plane * rows.from * columns.from;
  T sum = 0;
  for (int y = ys.begin; y < ys.end; ++y)
    for (int at = xs.begin; at < xs.end; ++at) sum += from[int64_t{y} * columns.from + at];
  out[i] = sum / static_cast<T>(rows.kernel * columns.kernel);
}

template <bool kBack>
void means(const char* op, const Pooling& p, View x, View out) {
  const int64_t total = out.numel();
  if (total == 0) return;
  const auto axis = [&](int d) {
    const auto narrow = [](int64_t v) { return static_cast<int>(v); };
    return Axis{narrow((*x.shape)[2 + d]), narrow((*out.shape)[2 + d]), narrow(p.kernel[d]),
                narrow(p.stride[d]), narrow(p.padding[d])};
  };
  visit_floating(op, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    gpu::launch(pool_means<kBack, T>,
                dim3(gpu::blocks_for(static_cast<std::size_t>(total), kThreads)), dim3(kThreads), 0,
                gpu::default_stream(), axis(0), axis(1), total, x.as<const T>(), out.as<T>());
  });
}

}  // namespace

void CudaBackend::avg_pool2d(const Pooling& p, View x, View out) {
  means<false>("avg_pool2d", p, x, out);
}

void CudaBackend::avg_pool2d_grad(const Pooling& p, View g, View g_x) {
  means<true>("avg_pool2d_grad", p, g, g_x);
}

}  // namespace flowgrad::kernels
