#include "support/kernels.h"

#include <bit>
#include <map>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "flowgrad/kernels/gpu_runtime.h"
#include "support/bench.h"

namespace flowgrad::bench {

Limits measure_limits(Device device) {
  if (device.is_cpu()) {
    const cli::Roofline r = cli::measure_roofline();
    return {r.gflops, r.gbytes};
  }
  Limits limits;
#if defined(FLOWGRAD_GPU_CUDA) || defined(FLOWGRAD_GPU_EMULATED)
  const gpu::DeviceInfo info = gpu::device_info(device.index);
  const int64_t n = int64_t{1} << 28;  // bytes; beyond every cache
  const Tensor from = Tensor::empty({n}, DType::boolean, device);
  const Tensor to = Tensor::empty({n}, DType::boolean, device);
  const auto bytes = static_cast<size_t>(n);
  const cli::Timing copy =
      cli::measure([&] { gpu::copy_on_device(to.raw(), from.raw(), bytes, gpu::default_stream()); },
                   0.3, device);
  limits.gbytes = 2 * static_cast<double>(n) / copy.minimum * 1e-9;
  const Tensor sink = zeros({1}, DType::float32, device);
  const int blocks = 8 * info.n_multiprocessors;
  const int rounds = 4096;
  double operations = 0;
  const cli::Timing adds = cli::measure(
      [&] { operations = launch_multiply_adds(static_cast<float*>(sink.raw()), blocks, rounds); },
      0.3, device);
  limits.gflops = operations / adds.minimum * 1e-9;
#endif
  return limits;
}

double copy_rate(Device device, double bytes, double beyond_caches) {
  if (!device.is_cpu()) return beyond_caches;
  // Sizes within a factor of two share a figure.
  static std::map<uint64_t, double> known;
  const uint64_t each = std::bit_ceil(static_cast<uint64_t>(bytes) / 2 + 1);
  const auto [at, is_new] = known.try_emplace(each);
  if (is_new) {
    const Tensor from = zeros({static_cast<int64_t>(each)}, DType::boolean),
                 to = zeros(from.shape(), DType::boolean);
    const cli::Timing copy =
        cli::measure([&] { kernels::backend(device).copy(from, to); }, 0.1, device);
    at->second = 2 * static_cast<double>(each) / copy.minimum * 1e-9;
  }
  return at->second;
}

}  // namespace flowgrad::bench
