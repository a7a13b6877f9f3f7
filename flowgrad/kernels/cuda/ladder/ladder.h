#pragma once

#include <span>

#include "flowgrad/kernels/gpu_runtime.h"

/// One product, c = a b, in steps from the plainest kernel to the device's matrix units: to read in
/// order, and to measure each idea by itself. CudaBackend::matmul uses the matrix units' where the
/// process asked for tf32 or bf16 (matmul_rounded.cu).
namespace flowgrad::kernels::cuda {

/// Row-major and without gaps: a (m, k), b (k, n), c (m, n), each aligned to 16 bytes. Any size
/// up to 2^31 - 256, 0 included.
using LadderFunction = void (*)(const float* a, const float* b, float* c, int m, int n, int k,
                                gpu::Stream stream);

struct LadderRung {
  int number;
  const char* name;
  LadderFunction run;
  /// Compute capability, 10 * major + minor: from this one on, or this one only.
  int needs;
  bool needs_exactly;
  /// |c - a b| is at most tolerance * (|a| |b|), element by element.
  double tolerance;

  bool runs_on(const gpu::DeviceInfo& device) const {
    const int capability = 10 * device.major + device.minor;
    return device.emulated || (needs_exactly ? capability == needs : capability >= needs);
  }
};

std::span<const LadderRung> matmul_ladder();

namespace ladder {
#define FLOWGRAD_RUNG(name) \
  void name(const float* a, const float* b, float* c, int m, int n, int k, gpu::Stream stream);
FLOWGRAD_RUNG(naive)
FLOWGRAD_RUNG(coalesced)
FLOWGRAD_RUNG(shared_tile)
FLOWGRAD_RUNG(register_tile_1d)
FLOWGRAD_RUNG(register_tile_2d)
FLOWGRAD_RUNG(vectorised)
FLOWGRAD_RUNG(warp_tile)
FLOWGRAD_RUNG(cp_async)
FLOWGRAD_RUNG(tf32)
FLOWGRAD_RUNG(bf16)
FLOWGRAD_RUNG(tf32_thrice)
FLOWGRAD_RUNG(wgmma_tf32)
FLOWGRAD_RUNG(wgmma_bf16)
FLOWGRAD_RUNG(tma)
#undef FLOWGRAD_RUNG
}  // namespace ladder

}  // namespace flowgrad::kernels::cuda
