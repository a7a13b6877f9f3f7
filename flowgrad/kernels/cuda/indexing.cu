#include <algorithm>
#include <bit>

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

// --- the check of indices ---

constexpr long long kNone = 0x7fffffffffffffffll;

/// A block copies a part of the indices, with 0 for those outside, of which it keeps the first.
__global__ void __launch_bounds__(kBlock)
    keep_inside(const int64_t* index, int64_t size, int64_t part, int64_t* out, int64_t* found,
                int64_t* any, const __grid_constant__ Axes axes) {
  GPU_SHARED(long long, first, [1]);
  if (threadIdx.x == 0) first[0] = kNone;
  __syncthreads();
  const int64_t begin = blockIdx.x * part;
  const int64_t end = begin + part < axes.total ? begin + part : axes.total;
  long long mine = kNone;
  int64_t outside = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) {
    int64_t o[1];
    offsets_at(axes, i, o);
    const int64_t given = index[o[0]];
    const bool inside = given >= 0 && given < size;
    out[i] = inside ? given : 0;
    if (!inside && mine == kNone) {
      mine = i;
      outside = given;
    }
  }
  if (mine != kNone) atomicMin(first, mine);
  __syncthreads();
  if (mine == kNone || mine != first[0]) return;
  int64_t* const kept = found + 2 * static_cast<int64_t>(blockIdx.x);
  if (kept[0] >= 0) return;
  kept[0] = mine;
  kept[1] = outside;
  atomicExch(reinterpret_cast<unsigned long long*>(any), 1ull);
}

// --- gather and index_select: copies of elements of any type, 1 to 16 bytes at a time ---

/// out[i] = x[i but for the axis, where it is index[i]]. Operands of axes: x, index, out. A thread
/// has Each elements, kBlock apart: each waits for an index and then for an element.
template <class Unit, int Each>
__global__ void __launch_bounds__(kBlock) pick(const Unit* x, int64_t step, const int64_t* index,
                                               Unit* out, const __grid_constant__ Axes axes) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kBlock * Each) + threadIdx.x;
  int64_t o[Each][3];
  int64_t chosen[Each];
  gpu::Vec<Unit, 1> unit[Each];
#pragma unroll
  for (int j = 0; j < Each; ++j) {
    if (first + j * kBlock >= axes.total) continue;
    offsets_at(axes, first + j * kBlock, o[j]);
    chosen[j] = index[o[j][1]];
  }
#pragma unroll
  for (int j = 0; j < Each; ++j) {
    if (first + j * kBlock >= axes.total) continue;
    unit[j] = gpu::load_vec<1>(x + o[j][0] + chosen[j] * step);
  }
#pragma unroll
  for (int j = 0; j < Each; ++j) {
    if (first + j * kBlock < axes.total) gpu::store_vec(out + o[j][2], unit[j]);
  }
}

