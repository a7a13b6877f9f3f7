#include <algorithm>
#include <cmath>
#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/offsets.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/staging.h"
#include "flowgrad/kernels/reference/loops.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// Several arrays in one launch: a table, passed by value, of their addresses and of the block at
/// which each begins. Kernel arguments may take 4 KiB.
template <class T, int n_arrays>
struct Table {
  static constexpr int kMax = n_arrays == 1 ? 128 : 64;
  T* data[n_arrays][kMax];
  int64_t size[kMax];
  unsigned end[kMax];  // one past the item's last block
  int items = 0;
};

constexpr int kGroup = 4;         // elements of one access
constexpr int64_t kSpan = 16384;  // elements of a block that sums

/// The block's place in the table: which item, and which block of that item.
struct Place {
  int item;
  unsigned block;
};
template <class T, int n>
GPU_INLINE Place place_of(const Table<T, n>& table, unsigned block) {
  int low = 0;
  int high = table.items - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (block < table.end[middle])
      high = middle;
    else
      low = middle + 1;
  }
  return {low, block - (low == 0 ? 0 : table.end[low - 1])};
}

template <class T>
GPU_INLINE bool can_load_group(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % alignof(gpu::Vec<T, kGroup>) == 0;
}

/// Steps of one element, in its own precision. All coefficients were computed in double.
template <class T>
struct Adam {
  static constexpr bool kMoment1 = true, kMoment2 = true;
  T rate, beta1, rest1, beta2, rest2, epsilon, shrink, decay, root;
  GPU_INLINE void step(T& w, T g, T& m, T& v) const {
    w *= shrink;
    g += decay * w;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    w -= rate * m / (sqrt(v) * root + epsilon);
  }
};
template <class T>
struct Sgd {
  static constexpr bool kMoment1 = false, kMoment2 = false;
  T rate, decay;
  GPU_INLINE void step(T& w, T g, T&, T&) const { w -= rate * (g + decay * w); }
};
template <class T>
struct Momentum {
  static constexpr bool kMoment1 = true, kMoment2 = false;
  T rate, decay, momentum, rest;
  bool nesterov, first_step;
  GPU_INLINE void step(T& w, T g, T& buffer, T&) const {
    g += decay * w;
    buffer = first_step ? g : momentum * buffer + rest * g;
    w -= rate * (nesterov ? g + momentum * buffer : buffer);
  }
};

/// Arrays of the table: parameter, gradient, moment1, moment2.
template <class T, class Rule>
__global__ void __launch_bounds__(kBlock)
    step_slots(const __grid_constant__ Table<T, 4> table, Rule rule, bool fresh_moment) {
  const Place at = place_of(table, blockIdx.x);
  T* parameter = table.data[0][at.item];
  const T* gradient = table.data[1][at.item];
  T* moment1 = table.data[2][at.item];
  T* moment2 = table.data[3][at.item];
  const int64_t n = table.size[at.item];
  const int64_t first = (static_cast<int64_t>(at.block) * kBlock + threadIdx.x) * kGroup;
  using Group = gpu::Vec<T, kGroup>;
  const bool grouped = can_load_group(parameter) && can_load_group(gradient) &&
                       (!Rule::kMoment1 || can_load_group(moment1)) &&
                       (!Rule::kMoment2 || can_load_group(moment2));
  if (grouped && first + kGroup <= n) {
    Group w = gpu::load_vec<kGroup>(parameter + first);
    const Group g = gpu::load_vec<kGroup>(gradient + first);
    Group m{};
    Group v{};
    if constexpr (Rule::kMoment1) {
      if (!fresh_moment) m = gpu::load_vec<kGroup>(moment1 + first);
    }
    if constexpr (Rule::kMoment2) v = gpu::load_vec<kGroup>(moment2 + first);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) rule.step(w[i], g[i], m[i], v[i]);
    gpu::store_vec(parameter + first, w);
    if constexpr (Rule::kMoment1) gpu::store_vec(moment1 + first, m);
    if constexpr (Rule::kMoment2) gpu::store_vec(moment2 + first, v);
    return;
  }
  for (int64_t i = first; i < first + kGroup && i < n; ++i) {
    T m{};
    T v{};
    if constexpr (Rule::kMoment1) {
      if (!fresh_moment) m = moment1[i];
    }
    if constexpr (Rule::kMoment2) v = moment2[i];
    T w = parameter[i];
    rule.step(w, gradient[i], m, v);
    parameter[i] = w;
    if constexpr (Rule::kMoment1) moment1[i] = m;
    if constexpr (Rule::kMoment2) moment2[i] = v;
  }
}

