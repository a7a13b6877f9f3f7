#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <vector>

#include "flowgrad/cli/bench.h"
#include "flowgrad/kernels/parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace flowgrad::cli {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr int kRounds = 200000;
constexpr int kChains = 12;     // enough independent chains to fill the pipes of current cores
constexpr int kChains512 = 24;  // with 12 of them a core of Emerald Rapids falls 8 % short
// The loops over the chains are unrolled: chains in memory would measure the stores.
volatile float sink = 0;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) double fma_512() {
  __m512 a[kChains512];
  for (auto& v : a) v = _mm512_set1_ps(1.0f);
  const __m512 m = _mm512_set1_ps(0.9999f);
  const __m512 c = _mm512_set1_ps(1e-4f);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 24
    for (auto& v : a) v = _mm512_fmadd_ps(v, m, c);
  }
  for (auto& v : a) sink = sink + _mm512_cvtss_f32(v);
  return 2.0 * 16 * kChains512 * kRounds;
}

__attribute__((target("avx2,fma"))) double fma_256() {
  __m256 a[kChains];
  for (auto& v : a) v = _mm256_set1_ps(1.0f);
  const __m256 m = _mm256_set1_ps(0.9999f);
  const __m256 c = _mm256_set1_ps(1e-4f);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (auto& v : a) v = _mm256_fmadd_ps(v, m, c);
  }
  for (auto& v : a) sink = sink + _mm256_cvtss_f32(v);
  return 2.0 * 8 * kChains * kRounds;
}
#endif

double fma_plain() {
  float a[kChains * 4];
  for (auto& v : a) v = 1.0f;
  for (int r = 0; r < kRounds; ++r) {
    for (auto& v : a) v = v * 0.9999f + 1e-4f;
  }
  for (auto& v : a) sink = sink + v;
  return 2.0 * 4 * kChains * kRounds;
}

double fma_loop() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return fma_512();
  if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2")) return fma_256();
#endif
  return fma_plain();
}

}  // namespace

double multiply_add_rate() {
  const int threads = kernels::num_threads();
  std::vector<double> work(static_cast<size_t>(threads));
  const double start = seconds();
  kernels::parallel_for(threads, [&](int64_t i) { work[static_cast<size_t>(i)] = fma_loop(); });
  return std::accumulate(work.begin(), work.end(), 0.0) / (seconds() - start) * 1e-9;
}

Roofline measure_roofline() {
  Roofline best;
  const int threads = kernels::num_threads();
  // 64 MiB a thread: beyond the caches.
  const size_t bytes = size_t{64} << 20;
  std::vector<std::vector<char>> from(static_cast<size_t>(threads)),
      to(static_cast<size_t>(threads));
  kernels::parallel_for(threads, [&](int64_t i) {
    from[static_cast<size_t>(i)].assign(bytes, 1);
    to[static_cast<size_t>(i)].assign(bytes, 2);
  });
  for (int repeat = 0; repeat < 7; ++repeat) {
    // A core that was idle takes some milliseconds to its highest clock.
    for (int i = 0; i < 8; ++i) best.gflops = std::max(best.gflops, multiply_add_rate());
    const double start = seconds();
    kernels::parallel_for(threads, [&](int64_t i) {
      std::memcpy(to[static_cast<size_t>(i)].data(), from[static_cast<size_t>(i)].data(), bytes);
    });
    best.gbytes = std::max(best.gbytes,
                           2.0 * static_cast<double>(bytes) * threads / (seconds() - start) * 1e-9);
  }
  return best;
}

}  // namespace flowgrad::cli
