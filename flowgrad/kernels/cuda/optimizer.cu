#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/offsets.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/staging.h"
#include "flowgrad/kernels/cuda/tables.cuh"
#include "flowgrad/kernels/reference/loops.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

constexpr int kGroup = 4;         // elements of one access
constexpr int64_t kSpan = 16384;  // elements of a block that sums

template <class T>
GPU_INLINE bool can_load_group(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % alignof(gpu::Vec<T, kGroup>) == 0;
}

/// Steps of one element, in its own precision. All coefficients were computed in double.
template <class T>
struct Adam {
  static constexpr bool kMoment1 = true, kMoment2 = true;
  T rate, beta1, rest1, beta2, rest2, epsilon, shrink, decay, root;
  GPU_INLINE void renew(const StepNumbers& now) {
    rate = static_cast<T>(now.rate);
    shrink = static_cast<T>(now.shrink);
    root = static_cast<T>(now.root);
  }
  GPU_INLINE bool is_fresh() const { return false; }
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
  GPU_INLINE void renew(const StepNumbers& now) { rate = static_cast<T>(now.rate); }
  GPU_INLINE bool is_fresh() const { return false; }
  GPU_INLINE void step(T& w, T g, T&, T&) const { w -= rate * (g + decay * w); }
};
template <class T>
struct Momentum {
  static constexpr bool kMoment1 = true, kMoment2 = false;
  T rate, decay, momentum, rest;
  bool nesterov, first_step;
  GPU_INLINE void renew(const StepNumbers& now) {
    rate = static_cast<T>(now.rate);
    first_step = now.first_step != 0;
  }
  /// The buffer starts as the first gradient, undamped, and may hold anything before.
  GPU_INLINE bool is_fresh() const { return first_step; }
  GPU_INLINE void step(T& w, T g, T& buffer, T&) const {
    g += decay * w;
    buffer = first_step ? g : momentum * buffer + rest * g;
    w -= rate * (nesterov ? g + momentum * buffer : buffer);
  }
};

/// x * factor, the product rounded in double.
template <class T>
GPU_INLINE T scaled(T x, double factor) {
  return static_cast<T>(__dmul_rn(static_cast<double>(x), factor));
}

/// Arrays of the table: parameter, gradient, moment1, moment2. One kernel for steps that are
/// captured and those that are not, so that the compiler cannot contract their sums differently.
template <class T, class Rule>
__global__ void __launch_bounds__(kBlock)
    step_slots(const __grid_constant__ Table<T, 4> table, Rule rule, double factor,
               const StepNumbers* numbers, const StepVerdict* verdict) {
  if (verdict != nullptr) {
    if (verdict->counts == 0) return;
    factor = verdict->factor;
  }
  if (numbers != nullptr) rule.renew(*numbers);
  const bool fresh_moment = rule.is_fresh();
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
    Group g = gpu::load_vec<kGroup>(gradient + first);
    if (factor != 1) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) g[i] = scaled(g[i], factor);
    }
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
    rule.step(w, factor != 1 ? scaled(gradient[i], factor) : gradient[i], m, v);
    parameter[i] = w;
    if constexpr (Rule::kMoment1) moment1[i] = m;
    if constexpr (Rule::kMoment2) moment2[i] = v;
  }
}

template <class T>
T* data_of(const View& v) {
  return v.defined() ? v.as<T>() : nullptr;
}

template <class T, class Rule>
void step_all(std::span<const OptimizerSlot> slots, const Rule& rule, double factor,
              const CapturedStep& captured) {
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
                    factor, captured.numbers, captured.verdict);
      });
}

template <class T>
void adam_all(std::span<const OptimizerSlot> slots, const AdamParams& o) {
  const auto as = [](double x) { return static_cast<T>(x); };
  const StepNumbers now = numbers_of(o);
  const Adam<T> rule{
      as(now.rate),    as(o.beta1),   as(1 - o.beta1), as(o.beta2),
      as(1 - o.beta2), as(o.epsilon), as(now.shrink),  as(o.decoupled ? 0 : o.weight_decay),
      as(now.root)};
  step_all<T>(slots, rule, o.gradient_factor, o.captured);
}

template <class T>
void sgd_all(std::span<const OptimizerSlot> slots, const SgdParams& o) {
  const auto rate = static_cast<T>(o.lr);
  const auto decay = static_cast<T>(o.weight_decay);
  if (o.momentum == 0.0)
    return step_all<T>(slots, Sgd<T>{rate, decay}, o.gradient_factor, o.captured);
  const Momentum<T> rule{
      rate,       decay,       static_cast<T>(o.momentum), static_cast<T>(1 - o.dampening),
      o.nesterov, o.first_step};
  step_all<T>(slots, rule, o.gradient_factor, o.captured);
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

/// The sum of what a block per span left, in thread 0.
GPU_INLINE double sum_of_partials(const double* partial, int64_t n) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += kBlock) sum += partial[i];
  return block_sum(sum);
}

