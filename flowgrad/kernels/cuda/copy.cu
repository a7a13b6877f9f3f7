#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/strided.cuh"

namespace flowgrad::kernels {

using namespace loops;

namespace {

template <class To>
struct Convert {
  template <class From>
  GPU_INLINE To operator()(From x) const {
    return convert<To>(x);
  }
};

struct Same {
  template <class T>
  GPU_INLINE T operator()(T x) const {
    return x;
  }
};

template <class T>
struct Constant {
  T value;
  GPU_INLINE T operator()() const { return value; }
};

/// Calls f with an unsigned integer of the size of an element: for moves that do not look at
/// values.
template <class F>
void visit_size(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    default: return f(uint64_t{});
  }
}

// --- transposed copies: by squares through shared memory, so that both sides move whole rows ---

constexpr int kSquare = 32;
constexpr int kRows = 8;  // a block is kSquare x kRows threads

/// The output is contiguous along its last axis, the input along `axis`; the rest is a batch.
struct Transposed {
  uint32_t squares = 0;
  uint32_t along_axis = 0, along_last = 0;  // elements
  Divisor squares_along_axis, squares_along_last;
  int32_t out_step = 0, in_step = 0;  // of out along axis, of in along the last axis
  int batch_rank = 0;
  Divisor size[kMaxRank];
  int32_t out_stride[kMaxRank] = {}, in_stride[kMaxRank] = {};
};

template <class T>
__global__ void __launch_bounds__(kSquare* kRows)
    transpose_kernel(const __grid_constant__ Transposed p, const T* in, T* out) {
  GPU_SHARED(T, square, [kSquare][kSquare + 1]);
  const uint32_t x = threadIdx.x;
  const uint32_t y = threadIdx.y;
  for (uint32_t i = blockIdx.x; i < p.squares; i += gridDim.x) {
    uint32_t rest = p.squares_along_last.divide(i);
    const uint32_t last = (i - rest * p.squares_along_last.value) * kSquare;
    uint32_t batch = p.squares_along_axis.divide(rest);
    const uint32_t first = (rest - batch * p.squares_along_axis.value) * kSquare;
    int32_t from = 0;
    int32_t to = 0;
    for (int d = p.batch_rank - 1; d >= 0; --d) {
      rest = p.size[d].divide(batch);
      const auto at = static_cast<int32_t>(batch - rest * p.size[d].value);
      from += at * p.in_stride[d];
      to += at * p.out_stride[d];
      batch = rest;
    }
    for (uint32_t row = y; row < kSquare; row += kRows) {
      if (first + x < p.along_axis && last + row < p.along_last) {
        square[row][x] = in[from + static_cast<int32_t>(first + x) +
                            static_cast<int32_t>(last + row) * p.in_step];
      }
    }
    __syncthreads();
    for (uint32_t row = y; row < kSquare; row += kRows) {
      if (first + row < p.along_axis && last + x < p.along_last) {
        out[to + static_cast<int32_t>(first + row) * p.out_step + static_cast<int32_t>(last + x)] =
            square[x][row];
      }
    }
    __syncthreads();
  }
}

/// False where the views are not a transposition worth the squares.
bool copy_transposed(const View& in, const View& out) {
  const Axes axes = ordered_axes({&out, &in});
  const int last = axes.rank - 1;
  if (axes.rank < 2 || axes.stride[0][last] != 1 || axes.total > launch_limit()) return false;
  int axis = 0;
  while (axis < last && axes.stride[1][axis] != 1) ++axis;
  if (axis == last || axes.size[axis] < kSquare / 2 || axes.size[last] < kSquare / 2) return false;
  Transposed p;
  int64_t reach[2] = {0, 0};
  for (int o = 0; o < 2; ++o) {
    for (int d = 0; d < axes.rank; ++d)
      reach[o] += (axes.size[d] - 1) * std::abs(axes.stride[o][d]);
    if (reach[o] > launch_limit()) return false;
  }
  int64_t squares = 1;
  for (int d = 0; d < axes.rank; ++d) {
    if (d == axis || d == last) {
      const int64_t along = (axes.size[d] + kSquare - 1) / kSquare;
      squares *= along;
      (d == axis ? p.squares_along_axis : p.squares_along_last) =
          Divisor(static_cast<uint32_t>(along));
      continue;
    }
    squares *= axes.size[d];
    p.size[p.batch_rank] = Divisor(static_cast<uint32_t>(axes.size[d]));
    p.out_stride[p.batch_rank] = static_cast<int32_t>(axes.stride[0][d]);
    p.in_stride[p.batch_rank++] = static_cast<int32_t>(axes.stride[1][d]);
  }
  p.squares = static_cast<uint32_t>(squares);
  p.along_axis = static_cast<uint32_t>(axes.size[axis]);
  p.along_last = static_cast<uint32_t>(axes.size[last]);
  p.out_step = static_cast<int32_t>(axes.stride[0][axis]);
  p.in_step = static_cast<int32_t>(axes.stride[1][last]);
  visit_size(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(transpose_kernel<T>, dim3(capped_grid(p.squares)), dim3(kSquare, kRows), 0,
                gpu::default_stream(), p, static_cast<const T*>(in.data),
                static_cast<T*>(out.data));
  });
  return true;
}

void copy_same_type(const View& in, const View& out) {
  if (in.is_contiguous() && out.is_contiguous()) {
    if (in.data == out.data) return;
    const auto bytes = static_cast<size_t>(out.numel()) * size_of(out.dtype);
    return gpu::copy_on_device(out.data, in.data, bytes, gpu::default_stream());
  }
  if (copy_transposed(in, out)) return;
  visit_size(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    map<T, T>(Same{}, out, in);
  });
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    arange_kernel(T* out, int64_t n, int64_t stride, double start, double step) {
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kBlock) {
    // Never fused: the CPU rounds the product.
    const double value = __dadd_rn(start, __dmul_rn(static_cast<double>(i), step));
    out[i * stride] = convert<T>(value);
  }
}

}  // namespace

void CudaBackend::copy(View in, View out) {
  if (out.numel() == 0) return;
  if (in.dtype == out.dtype) return copy_same_type(in, out);
  visit(in.dtype, [&](auto from) {
    visit(out.dtype, [&](auto to) {
      using From = typename decltype(from)::type;
      using To = typename decltype(to)::type;
      if constexpr (!std::is_same_v<From, To>) map<To, From>(Convert<To>{}, out, in);
    });
  });
}

void CudaBackend::fill(View out, double value) {
  // Along an axis of stride 0 every element is the same one: write it once.
  Shape shape = *out.shape;
  for (int d = 0; d < shape.rank(); ++d) {
    if ((*out.strides)[d] == 0 && shape[d] > 1) shape[d] = 1;
  }
  out.shape = &shape;
  visit(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    map<T>(Constant<T>{convert<T>(value)}, out);
  });
}

void CudaBackend::arange(View out, double start, double step) {
  if (out.rank() > 1) {
    throw ShapeError("arange: out has rank " + std::to_string(out.rank()) + "; 1 is accepted");
  }
  visit_numeric("arange", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t n = out.numel();
    if (n == 0) return;
    const int64_t stride = out.rank() == 0 ? 1 : (*out.strides)[0];
    gpu::launch(arange_kernel<T>, dim3(capped_grid(static_cast<uint64_t>(n + kBlock - 1) / kBlock)),
                dim3(kBlock), 0, gpu::default_stream(), out.as<T>(), n, stride, start, step);
  });
}

}  // namespace flowgrad::kernels
