// Matrix products: what the library computes with, each rung of the ladder, and on a device cuBLAS,
// on the CPU the BLAS libraries that --blas names, beside them.
#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "flowgrad/kernels/cpu/ladder.h"
#include "flowgrad/kernels/gpu_runtime.h"
#include "support/bench.h"
#include "support/blas.h"
#include "support/cublas.h"

#if defined(FLOWGRAD_GPU_CUDA) || defined(FLOWGRAD_GPU_EMULATED)
#define FLOWGRAD_HAS_LADDER 1
#include "flowgrad/kernels/cuda/ladder/ladder.h"
#endif

namespace flowgrad::bench {
namespace {

using Tensors = std::vector<Tensor>;

constexpr double kFloat32 = 2e-6;  // of products and sums in float32

/// Of results whose operands are rounded to 11 or 8 bits: half the bound of an element, which the
/// norm of many random ones stays below.
[[maybe_unused]] double tolerance_of(CublasMode mode) {
  return mode == CublasMode::float32 ? kFloat32 : mode == CublasMode::tf32 ? 5e-4 : 4e-3;
}

/// c = a b without bias.
void multiply(kernels::Backend& backend, const Tensors& t) {
  backend.matmul(t[0], t[1], {}, false, t[2]);
}

Case product(const std::vector<int64_t>& size, Device device) {
  const int64_t m = size[0], n = size.size() > 1 ? size[1] : m, k = size.size() > 2 ? size[2] : m;
  Generator g(1);
  Case c;
  c.kernel = "sgemm";
  c.size = fmt::format("{}x{}x{}", m, n, k);
  c.impl = "flowgrad";
  c.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  c.bytes = 4.0 * static_cast<double>(m * k + k * n + m * n);
  c.tensors = {randn({m, k}, g, DType::float32, device), randn({k, n}, g, DType::float32, device),
               zeros({m, n}, DType::float32, device)};
  c.results = c.poisoned = {2};
  c.tolerance = kFloat32;
  set_work(c, device, multiply);
  c.reference = [](const Tensors& t) { copy_(t[2], cli::product_in_loops(t[0], t[1])); };
  return c;
}

/// Another way to the same result.
Case variant(const Case& base, std::string impl, double tolerance,
             std::function<void(const Tensors&)> apply) {
  Case c = base;
  c.impl = std::move(impl);
  c.tolerance = tolerance;
  c.apply = std::move(apply);
  return c;
}

float* floats(const Tensor& t) { return static_cast<float*>(t.raw()); }
int rows_of(const Tensor& t) { return static_cast<int>(t.size(0)); }
int columns_of(const Tensor& t) { return static_cast<int>(t.size(1)); }

void add_cublas(std::vector<Case>& out, const Case& base) {
  if (!has_cublas()) return;
  for (const CublasMode mode : {CublasMode::float32, CublasMode::tf32, CublasMode::bf16}) {
    out.push_back(variant(base, cublas_name(mode), tolerance_of(mode), [mode](const Tensors& t) {
      cublas_gemm(mode, floats(t[0]), floats(t[1]), floats(t[2]), rows_of(t[0]), columns_of(t[1]),
                  columns_of(t[0]));
    }));
  }
}

void add_ladder([[maybe_unused]] std::vector<Case>& out, [[maybe_unused]] const Case& base) {
#if defined(FLOWGRAD_HAS_LADDER)
  const gpu::DeviceInfo info = gpu::device_info(0);
  for (const kernels::cuda::LadderRung& rung : kernels::cuda::matmul_ladder()) {
    if (!rung.runs_on(info)) continue;
    const std::string_view name = rung.name;
    const CublasMode mode = rung.tolerance < 1e-4      ? CublasMode::float32
                            : name.starts_with("TF32") ? CublasMode::tf32
                                                       : CublasMode::bf16;
    out.push_back(variant(base, fmt::format("{:02} {}", rung.number, rung.name), tolerance_of(mode),
                          [run = rung.run](const Tensors& t) {
                            run(floats(t[0]), floats(t[1]), floats(t[2]), rows_of(t[0]),
                                columns_of(t[1]), columns_of(t[0]), gpu::default_stream());
                          }));
    out.back().peer = cublas_name(mode);
  }
#endif
}

/// Peers first, so that the others are printed beside the first of them; the slow rungs only where
/// they end within seconds.
void add_cpu(std::vector<Case>& out, const Case& base, const std::vector<Blas>& peers) {
  const auto on = [](auto multiply) {
    return [multiply](const Tensors& t) {
      multiply(floats(t[0]), floats(t[1]), floats(t[2]), t[0].size(0), t[1].size(1), t[0].size(1));
    };
  };
  const std::string peer = peers.empty() ? "" : peers.front().name;
  for (const Blas& blas : peers) {
    out.push_back(variant(base, blas.name, kFloat32, on(blas.sgemm)));
    if (blas.name != peer) out.back().peer = peer;
  }
  for (const kernels::cpu::LadderRung& rung : kernels::cpu::matmul_ladder()) {
    if (rung.number <= 3 && base.flops > 1e10) continue;
    out.push_back(
        variant(base, fmt::format("{:02} {}", rung.number, rung.name), 1e-4, on(rung.run)));
    out.back().peer = peer;
  }
  out.push_back(base);
  out.back().peer = peer;
}

std::vector<Case> cases(const Options& o) {
  std::vector<Case> out;
  std::vector<Blas> peers;
  if (o.device.is_cpu()) {
    for (const std::string& text : o.blas) peers.push_back(open_blas(text));
  }
  const std::string defaults = o.device.is_cpu() ? "256,512,1024,2048" : "512,1024,4096";
  for (const auto& size : parse_sizes(o.sizes.empty() ? defaults : o.sizes, 1, 3)) {
    Case base = product(size, o.device);
    if (o.device.is_cpu()) {
      add_cpu(out, base, peers);
      continue;
    }
    add_cublas(out, base);  // first, so that the others are printed beside it
    base.peer = has_cublas() ? cublas_name(CublasMode::float32) : "";
    out.push_back(base);
    add_ladder(out, base);
  }
  return out;
}

}  // namespace
}  // namespace flowgrad::bench

int main(int argc, char** argv) {
  return flowgrad::bench::run_cases(
      argc, argv,
      {"Matrix products", "Sizes M, MxN or MxNxK, a list", flowgrad::bench::cases,
       /*takes_blas=*/true});
}
