// The matrix units: a warp multiplies 16 x 8 x 8 in one instruction. They keep 10 bits of fraction
// of each operand (TF32), so the operands are rounded first and the error is about 2^-11 for each.
#include "flowgrad/kernels/cuda/ladder/tf32_tile.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

struct RoundedOnce {
  static GPU_INLINE void add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    std::uint32_t x[4], y[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = gpu::to_tf32(a[i]);
#pragma unroll
    for (int i = 0; i < 2; ++i) y[i] = gpu::to_tf32(b[i]);
    gpu::mma_m16n8k8_tf32(c, x, y);
  }
};

}  // namespace

void tf32(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(tf32_kernel<RoundedOnce>, grid_of(m, n, Tf32Tile::BM, Tf32Tile::BN),
              dim3(Tf32Tile::kThreads), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
