#pragma once

#include <cstdint>
#include <span>

/// One product, c = a b, in steps from the plainest loop to the idea behind cpu/gemm.h: to read in
/// order (cpu/isa/ladder), and to measure each idea by itself. The library multiplies with gemm.
namespace flowgrad::kernels::cpu {

/// Row-major and without gaps: a (m, k), b (k, n), c (m, n), float32. Any size, 0 included.
using LadderFunction = void (*)(const float* a, const float* b, float* c, std::int64_t m,
                                std::int64_t n, std::int64_t k);

struct LadderRung {
  int number;
  const char* name;
  LadderFunction run;
};

/// The rungs, compiled for the instruction set in use.
std::span<const LadderRung> matmul_ladder();

}  // namespace flowgrad::kernels::cpu