__global__ void __launch_bounds__(kBlock) add_up(const double* partial, int64_t n, double* out) {
  const double sum = sum_of_partials(partial, n);
  if (threadIdx.x == 0) *out = sum;
}

/// gradient_norm and clip_grad_norm on the device, rounded as on the host.
template <class T>
__global__ void __launch_bounds__(kBlock)
    judge(const T* loss, const double* partial, int64_t n, double clip_norm, const int64_t* refused,
          StepVerdict* verdict) {
  const double sum = sum_of_partials(partial, n);
  if (threadIdx.x != 0) return;
  StepVerdict v{static_cast<double>(*loss), __dsqrt_rn(sum), 1, 0};
  if (isfinite(v.loss) && isfinite(v.norm) && *refused == 0) {
    v.counts = 1;
    const double factor = __ddiv_rn(clip_norm, __dadd_rn(v.norm, 1e-6));
    if (clip_norm > 0 && factor < 1) v.factor = factor;
  }
  *verdict = v;
}

int64_t spans_of(int64_t elements) { return (elements + kSpan - 1) / kSpan; }

int64_t spans_of(const char* op, std::span<const View> views) {
  int64_t spans = 0;
  for (const View& v : views) {
    visit_floating(op, v.dtype, [](auto) {});
    spans += spans_of(v.numel());
  }
  return spans;
}

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
  data[o[0]] = scaled(data[o[0]], factor);
}

template <class T>
GPU_INLINE T lerped(T average, T value, double decay) {
  const double kept = __dmul_rn(decay, static_cast<double>(average));
  const double added = __dmul_rn(__dsub_rn(1.0, decay), static_cast<double>(value));
  return static_cast<T>(__dadd_rn(kept, added));
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    lerp_elements(T* average, const T* value, const __grid_constant__ Axes axes, double decay) {
  const int64_t i = thread_number();
  if (i >= axes.total) return;
  int64_t o[2];
  offsets_at(axes, i, o);
  average[o[0]] = lerped(average[o[0]], value[o[1]], decay);
}

/// Arrays of the table: average, value.
template <class T>
__global__ void __launch_bounds__(kBlock)
    average_slots(const __grid_constant__ Table<T, 2> table, double decay,
                  const StepNumbers* numbers, const StepVerdict* verdict) {
  if (verdict != nullptr && verdict->counts == 0) return;
  if (numbers != nullptr) decay = numbers->decay;
  const Place at = place_of(table, blockIdx.x);
  T* average = table.data[0][at.item];
  const T* value = table.data[1][at.item];
  const int64_t first = static_cast<int64_t>(at.block) * kBlock * kGroup + threadIdx.x;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    const int64_t i = first + k * kBlock;
    if (i < table.size[at.item]) average[i] = lerped(average[i], value[i], decay);
  }
}

template <class T>
void average_all(std::span<const AverageSlot> slots, const AverageParams& o) {
  for_tables<T, 2>(
      slots, int64_t{kBlock} * kGroup, [](const AverageSlot& s) { return s.average; },
      [](const AverageSlot& s, auto&& put) {
        put(0, s.average.as<T>());
        put(1, s.value.as<T>());
      },
      [&](const Table<T, 2>& table, unsigned blocks) {
        gpu::launch(average_slots<T>, blocks, kBlock, 0, gpu::default_stream(), table, o.decay,
                    o.captured.numbers, o.captured.verdict);
      });
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
  const int64_t partials = spans_of("sum_of_squares", views);
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
                average.as<T>(), value.as<T>(), axes, decay);
  });
}

void CudaBackend::average_step(std::span<const AverageSlot> slots, const AverageParams& params) {
  std::vector<AverageSlot> plain;
  for (const AverageSlot& s : slots) {
    require_dtype("average_step", "value", s.value, s.average.dtype);
    visit_floating("average_step", s.average.dtype, [](auto) {});
    if (s.average.is_contiguous() && s.value.is_contiguous()) {
      plain.push_back(s);
    } else if (params.captured.numbers != nullptr) {
      throw DeviceError("average_step: an array that is not contiguous is captured by no graph");
    } else {
      lerp(s.average, s.value, params.decay);
    }
  }
  average_all<float>(plain, params);
  average_all<double>(plain, params);
}

void CudaBackend::judge_step(View loss, std::span<const View> gradients, double clip_norm,
                             View refused, StepVerdict* verdict) {
  const int64_t partials = spans_of("judge_step", gradients);
  const Scratch scratch(static_cast<std::size_t>(partials) * sizeof(double));
  double* next = square_all<float>(gradients, scratch.as<double>());
  square_all<double>(gradients, next);
  visit_floating("judge_step", loss.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    gpu::launch(judge<T>, 1, kBlock, 0, gpu::default_stream(), loss.as<const T>(),
                scratch.as<double>(), partials, clip_norm, refused.as<const int64_t>(), verdict);
  });
}

}  // namespace flowgrad::kernels
