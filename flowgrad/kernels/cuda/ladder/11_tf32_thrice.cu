// Nearly the accuracy of float32 from the matrix units: x = high + low, both of them TF32, hold 21
// bits of fraction. Three products of four; low times low is below the last bit. Infinite operands
// give NaN.
#include "flowgrad/kernels/cuda/ladder/tf32_tile.cuh"

namespace flowgrad::kernels::cuda::ladder {
namespace {

struct InTwoParts {
  template <int N>
  static GPU_INLINE void split(const float (&x)[N], std::uint32_t (&high)[N],
                               std::uint32_t (&low)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      high[i] = gpu::to_tf32(x[i]);
      low[i] = gpu::to_tf32(x[i] - __uint_as_float(high[i]));
    }
  }
  static GPU_INLINE void add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    std::uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
    split(a, a_high, a_low);
    split(b, b_high, b_low);
    // The matrix units cut off what does not fit into their sum: over a deep product the error
    // would grow with k. Sums of eight products each are added up with rounding to nearest instead
    // (Ootomo and Yokota 2022).
    float part[4] = {};
    gpu::mma_m16n8k8_tf32(part, a_low, b_high);  // the small ones first
    gpu::mma_m16n8k8_tf32(part, a_high, b_low);
    gpu::mma_m16n8k8_tf32(part, a_high, b_high);
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] += part[i];
  }
};

}  // namespace

void tf32_thrice(const float* a, const float* b, float* c, int m, int n, int k,
                 gpu::Stream stream) {
  if (m == 0 || n == 0) return;
  gpu::launch(tf32_kernel<InTwoParts>, grid_of(m, n, Tf32Tile::BM, Tf32Tile::BN),
              dim3(Tf32Tile::kThreads), 0, stream, a, b, c, m, n, k);
}

}  // namespace flowgrad::kernels::cuda::ladder