bool is_multiple(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

/// Whether `factor` neighbours of operands one and other lie together and share what operand index
/// gives.
bool come_together(const Axes& axes, int index, int one, int other, int64_t factor) {
  if (axes.rank == 0) return false;
  const int last = axes.rank - 1;
  if (axes.stride[one][last] != 1 || axes.stride[other][last] != 1 ||
      axes.stride[index][last] != 0 || axes.size[last] % factor != 0)
    return false;
  for (int d = 0; d < last; ++d) {
    if (axes.stride[one][d] % factor != 0 || axes.stride[other][d] % factor != 0) return false;
  }
  return true;
}

/// Whether neighbours can be moved `factor` at a time; if so, counts axes and step in such units.
bool widen(Axes& axes, int64_t& step, int64_t factor) {
  if (!come_together(axes, 1, 0, 2, factor) || step % factor != 0) return false;
  const int last = axes.rank - 1;
  axes.total /= factor;
  axes.size[last] /= factor;
  step /= factor;
  for (int d = 0; d < last; ++d) {
    axes.stride[0][d] /= factor;
    axes.stride[2][d] /= factor;
  }
  return true;
}

template <class Unit>
void pick_units(const View& x, int64_t step, const View& index, const View& out, const Axes& axes) {
  constexpr int64_t kMany = int64_t{1} << 20;  // that fill a device with a quarter of the threads
  const auto run = [&]<int Each>(std::integral_constant<int, Each>) {
    gpu::launch(pick<Unit, Each>, blocks_of((axes.total + Each - 1) / Each), kBlock, 0,
                gpu::default_stream(), x.as<Unit>(), step, index.as<int64_t>(), out.as<Unit>(),
                axes);
  };
  if (axes.total < kMany) return run(std::integral_constant<int, 1>{});
  run(std::integral_constant<int, 4>{});
}

void pick_along(const View& x, int axis, const View& index, const Strides& index_strides,
                const View& out) {
  Axes axes = axes_over(*out.shape, without_axis(x, axis), index_strides, *out.strides);
  if (axes.total == 0) return;
  int64_t step = stride_along(x, axis);
  std::size_t bytes = size_of(x.dtype);
  for (std::size_t unit = 16; unit > bytes; unit /= 2) {
    if (is_multiple(x.data, unit) && is_multiple(out.data, unit) &&
        widen(axes, step, static_cast<int64_t>(unit / bytes)))
      bytes = unit;
  }
  switch (bytes) {
    case 1: return pick_units<uint8_t>(x, step, index, out, axes);
    case 2: return pick_units<uint16_t>(x, step, index, out, axes);
    case 4: return pick_units<uint32_t>(x, step, index, out, axes);
    case 8: return pick_units<uint64_t>(x, step, index, out, axes);
    default: return pick_units<uint4>(x, step, index, out, axes);
  }
}

// --- scatter_add, scatter_max and index_add ---

struct Add {
  template <class T>
  GPU_INLINE static T apply(T target, T value) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<uint64_t>(target) + static_cast<uint64_t>(value));
    } else {
      return target + value;
    }
  }
};
/// NaN wins.
struct Max {
  template <class T>
  GPU_INLINE static T apply(T target, T value) {
    return target != target ? target : (target > value ? target : value);
  }
};

/// Source elements scattered along one axis. A lane is a position on all other axes: no two lanes
/// share an output element. The lanes of a group also share their indices.
struct Scatter {
  Axes lanes;  // of index, source, out; axes along which the index is constant come last
  int64_t groups, lanes_per_group;
  int64_t given;    // source elements of a lane
  int64_t targets;  // output elements of a lane
  int64_t index_step, source_step, out_step;
};

/// One thread walks a lane.
template <class Operation, class T>
__global__ void __launch_bounds__(kBlock) scatter_lanes(const int64_t* index, const T* source,
                                                        T* out, const __grid_constant__ Scatter s) {
  const int64_t lane = thread_number();
  if (lane >= s.lanes.total) return;
  int64_t o[3];
  offsets_at(s.lanes, lane, o);
  for (int64_t k = 0; k < s.given; ++k) {
    T* target = out + o[2] + index[o[0] + k * s.index_step] * s.out_step;
    *target = Operation::apply(*target, source[o[1] + k * s.source_step]);
  }
}

/// The key of entry (group, k) orders by group, then by index. A stable sort keeps the order of k.
template <class Key>
__global__ void __launch_bounds__(kBlock)
    scatter_keys(const int64_t* index, Key* keys, uint32_t* order,
                 const __grid_constant__ Scatter s) {
  const int64_t entry = thread_number();
  if (entry >= s.groups * s.given) return;
  const int64_t group = entry / s.given;
  int64_t o[1];
  offsets_at(s.lanes, group * s.lanes_per_group, o);
  const int64_t at = index[o[0] + (entry - group * s.given) * s.index_step];
  keys[entry] = static_cast<Key>(group * s.targets + at);
  order[entry] = static_cast<uint32_t>(entry);
}