template <class T>
T* data_of(const View& v) {
  return v.defined() ? v.as<T>() : nullptr;
}

/// Fills tables with the items of element type T that arrays(item) names, in order; run(table,
/// blocks) takes each. elements_per_block is how blocks are counted.
template <class T, int n, class Items, class ViewOf, class Arrays, class Run>
void for_tables(const Items& items, int64_t elements_per_block, ViewOf&& view_of, Arrays&& arrays,
                Run&& run) {
  Table<T, n> table;
  unsigned blocks = 0;
  const auto flush = [&] {
    if (table.items > 0) run(table, blocks);
    table.items = 0;
    blocks = 0;
  };
  for (const auto& item : items) {
    const View& view = view_of(item);
    if (view.dtype != dtype_of<T>()) continue;
    const int64_t size = view.numel();
    if (size == 0) continue;
    const int64_t own = (size + elements_per_block - 1) / elements_per_block;
    if (table.items == Table<T, n>::kMax || blocks + own > 0x7fffffff) flush();
    blocks += static_cast<unsigned>(own);
    arrays(item, [&](int array, T* data) { table.data[array][table.items] = data; });
    table.size[table.items] = size;
    table.end[table.items] = blocks;
    ++table.items;
  }
  flush();
}

template <class T, class Rule>
void step_all(std::span<const OptimizerSlot> slots, const Rule& rule, bool fresh_moment) {
  for_tables<T, 4>(
      slots, int64_t{kBlock} * kGroup, [](const OptimizerSlot& s) { return s.parameter; },
      [](const OptimizerSlot& s, auto&& put) {
        put(0, data_of<T>(s.parameter));
        put(1, data_of<T>(s.gradient));
        put(2, data_of<T>(s.moment1));
        put(3, data_of<T>(s.moment2));
      },
      [&](const Table<T, 4>& table, unsigned blocks) {
        gpu::launch(step_slots<T, Rule>, blocks, kBlock, 0, gpu::default_stream(), table, rule,
                    fresh_moment);
      });
}

template <class T>
void adam_all(std::span<const OptimizerSlot> slots, const AdamParams& o) {
  const auto as = [](double x) { return static_cast<T>(x); };
  const Adam<T> rule{as(o.lr / o.correction1),
                     as(o.beta1),
                     as(1 - o.beta1),
                     as(o.beta2),
                     as(1 - o.beta2),
                     as(o.epsilon),
                     as(o.decoupled ? 1 - o.lr * o.weight_decay : 1),
                     as(o.decoupled ? 0 : o.weight_decay),
                     as(1 / std::sqrt(o.correction2))};
  step_all<T>(slots, rule, false);
}

template <class T>
void sgd_all(std::span<const OptimizerSlot> slots, const SgdParams& o) {
  const auto rate = static_cast<T>(o.lr);
  const auto decay = static_cast<T>(o.weight_decay);
  if (o.momentum == 0.0) return step_all<T>(slots, Sgd<T>{rate, decay}, false);
  // The buffer starts as the first gradient, undamped, and may hold anything before.
  const Momentum<T> rule{
      rate,       decay,       static_cast<T>(o.momentum), static_cast<T>(1 - o.dampening),
      o.nesterov, o.first_step};
  step_all<T>(slots, rule, o.first_step);
}

void require_floating(const char* op, std::span<const OptimizerSlot> slots) {
  for (const OptimizerSlot& slot : slots) visit_floating(op, slot.parameter.dtype, [](auto) {});
}

// --- sum of squares: a partial sum for every kSpan elements, then the sum of those ---

