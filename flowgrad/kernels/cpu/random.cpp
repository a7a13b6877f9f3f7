#include <algorithm>
#include <cmath>
#include <cstring>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// f(first element, count) for chunks of n elements; a chunk starts a block of words.
template <class F>
void for_draws(int64_t n, F&& f) {
  for_tasks(divide_up(n, kChunk), 8 * n, [&](int64_t i) {
    const int64_t begin = i * kChunk;
    f(begin, std::min(kChunk, n - begin));
  });
}

template <class T>
void draw(bool is_uniform, uint64_t seed, uint64_t stream, Params params, T* out, int64_t n) {
  const RandomTable<T>& t = random_table<T>();
  const T p = static_cast<T>(params.p), q = static_cast<T>(params.q);
  constexpr auto in_block = static_cast<int64_t>(16 / sizeof(T));
  for_draws(n, [&](int64_t begin, int64_t count) {
    const auto block = static_cast<uint64_t>(begin / in_block);
    if (is_uniform)
      t.uniform(seed, stream, block, count, p, q, std::nextafter(q, p), out + begin);
    else
      t.normal(seed, stream, block, count, p, q, out + begin);
  });
}

/// out[i] = f(word i): one word an element, whatever its type.
template <class T, class F>
void draw_by_word(uint64_t seed, uint64_t stream, T* out, int64_t n, F&& f) {
  for_draws(n, [&](int64_t begin, int64_t count) {
    auto* const words = scratch_of<uint32_t>(ScratchSlot::tile, kChunk);
    isa().random->words(seed, stream, static_cast<uint64_t>(begin / 4), count, words);
    for (int64_t i = 0; i < count; ++i) out[begin + i] = f(words[i]);
  });
}

}  // namespace

void CpuBackendFast::random(RandomKind kind, uint64_t seed, uint64_t stream, Params params,
                            View out) {
  const bool is_uniform = kind == RandomKind::uniform;
  const bool floating = out.dtype == DType::float32 || out.dtype == DType::float64;
  if (!floating || !out.is_contiguous() || kind == RandomKind::integer)
    return ReferenceBackend::random(kind, seed, stream, params, out);
  visit_floating("random", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* const to = out.as<T>();
    const int64_t n = out.numel();
    if (is_uniform || kind == RandomKind::normal)
      return draw(is_uniform, seed, stream, params, to, n);
    if (kind == RandomKind::rademacher)
      return draw_by_word(seed, stream, to, n, [](uint32_t w) { return w >> 31 ? T(1) : T(-1); });
    // k 2^-24 < p for the integer k of the word's upper 24 bits.
    const double limit = std::clamp(std::ceil(params.p * 0x1p24), 0.0, 0x1p24);
    const auto below = static_cast<int32_t>(limit);
    draw_by_word(seed, stream, to, n, [below](uint32_t w) {
      return static_cast<int32_t>(w >> 8) < below ? T(1) : T(0);
    });
  });
}

}  // namespace flowgrad::kernels
