// The rate of float32 multiply-adds, for measure_limits.
#include "flowgrad/kernels/gpu.cuh"
#include "support/limits.h"

namespace flowgrad::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;  // independent, so that no result is waited for

__global__ void multiply_adds_kernel(float* sink, int rounds) {
  float chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = static_cast<float>(threadIdx.x + i);
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) chain[i] = fmaf(chain[i], 0.9999f, 1e-4f);
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += chain[i];
  if (sum == 12345.0f) *sink = sum;  // never, but the compiler cannot know
}

}  // namespace

double launch_multiply_adds(float* sink, int blocks, int rounds) {
  gpu::launch(multiply_adds_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
              gpu::default_stream(), sink, rounds);
  return 2.0 * kChains * rounds * kThreads * blocks;
}

}  // namespace flowgrad::bench
