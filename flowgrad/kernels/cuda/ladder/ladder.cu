#include "flowgrad/kernels/cuda/ladder/ladder.h"

namespace flowgrad::kernels::cuda {
namespace {

// A plain sum of k products of float32: its error grows with the square root of k, and stays below
// this for the sizes that are measured.
constexpr double kFloat32 = 1e-6;
// Operands of 11 and of 8 bits, rounded to nearest: twice 2^-11 and 2^-8, and the sum's own error.
constexpr double kTf32 = 1e-3;
constexpr double kBf16 = 8e-3;
constexpr double kTf32Thrice = 2e-6;

constexpr LadderRung kRungs[] = {
    {1, "naive", ladder::naive, 50, false, kFloat32},
    {2, "coalesced", ladder::coalesced, 50, false, kFloat32},
    {3, "shared-memory tile", ladder::shared_tile, 50, false, kFloat32},
    {4, "1-D register tile", ladder::register_tile_1d, 50, false, kFloat32},
    {5, "2-D register tile", ladder::register_tile_2d, 50, false, kFloat32},
    {6, "vectorised", ladder::vectorised, 50, false, kFloat32},
    {7, "warp tile", ladder::warp_tile, 50, false, kFloat32},
    {8, "cp.async double buffer", ladder::cp_async, 80, false, kFloat32},
    {9, "TF32 mma.sync", ladder::tf32, 80, false, kTf32},
    {10, "bf16 mma.sync", ladder::bf16, 80, false, kBf16},
    {11, "3xTF32", ladder::tf32_thrice, 80, false, kTf32Thrice},
    {12, "TF32 TMA + wgmma", ladder::wgmma_tf32, 90, true, kTf32},
    {13, "bf16 TMA + wgmma", ladder::wgmma_bf16, 90, true, kBf16},
    {14, "float32 TMA", ladder::tma, 90, false, kFloat32},
};

}  // namespace

std::span<const LadderRung> matmul_ladder() { return kRungs; }

}  // namespace flowgrad::kernels::cuda
