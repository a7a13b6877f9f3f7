#include "flowgrad/kernels/cuda/ladder/ladder.h"

namespace flowgrad::kernels::cuda {
namespace {

// A plain sum of k products of float32: its error grows with the square root of k, and stays below
// this for the sizes that are measured.
constexpr double kFloat32 = 1e-6;

constexpr LadderRung kRungs[] = {
    {1, "naive", ladder::naive, 50, false, kFloat32},
    {2, "coalesced", ladder::coalesced, 50, false, kFloat32},
    {3, "shared-memory tile", ladder::shared_tile, 50, false, kFloat32},
    {4, "1-D register tile", ladder::register_tile_1d, 50, false, kFloat32},
    {5, "2-D register tile", ladder::register_tile_2d, 50, false, kFloat32},
    {6, "vectorised", ladder::vectorised, 50, false, kFloat32},
    {7, "warp tile", ladder::warp_tile, 50, false, kFloat32},
};

}  // namespace

std::span<const LadderRung> matmul_ladder() { return kRungs; }

}  // namespace flowgrad::kernels::cuda
