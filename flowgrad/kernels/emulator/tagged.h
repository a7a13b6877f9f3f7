#pragma once

#include <cstdint>

#include "flowgrad/kernels/emulator/block.h"

/// What stands behind ptx_tagged.cuh: words that blocks hand each other.
namespace flowgrad::gpu::emulator {

void tagged_store(std::uint64_t* box, const std::uint64_t* words, int n_words);
/// Lets the others, and other blocks, run until all words of box have the tag in their upper half.
void tagged_wait(const std::uint64_t* box, int n_words, unsigned tag, std::uint64_t* words,
                 const Site& site);

}  // namespace flowgrad::gpu::emulator
