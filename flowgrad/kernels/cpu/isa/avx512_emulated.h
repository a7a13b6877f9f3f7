#pragma once
// The AVX-512 instructions that this folder uses, as plain loops: so that processors without them
// can test what is compiled for them, with the option FLOWGRAD_EMULATED_AVX512. Included by vec.h
// alone. Comments give what Intel's manual says of lanes that a mask leaves out.

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

typedef std::int32_t Words512 __attribute__((vector_size(64), may_alias));

template <class V, class F>
FG_INLINE V emulated_lanes(F f) {
  V out = {};
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(out[0])); ++i) out[i] = f(i);
  return out;
}

/// A bit for every lane that is not 0.
template <class V>
FG_INLINE unsigned emulated_nonzero(V v) {
  unsigned bits = 0;
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(v[0])); ++i)
    bits |= static_cast<unsigned>(v[i] != 0) << i;
  return bits;
}

template <class V, class T>
FG_INLINE V emulated_load(V other, unsigned mask, const T* p) {
  return emulated_lanes<V>([&](int i) { return (mask >> i & 1u) != 0 ? p[i] : other[i]; });
}
template <class V, class T>
FG_INLINE void emulated_store(T* p, unsigned mask, V v) {
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(T)); ++i)
    if ((mask >> i & 1u) != 0) p[i] = v[i];
}

template <class V>
struct EmulatedHalves {
  V low, high;
};
template <class H, class V>
FG_INLINE EmulatedHalves<H> emulated_halves(V v) {
  EmulatedHalves<H> out;
  __builtin_memcpy(&out, &v, sizeof out);
  return out;
}
template <class V, class H>
FG_INLINE V emulated_whole(H low, H high) {
  const EmulatedHalves<H> halves{low, high};
  V out;
  __builtin_memcpy(&out, &halves, sizeof out);
  return out;
}
/// f of the lower and of the upper halves.
template <class H, class V, class F, class... Vs>
FG_INLINE V emulated_by_halves(F f, V a, Vs... more) {
  const EmulatedHalves<H> x = emulated_halves<H>(a);
  return emulated_whole<V>(f(x.low, emulated_halves<H>(more).low...),
                           f(x.high, emulated_halves<H>(more).high...));
}

// Both operands' order decides what a NaN gives, so these are the processor's own instructions.
#define FG_EMULATE(name, V, H, half)                                                         \
  template <class... Vs>                                                                     \
  FG_INLINE V emulated_##name(V a, Vs... more) {                                             \
    return emulated_by_halves<H>(                                                            \
        [](auto... x) __attribute__((always_inline)) { return half(x...); }, a, V(more)...); \
  }
FG_EMULATE(fmadd_ps, __m512, __m256, _mm256_fmadd_ps)
FG_EMULATE(fmadd_pd, __m512d, __m256d, _mm256_fmadd_pd)
FG_EMULATE(max_ps, __m512, __m256, _mm256_max_ps)
FG_EMULATE(max_pd, __m512d, __m256d, _mm256_max_pd)
FG_EMULATE(min_ps, __m512, __m256, _mm256_min_ps)
FG_EMULATE(min_pd, __m512d, __m256d, _mm256_min_pd)
FG_EMULATE(sqrt_ps, __m512, __m256, _mm256_sqrt_ps)
FG_EMULATE(sqrt_pd, __m512d, __m256d, _mm256_sqrt_pd)
#undef FG_EMULATE

template <int Mode>
FG_INLINE __m512 emulated_round(__m512 x) {
  return emulated_by_halves<__m256>(
      [](__m256 h) __attribute__((always_inline)) { return _mm256_round_ps(h, Mode); }, x);
}
template <int Mode>
FG_INLINE __m512d emulated_round(__m512d x) {
  return emulated_by_halves<__m256d>(
      [](__m256d h) __attribute__((always_inline)) { return _mm256_round_pd(h, Mode); }, x);
}

