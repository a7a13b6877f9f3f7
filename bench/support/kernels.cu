// The rate of float32 multiply-adds, for measure_limits, and the rounding that cuBLAS needs.
#include "flowgrad/kernels/gpu.cuh"
#include "flowgrad/kernels/ptx_mma.cuh"
#include "support/kernels.h"

namespace flowgrad::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;  // independent, so that no result is waited for

__global__ void multiply_adds_kernel(float* sink, int rounds) {
  float chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = static_cast<float>(threadIdx.x + i);
#pragma unroll 16  // so that counting the rounds takes no share worth naming
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) chain[i] = fmaf(chain[i], 0.9999f, 1e-4f);
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += chain[i];
  if (sum == 12345.0f) *sink = sum;  // never, but the compiler cannot know
}

__global__ void round_bf16_kernel(const float* x, std::uint16_t* out, std::int64_t n) {
  const std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (i + 3 < n) {
    const gpu::Vec<float, 4> v = gpu::load_vec<4>(x + i);
    gpu::Vec<std::uint32_t, 2> pairs;
    pairs[0] = gpu::pack_bf16(v[0], v[1]);
    pairs[1] = gpu::pack_bf16(v[2], v[3]);
    gpu::store_vec(reinterpret_cast<std::uint32_t*>(out + i), pairs);
  } else {
    for (std::int64_t j = i; j < n; ++j)
      out[j] = static_cast<std::uint16_t>(gpu::pack_bf16(x[j], 0.0f));
  }
}

}  // namespace

void launch_round_bf16(const float* x, std::uint16_t* out, std::int64_t n) {
  gpu::launch(round_bf16_kernel,
              dim3(gpu::blocks_for(static_cast<std::size_t>((n + 3) / 4), kThreads)),
              dim3(kThreads), 0, gpu::default_stream(), x, out, n);
}

double launch_multiply_adds(float* sink, int blocks, int rounds) {
  gpu::launch(multiply_adds_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
              gpu::default_stream(), sink, rounds);
  return 2.0 * kChains * rounds * kThreads * blocks;
}

}  // namespace flowgrad::bench
