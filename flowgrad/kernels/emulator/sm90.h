#pragma once

#include <cstddef>
#include <cstdint>

#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/gpu_tensor_map.h"

/// Barriers in shared memory, the copy engine and the matrix instructions of a warp group. As with
/// cp.async, nothing happens before somebody waits for it.
namespace flowgrad::gpu::emulator {

void mbarrier_init(std::uint64_t* barrier, unsigned count);
/// Arrives once, and announces bytes that the copy engine will deliver in this phase.
void mbarrier_arrive(std::uint64_t* barrier, unsigned expected_bytes);
/// Waits until the phase of this parity is over.
void mbarrier_wait(std::uint64_t* barrier, unsigned parity, const Site& site);

void tensor_load(void* destination, const TensorMap& map, int column, int row,
                 std::uint64_t* barrier);

/// d (n / 2 registers of the calling lane) = A B (+ d), A 64 x 32 bytes, B n x 32 bytes, given by
/// their descriptors; tf32 or bfloat16.
void wgmma(float* d, int n, std::uint64_t a, std::uint64_t b, bool accumulate, bool tf32);
void wgmma_commit();
void wgmma_wait(unsigned n_pending);

void sm90_start_block();

}  // namespace flowgrad::gpu::emulator
