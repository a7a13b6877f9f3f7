#include "flowgrad/kernels/cpu/ladder.h"

#include "flowgrad/kernels/cpu/dispatch.h"
#include "flowgrad/kernels/parallel.h"

namespace flowgrad::kernels::cpu {
namespace {

/// Rung n of the instruction set in use.
template <LadderFunction LadderTable::*rung>
void of_isa(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
            std::int64_t k) {
  (isa().ladder->*rung)(a, b, c, m, n, k);
}

/// Rung 6: the rows of C in as many parts as there are threads, each a product of its own.
void threaded(const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
              std::int64_t k) {
  const std::int64_t parts = num_threads();
  parallel_for(parts, [&](std::int64_t i) {
    const std::int64_t begin = m * i / parts, end = m * (i + 1) / parts;
    isa().ladder->packed(a + begin * k, b, c + begin * n, end - begin, n, k);
  });
}

constexpr LadderRung kRungs[] = {
    {1, "naive", &of_isa<&LadderTable::naive>},
    {2, "loop order", &of_isa<&LadderTable::loop_order>},
    {3, "blocked", &of_isa<&LadderTable::blocked>},
    {4, "register tile", &of_isa<&LadderTable::register_tile>},
    {5, "packed", &of_isa<&LadderTable::packed>},
    {6, "threaded", &threaded},
};

}  // namespace

std::span<const LadderRung> matmul_ladder() { return kRungs; }

}  // namespace flowgrad::kernels::cpu
