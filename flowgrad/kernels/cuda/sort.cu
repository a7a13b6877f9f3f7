#include <algorithm>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/offsets.cuh"
#include "flowgrad/kernels/cuda/radix_sort.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/reference/loops.h"

namespace flowgrad::kernels {

using namespace cuda;
using reference::size_along;
using reference::stride_along;
using reference::without_axis;

namespace {

/// Unsigned keys in the order of the values: NaN largest, both zeros equal.
GPU_INLINE uint32_t key_of(float x) {
  if (x != x) return 0xffffffffu;
  if (x == 0.0f) return 0x80000000u;
  const unsigned bits = __float_as_uint(x);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
GPU_INLINE uint64_t key_of(double x) {
  constexpr uint64_t kTop = uint64_t{1} << 63;
  if (x != x) return ~uint64_t{0};
  if (x == 0.0) return kTop;
  const auto bits = static_cast<uint64_t>(__double_as_longlong(x));
  return (bits & kTop) != 0 ? ~bits : bits | kTop;
}
GPU_INLINE uint64_t key_of(int64_t x) {
  return static_cast<uint64_t>(x) ^ uint64_t { 1 } << 63;
}

template <class T>
using KeyOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

/// Rows along the axis that is sorted: where they begin, and the step from element to element.
struct Rows {
  Axes heads;       // of x, values, indices
  int64_t n, kept;  // numbers of x, and how many of them values and indices get
  int64_t x_step, values_step, indices_step;
  bool descending;
};

template <class T>
GPU_INLINE KeyOf<T> ordered_key(const Rows& rows, T x) {
  const KeyOf<T> key = key_of(x);
  return rows.descending ? ~key : key;
}

constexpr int kMaxInBlock = 2048;  // elements that one block sorts in shared memory

/// Bitonic network over rows padded to `padded`, a power of two, with several rows a block where
/// they are short. Equal keys are ordered by position, which makes the network stable.
template <class T>
__global__ void __launch_bounds__(512)
    sort_in_block(const T* x, T* values, int64_t* indices, const __grid_constant__ Rows rows,
                  int padded, int rows_per_block) {
  using Key = KeyOf<T>;
  GPU_DYN_SHARED(Key, keys);
  const int elements = padded * rows_per_block;
  auto* order = reinterpret_cast<uint16_t*>(keys + elements);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * rows_per_block;
  const int n = static_cast<int>(rows.n);
  const int threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);

  for (int i = thread; i < elements; i += threads) {
    const int at = i & (padded - 1);
    const int64_t row = first_row + i / padded;
    Key key = ~Key{0};
    if (at < n && row < rows.heads.total) {
      int64_t o[1];
      offsets_at(rows.heads, row, o);
      key = ordered_key<T>(rows, x[o[0] + at * rows.x_step]);
    }
    keys[i] = key;
    order[i] = static_cast<uint16_t>(at);
  }
  __syncthreads();
  for (int size = 2; size <= padded; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      for (int pair = thread; pair < elements / 2; pair += threads) {
        const int low = (pair / distance) * (2 * distance) + (pair & (distance - 1));
        const int high = low + distance;
        const bool upwards = (low & (padded - 1) & size) == 0;
        const Key a = keys[low];
        const Key b = keys[high];
        const uint16_t at_a = order[low];
        const uint16_t at_b = order[high];
        const bool swapped = b < a || (b == a && at_b < at_a);
        if (swapped == upwards) {
          keys[low] = b;
          keys[high] = a;
          order[low] = at_b;
          order[high] = at_a;
        }
      }
      __syncthreads();
    }
  }
  for (int i = thread; i < elements; i += threads) {
    const int at = i & (padded - 1);
    const int64_t row = first_row + i / padded;
    if (at < rows.kept && row < rows.heads.total) {
      int64_t o[3];
      offsets_at(rows.heads, row, o);
      values[o[1] + at * rows.values_step] = x[o[0] + order[i] * rows.x_step];
      indices[o[2] + at * rows.indices_step] = order[i];
    }
  }
}

template <class T>
__global__ void make_keys(const T* x, KeyOf<T>* keys, uint32_t* order,
                          const __grid_constant__ Rows rows, int64_t first_row) {
  const int64_t i = thread_number();
  if (i >= rows.n) return;
  int64_t o[1];
  offsets_at(rows.heads, first_row + blockIdx.y, o);
  const int64_t to = static_cast<int64_t>(blockIdx.y) * rows.n + i;
  keys[to] = ordered_key<T>(rows, x[o[0] + i * rows.x_step]);
  order[to] = static_cast<uint32_t>(i);
}

template <class T>
__global__ void write_sorted(const T* x, const uint32_t* order, T* values, int64_t* indices,
                             const __grid_constant__ Rows rows, int64_t first_row) {
  const int64_t i = thread_number();
  if (i >= rows.kept) return;
  int64_t o[3];
  offsets_at(rows.heads, first_row + blockIdx.y, o);
  const int64_t from = order[static_cast<int64_t>(blockIdx.y) * rows.n + i];
  values[o[1] + i * rows.values_step] = x[o[0] + from * rows.x_step];
  indices[o[2] + i * rows.indices_step] = from;
}

template <class T>
void sort_short(const T* x, T* values, int64_t* indices, const Rows& rows) {
  int padded = 1;
  while (padded < rows.n) padded *= 2;
  const int rows_per_block = std::max(1, 256 / padded);
  const int elements = padded * rows_per_block;
  const auto threads = static_cast<unsigned>(std::clamp(elements / 2, 32, 512));
  const auto n_blocks =
      static_cast<unsigned>((rows.heads.total + rows_per_block - 1) / rows_per_block);
  const std::size_t bytes = static_cast<std::size_t>(elements) * (sizeof(KeyOf<T>) + 2);
  gpu::launch(sort_in_block<T>, n_blocks, threads, bytes, gpu::default_stream(), x, values, indices,
              rows, padded, rows_per_block);
}

/// Through global memory, as many rows at once as fit into a bounded amount of it.
template <class T>
void sort_long(const T* x, T* values, int64_t* indices, const Rows& rows) {
  using Key = KeyOf<T>;
  const auto most_bytes = static_cast<int64_t>(scratch_limit());
  if (rows.n > 0xffffffffll) throw ShapeError("sort: axis: more than 2^32 - 1 elements given");
  const int64_t row_bytes = rows.n * 2 * static_cast<int64_t>(sizeof(Key) + sizeof(uint32_t));
  const int64_t at_once =
      std::min({rows.heads.total, std::max<int64_t>(1, most_bytes / row_bytes), int64_t{65535}});
  const auto elements = static_cast<std::size_t>(at_once * rows.n);
  const Scratch keys(elements * 2 * sizeof(Key));
  const Scratch order(elements * 2 * sizeof(uint32_t));
  const Scratch counts(radix_sort_bytes(at_once, rows.n));
  const SortBuffers<Key> buffers{{keys.as<Key>(), keys.as<Key>() + elements},
                                 {order.as<uint32_t>(), order.as<uint32_t>() + elements}};
  const gpu::Stream stream = gpu::default_stream();
  for (int64_t first = 0; first < rows.heads.total; first += at_once) {
    const int64_t count = std::min(at_once, rows.heads.total - first);
    const dim3 grid(blocks_of(rows.n), static_cast<unsigned>(count));
    gpu::launch(make_keys<T>, grid, kBlock, 0, stream, x, buffers.keys[0], buffers.order[0], rows,
                first);
    const int at =
        radix_sort(buffers, count, rows.n, static_cast<int>(sizeof(Key)) * 8, counts.as<void>());
    const dim3 written(blocks_of(rows.kept), static_cast<unsigned>(count));
    gpu::launch(write_sorted<T>, written, kBlock, 0, stream, x, buffers.order[at], values, indices,
                rows, first);
  }
}

}  // namespace

void CudaBackend::sort(View x, int axis, bool descending, View values, View indices) {
  require_dtype("sort", "values", values, x.dtype);
  require_dtype("sort", "indices", indices, DType::int64);
  visit_numeric("sort", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (values.numel() == 0) return;
    Shape heads = *x.shape;
    if (heads.rank() > 0) heads[axis] = 1;
    const Rows rows{axes_over(heads, *x.strides, *values.strides, *indices.strides),
                    size_along(x, axis),
                    size_along(values, axis),
                    stride_along(x, axis),
                    stride_along(values, axis),
                    stride_along(indices, axis),
                    descending};
    const auto sorter = rows.n <= kMaxInBlock ? sort_short<T> : sort_long<T>;
    sorter(x.as<T>(), values.as<T>(), indices.as<int64_t>(), rows);
  });
}

}  // namespace flowgrad::kernels