/// One thread for each sorted entry and V lanes of its group. The first entry of a run of equal
/// keys combines the whole run in order; the others have nothing to do.
template <class Operation, class T, class Key, int V>
__global__ void __launch_bounds__(kBlock)
    scatter_runs(const Key* keys, const uint32_t* order, const T* source, T* out,
                 const __grid_constant__ Scatter s) {
  // Loads in flight; with wide keys or elements more would be spilled.
  constexpr int kAhead = V > 1 && sizeof(Key) + sizeof(T) > 8 ? 4 : 8;
  const int64_t entries = s.groups * s.given;
  const int64_t thread = thread_number();
  int64_t p = thread / s.lanes_per_group;
  const int64_t lane = thread - p * s.lanes_per_group;
  if (p >= entries) return;
  const Key key = keys[p];
  if (p > 0 && keys[p - 1] == key) return;
  const int64_t group = s.groups == 1 ? 0 : static_cast<int64_t>(key / static_cast<Key>(s.targets));
  const int64_t at = static_cast<int64_t>(key) - group * s.targets;
  int64_t o[3];
  offsets_at(s.lanes, group * s.lanes_per_group + lane, o);
  T* target = out + o[2] + at * s.out_step;
  const T* from = source + o[1];
  const int64_t first = group * s.given;
  using Vector = gpu::Vec<T, V>;
  const auto load = [&](int64_t entry) {
    return gpu::load_vec<V>(from + (order[entry] - first) * s.source_step);
  };
  Vector value = gpu::load_vec<V>(target);
  const auto combine = [&](const Vector& next) {
#pragma unroll
    for (int l = 0; l < V; ++l) value[l] = Operation::apply(value[l], next[l]);
  };
  for (; p + kAhead <= entries && keys[p + kAhead - 1] == key; p += kAhead) {
    Vector next[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) next[i] = load(p + i);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) combine(next[i]);
  }
  for (; p < entries && keys[p] == key; ++p) combine(load(p));
  gpu::store_vec(target, value);
}

/// Sorting pays where lanes are long and too few to fill the device. Both ways combine the elements
/// of a lane in the same order, so the bits do not depend on the choice.
bool worth_sorting(const Scatter& s) {
  return s.given > 128 && s.groups < 8192 && s.groups * s.given <= 0xffffffffll;
}

/// Whether neighbouring lanes can go together in 16 bytes, `factor` elements; if so, counts lanes
/// in such units, and strides in elements as before.
bool widen_lanes(Scatter& s, int64_t factor, const void* source, const void* out) {
  Axes& lanes = s.lanes;
  if (!come_together(lanes, 0, 1, 2, factor) || s.source_step % factor != 0 ||
      s.out_step % factor != 0 || !is_multiple(source, 16) || !is_multiple(out, 16))
    return false;
  const int last = lanes.rank - 1;
  lanes.total /= factor;
  lanes.size[last] /= factor;
  lanes.stride[1][last] = lanes.stride[2][last] = factor;
  s.lanes_per_group /= factor;
  return true;
}

template <class Operation, class Key, class T>
void scatter_sorted(const int64_t* index, const T* source, T* out, Scatter s) {
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  const int64_t entries = s.groups * s.given;
  const auto n = static_cast<std::size_t>(entries);
  const Scratch keys(2 * n * sizeof(Key));
  const Scratch order(2 * n * sizeof(uint32_t));
  const Scratch counts(radix_sort_bytes(1, entries));
  const SortBuffers<Key> buffers{{keys.as<Key>(), keys.as<Key>() + n},
                                 {order.as<uint32_t>(), order.as<uint32_t>() + n}};
  const gpu::Stream stream = gpu::default_stream();
  gpu::launch(scatter_keys<Key>, blocks_of(entries), kBlock, 0, stream, index, buffers.keys[0],
              buffers.order[0], s);
  const int bits = std::bit_width(static_cast<uint64_t>(s.groups * s.targets - 1));
  const int at = radix_sort(buffers, 1, entries, bits, counts.as<void>());
  const bool wide = widen_lanes(s, V, source, out);
  gpu::launch(wide ? scatter_runs<Operation, T, Key, V> : scatter_runs<Operation, T, Key, 1>,
              blocks_of(entries * s.lanes_per_group), kBlock, 0, stream, buffers.keys[at],
              buffers.order[at], source, out, s);
}