/// The sum over the block's threads in thread 0, in an order that depends on nothing else.
GPU_INLINE double block_sum(double x) {
  GPU_SHARED(double, warp_sum, [kBlock / 32]);
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % 32 == 0) warp_sum[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (unsigned w = 0; w < kBlock / 32; ++w) sum += warp_sum[w];
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    square_sums(const __grid_constant__ Table<T, 1> table, double* partial) {
  const Place at = place_of(table, blockIdx.x);
  const T* data = table.data[0][at.item];
  const int64_t first = at.block * kSpan;
  const int64_t end = first + kSpan < table.size[at.item] ? first + kSpan : table.size[at.item];
  double sum = 0;
#pragma unroll 4
  for (int64_t i = first + threadIdx.x; i < end; i += kBlock) {
    const auto x = static_cast<double>(data[i]);
    sum += x * x;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    strided_square_sums(const T* data, const __grid_constant__ Axes axes, double* partial) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSpan;
  const int64_t end = first + kSpan < axes.total ? first + kSpan : axes.total;
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kBlock) {
    int64_t o[1];
    offsets_at(axes, i, o);
    const auto x = static_cast<double>(data[o[0]]);
    sum += x * x;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlock) add_up(const double* partial, int64_t n, double* out) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += kBlock) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

int64_t spans_of(int64_t elements) { return (elements + kSpan - 1) / kSpan; }

/// Launches for all contiguous views of element type T, then for the others; returns where the next
/// partial sum goes.
template <class T>
double* square_all(std::span<const View> views, double* partial) {
  std::vector<View> plain;
  std::vector<View> strided;
  for (const View& v : views) {
    if (v.dtype == dtype_of<T>()) (v.is_contiguous() ? plain : strided).push_back(v);
  }
  const gpu::Stream stream = gpu::default_stream();
  for_tables<T, 1>(
      plain, kSpan, [](const View& v) { return v; },
      [](const View& v, auto&& put) { put(0, v.as<T>()); },
      [&](const Table<T, 1>& table, unsigned blocks) {
        gpu::launch(square_sums<T>, blocks, kBlock, 0, stream, table, partial);
        partial += blocks;
      });
  for (const View& v : strided) {
    const Axes axes = axes_over(*v.shape, *v.strides);
    if (axes.total == 0) continue;
    const auto blocks = static_cast<unsigned>(spans_of(axes.total));
    gpu::launch(strided_square_sums<T>, blocks, kBlock, 0, stream, v.as<T>(), axes, partial);
    partial += blocks;
  }
  return partial;
}

// --- scale and lerp: products and sums rounded one by one in double, as on the CPU ---

template <class T>
__global__ void __launch_bounds__(kBlock)
    scale_elements(T* data, const __grid_constant__ Axes axes, double factor) {
  const int64_t i = thread_number();
  if (i >= axes.total) return;
  int64_t o[1];
  offsets_at(axes, i, o);
  data[o[0]] = static_cast<T>(static_cast<double>(data[o[0]]) * factor);
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    lerp_elements(T* average, const T* value, const __grid_constant__ Axes axes, double decay,
                  double rest) {
  const int64_t i = thread_number();
  if (i >= axes.total) return;
  int64_t o[2];
  offsets_at(axes, i, o);
  const double kept = __dmul_rn(decay, static_cast<double>(average[o[0]]));
  const double added = __dmul_rn(rest, static_cast<double>(value[o[1]]));
  average[o[0]] = static_cast<T>(__dadd_rn(kept, added));
}

}  // namespace

void CudaBackend::adam_step(std::span<const OptimizerSlot> slots, const AdamParams& params) {
  require_floating("adam_step", slots);
  adam_all<float>(slots, params);
  adam_all<double>(slots, params);
}

void CudaBackend::sgd_step(std::span<const OptimizerSlot> slots, const SgdParams& params) {
  require_floating("sgd_step", slots);
  sgd_all<float>(slots, params);
  sgd_all<double>(slots, params);
}

double CudaBackend::sum_of_squares(std::span<const View> views) {
  int64_t partials = 0;
  for (const View& v : views) {
    visit_floating("sum_of_squares", v.dtype, [](auto) {});
    partials += spans_of(v.numel());
  }
  if (partials == 0) return 0;
  const gpu::Stream stream = gpu::default_stream();
  const Scratch scratch(static_cast<std::size_t>(partials + 1) * sizeof(double));
  auto* total = scratch.as<double>();
  double* next = square_all<float>(views, total + 1);
  square_all<double>(views, next);
  gpu::launch(add_up, 1, kBlock, 0, stream, total + 1, partials, total);
  double sum = 0;
  Staging::instance().to_host(&sum, total, sizeof sum);
  return sum;
}

void CudaBackend::scale(View out, double factor) {
  visit_floating("scale", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Axes axes = axes_over(*out.shape, *out.strides);
    if (axes.total == 0) return;
    gpu::launch(scale_elements<T>, blocks_of(axes.total), kBlock, 0, gpu::default_stream(),
                out.as<T>(), axes, factor);
  });
}

void CudaBackend::lerp(View average, View value, double decay) {
  require_dtype("lerp", "value", value, average.dtype);
  visit_floating("lerp", average.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Axes axes = axes_over(*average.shape, *average.strides, *value.strides);
    if (axes.total == 0) return;
    gpu::launch(lerp_elements<T>, blocks_of(axes.total), kBlock, 0, gpu::default_stream(),
                average.as<T>(), value.as<T>(), axes, decay, 1.0 - decay);
  });
}

}  // namespace flowgrad::kernels