/// x times 2 to the power floor(n), rounded once.
template <class V>
FG_INLINE V emulated_scalef(V x, V n) {
  return emulated_lanes<V>([&](int i) {
    const double power = __builtin_floor(static_cast<double>(n[i]));
    if (power != power || x[i] != x[i]) return x[i] + n[i];
    const int clamped = power < -5000 ? -5000 : power > 5000 ? 5000 : static_cast<int>(power);
    if constexpr (sizeof(x[0]) == 4)
      return __builtin_scalbnf(x[i], clamped);
    else
      return __builtin_scalbn(x[i], clamped);
  });
}

FG_INLINE __m512 emulated_insert(__m512 into, __m128 part, int at) {
  __builtin_memcpy(reinterpret_cast<float*>(&into) + 4 * at, &part, sizeof part);
  return into;
}
FG_INLINE __m512i emulated_mul_epu32(__m512i a, __m512i b) {
  const auto low = [](long long v) { return static_cast<unsigned long long>(v) & 0xffffffffu; };
  return emulated_lanes<__m512i>(
      [&](int i) { return static_cast<long long>(low(a[i]) * low(b[i])); });
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA

#define _mm512_fmadd_ps emulated_fmadd_ps
#define _mm512_fmadd_pd emulated_fmadd_pd
#define _mm512_maskz_max_ps(mask, a, b) emulated_max_ps(a, b)
#define _mm512_maskz_max_pd(mask, a, b) emulated_max_pd(a, b)
#define _mm512_maskz_min_ps(mask, a, b) emulated_min_ps(a, b)
#define _mm512_maskz_min_pd(mask, a, b) emulated_min_pd(a, b)
#define _mm512_maskz_sqrt_ps(mask, x) emulated_sqrt_ps(x)
#define _mm512_maskz_sqrt_pd(mask, x) emulated_sqrt_pd(x)
#define _mm512_maskz_roundscale_ps(mask, x, mode) emulated_round<mode>(__m512(x))
#define _mm512_maskz_roundscale_pd(mask, x, mode) emulated_round<mode>(__m512d(x))
#define _mm512_maskz_scalef_ps(mask, x, n) emulated_scalef<__m512>(x, n)
#define _mm512_maskz_scalef_pd(mask, x, n) emulated_scalef<__m512d>(x, n)
#define _mm512_maskz_loadu_ps(mask, p) emulated_load(__m512{}, mask, p)
#define _mm512_maskz_loadu_pd(mask, p) emulated_load(__m512d{}, mask, p)
#define _mm512_mask_loadu_ps(other, mask, p) emulated_load(__m512(other), mask, p)
#define _mm512_mask_loadu_pd(other, mask, p) emulated_load(__m512d(other), mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) emulated_store(p, mask, __m512(v))
#define _mm512_mask_storeu_pd(p, mask, v) emulated_store(p, mask, __m512d(v))
#define _mm512_maskz_cvtps_pd(mask, x) __builtin_convertvector(x, __m512d)
#define _mm512_maskz_cvtpd_ps(mask, x) __builtin_convertvector(x, __m256)
#define _mm512_maskz_extractf64x4_pd(mask, x, half) \
  (half == 0 ? emulated_halves<__m256d>(x).low : emulated_halves<__m256d>(x).high)
#define _mm512_castps128_ps512(x) emulated_insert(__m512{}, x, 0)
#define _mm512_insertf32x4 emulated_insert
#define _mm512_set1_epi64(x) (__m512i{} + (x))
#define _mm512_maskz_mul_epu32(mask, a, b) emulated_mul_epu32(a, b)
#define _mm512_movepi32_mask(v) emulated_nonzero(reinterpret_cast<Words512>(v) < 0)
#define _mm512_movepi64_mask(v) emulated_nonzero((v) < 0)
#define _mm512_test_epi32_mask(a, b) emulated_nonzero(reinterpret_cast<Words512>((a) & (b)))
#define _mm512_test_epi64_mask(a, b) emulated_nonzero((a) & (b))