/// shape is that of source, and of index where it has one entry per element.
Scatter scatter_along(const Shape& shape, int axis, const Strides& index, const View& source,
                      const View& out) {
  Scatter s{};
  Shape sizes;
  Strides lanes[3];
  s.groups = s.lanes_per_group = s.given = 1;
  for (const bool constant : {false, true}) {
    for (int d = 0; d < shape.rank(); ++d) {
      if (d == axis || (index[d] == 0) != constant) continue;
      sizes.push_back(shape[d]);
      lanes[0].push_back(index[d]);
      lanes[1].push_back((*source.strides)[d]);
      lanes[2].push_back((*out.strides)[d]);
      (constant ? s.lanes_per_group : s.groups) *= shape[d];
    }
  }
  s.lanes = axes_over(sizes, lanes[0], lanes[1], lanes[2]);
  if (shape.rank() > 0) {
    s.given = shape[axis];
    s.index_step = index[axis];
    s.source_step = (*source.strides)[axis];
  }
  s.targets = size_along(out, axis);
  s.out_step = stride_along(out, axis);
  return s;
}

template <class Operation>
void scatter(const char* op, const View& index, const Scatter& s, const View& source,
             const View& out) {
  if (s.lanes.total * s.given == 0) return;
  visit_numeric(op, out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (!worth_sorting(s)) {
      gpu::launch(scatter_lanes<Operation, T>, blocks_of(s.lanes.total), kBlock, 0,
                  gpu::default_stream(), index.as<int64_t>(), source.as<T>(), out.as<T>(), s);
    } else if (s.groups * s.targets <= 0xffffffffll) {
      scatter_sorted<Operation, uint32_t>(index.as<int64_t>(), source.as<T>(), out.as<T>(), s);
    } else {
      scatter_sorted<Operation, uint64_t>(index.as<int64_t>(), source.as<T>(), out.as<T>(), s);
    }
  });
}

/// Strides that walk a rank-1 index along `axis` of a larger shape.
Strides index_strides(const View& index, int axis, int rank) {
  Strides s = Dims::filled(rank, 0);
  if (rank > 0) s[axis] = index.rank() == 0 ? 0 : (*index.strides)[0];
  return s;
}

void require_numeric(const char* op, const View& index, const View& source, const View& out) {
  require_dtype(op, "index", index, DType::int64);
  require_dtype(op, "source", source, out.dtype);
  visit_numeric(op, out.dtype, [](auto) {});
}

}  // namespace

void CudaBackend::check_index(View index, int64_t size, View out, View found, View any) {
  require_index_check(index, out, found, any);
  const Axes axes = axes_over(*index.shape, *index.strides);
  if (axes.total == 0) return;
  const int64_t parts = (*found.shape)[0];
  gpu::launch(keep_inside, static_cast<unsigned>(parts), kBlock, 0, gpu::default_stream(),
              index.as<int64_t>(), size, (axes.total + parts - 1) / parts, out.as<int64_t>(),
              found.as<int64_t>(), any.as<int64_t>(), axes);
}

void CudaBackend::gather(View x, int axis, View index, View out) {
  require_dtype("gather", "index", index, DType::int64);
  require_dtype("gather", "out", out, x.dtype);
  pick_along(x, axis, index, *index.strides, out);
}

void CudaBackend::index_select(View x, int axis, View index, View out) {
  require_dtype("index_select", "index", index, DType::int64);
  require_dtype("index_select", "out", out, x.dtype);
  pick_along(x, axis, index, index_strides(index, axis, out.rank()), out);
}

void CudaBackend::scatter_add(View index, int axis, View source, View out) {
  require_numeric("scatter_add", index, source, out);
  const Scatter s = scatter_along(*index.shape, axis, *index.strides, source, out);
  scatter<Add>("scatter_add", index, s, source, out);
}

void CudaBackend::scatter_max(View index, int axis, View source, View out) {
  require_numeric("scatter_max", index, source, out);
  const Scatter s = scatter_along(*index.shape, axis, *index.strides, source, out);
  scatter<Max>("scatter_max", index, s, source, out);
}

void CudaBackend::index_add(View index, int axis, View source, View out) {
  require_numeric("index_add", index, source, out);
  const Scatter s =
      scatter_along(*source.shape, axis, index_strides(index, axis, source.rank()), source, out);
  scatter<Add>("index_add", index, s, source, out);
}

}  // namespace flowgrad::kernels
