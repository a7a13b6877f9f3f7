#include "flowgrad/kernels/cuda/sampler.h"

#include <algorithm>
#include <vector>

#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/sampler.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/staging.h"

namespace flowgrad::kernels {

using namespace cuda;
using namespace cuda::samplers;

namespace {

/// run(kernel, rows, bytes of shared memory) for the instance of a plan.
template <class T, int R, int C, class Run>
void with_instance(int64_t width, int64_t outputs, Run&& run) {
  const SharedPlan<T, R, C> shared(static_cast<int>(width), static_cast<int>(outputs));
  run(sampler_kernel<T, R, C>, static_cast<size_t>(shared.total) * sizeof(T));
}
template <class T, int C, class Run>
void with_rows(int rows, int64_t width, int64_t outputs, Run&& run) {
  switch (rows) {
    case 1: return with_instance<T, 1, C>(width, outputs, run);
    case 2: return with_instance<T, 2, C>(width, outputs, run);
    case 4: return with_instance<T, 4, C>(width, outputs, run);
    default: return with_instance<T, 8, C>(width, outputs, run);
  }
}
template <class T, class Run>
void with_sampler(int columns, int rows, int64_t width, int64_t outputs, Run&& run) {
  if constexpr (std::is_same_v<T, float>) {
    if (columns == 4) return with_rows<T, 4>(rows, width, outputs, run);
  }
  return with_rows<T, 2>(rows, width, outputs, run);
}

}  // namespace

namespace cuda {

SamplerPlan plan_sampler(DType dtype, int64_t width, int64_t outputs, int64_t n_rows, bool guided) {
  SamplerPlan plan;
  // Beyond these the products of sizes might not fit an int; no such network fits anyway.
  if (width < 1 || width > 4096 || outputs < 1 || outputs > 4096) return plan;
  if (dtype != DType::float32 && dtype != DType::float64) return plan;
  visit_floating("sample", dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto fitting = [&](int columns, int rows) {
      int fit = 0;
      with_sampler<T>(columns, rows, width, outputs, [&](auto kernel, size_t shared) {
        fit = gpu::coresident_blocks(kernel, kBlockThreads, shared);
      });
      return fit;
    };
    // A guided sample needs two rows, and the choice must not depend on guidance.
    for (int columns : {4, 2}) {
      if (columns == 4 && !std::is_same_v<T, float>) continue;
      const auto blocks = static_cast<int>((width + kWarps * columns - 1) / (kWarps * columns));
      if (blocks > kMostBlocks || fitting(columns, 2) < blocks) continue;
      plan = {columns, guided ? 2 : 1, blocks, 0};
      plan.groups = fitting(columns, plan.rows) / blocks;
      while (plan.rows < 8 && int64_t{plan.groups} * plan.rows < n_rows) {
        const int fit = fitting(columns, 2 * plan.rows) / blocks;
        if (fit == 0) break;
        plan.rows *= 2;
        plan.groups = fit;
      }
      plan.groups =
          static_cast<int>(std::min<int64_t>(plan.groups, (n_rows + plan.rows - 1) / plan.rows));
      return;
    }
  });
  return plan;
}

void sample(const SamplerPlan* given, const Sampler& s, View x, View out) {
  const int64_t rows = (*x.shape)[0];
  const int64_t outputs = (*x.shape)[1];
  const int64_t width = (*s.net.first.shape)[1];
  if (rows == 0 || outputs == 0) return;
  const bool guided = s.guidance != 1 && s.net.condition.defined();
  const SamplerPlan plan =
      given != nullptr ? *given
                       : plan_sampler(x.dtype, width, outputs, rows * (guided ? 2 : 1), guided);
  if (plan.columns == 0) {
    throw DeviceError("sample: a network of width " + std::to_string(width) + " with " +
                      std::to_string(outputs) + " outputs of " + name_of(x.dtype) +
                      " does not fit the device");
  }
  visit_floating("sample", x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const std::vector<SamplerMove<T>> numbers(s.stages.begin(), s.stages.end());
    using Box = gpu::Tagged<T>;
    const auto n_u = static_cast<size_t>(plan.groups * plan.rows * width);
    const auto n_v = static_cast<size_t>(plan.groups * plan.rows * outputs * plan.blocks);
    const Scratch boxes((n_u + n_v) * sizeof(Box));
    const Scratch moves(numbers.size() * sizeof(SamplerMove<T>));
    gpu::fill_bytes(boxes.as<void>(), 0, (n_u + n_v) * sizeof(Box), gpu::default_stream());
    Staging::instance().to_device(moves.as<SamplerMove<T>>(), numbers.data(),
                                  numbers.size() * sizeof(SamplerMove<T>));
    SamplerArgs<T> args{};
    args.first = s.net.first.as<const T>();
    args.times = s.net.times.as<const T>();
    if (s.net.condition.defined()) {
      args.condition = s.net.condition.as<const T>();
      args.condition_step = (*s.net.condition.shape)[0] == 1 ? 0 : width;
    }
    args.hidden = s.net.hidden.as<const T>();
    args.bias = s.net.bias.as<const T>();
    args.last = s.net.last.as<const T>();
    args.last_bias = s.net.last_bias.as<const T>();
    args.moves = moves.as<const SamplerMove<T>>();
    if (s.noise.defined()) args.noise = s.noise.as<const T>();
    args.x = x.as<const T>();
    args.out = out.as<T>();
    args.u_boxes = boxes.as<Box>();
    args.v_boxes = boxes.as<Box>() + n_u;
    args.rows = rows;
    args.seed = s.seed;
    args.first_stream = s.first_stream;
    args.guidance = static_cast<T>(s.guidance);
    args.n_stages = static_cast<int>(s.stages.size());
    args.width = static_cast<int>(width);
    args.outputs = static_cast<int>(outputs);
    args.blocks = plan.blocks;
    args.relu = s.net.relu;
    args.guided = guided;
    args.vectors = width % kVector<T> == 0 &&
                   reinterpret_cast<std::uintptr_t>(args.hidden) % (kVector<T> * sizeof(T)) == 0;
    with_sampler<T>(plan.columns, plan.rows, width, outputs, [&](auto kernel, size_t shared) {
      gpu::launch_cooperative(kernel, static_cast<unsigned>(plan.groups * plan.blocks),
                              kBlockThreads, shared, gpu::default_stream(), args);
    });
  });
}

}  // namespace cuda

bool CudaBackend::has_sampler(DType dtype, int64_t width, int64_t outputs) {
  return plan_sampler(dtype, width, outputs, 1, false).columns != 0;
}

void CudaBackend::sample(const Sampler& sampler, View x, View out) {
  cuda::sample(nullptr, sampler, x, out);
}

}  // namespace flowgrad::kernels
