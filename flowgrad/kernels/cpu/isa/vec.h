#pragma once
// vec<T>: one register of the instruction set this file is compiled for, over the compiler's vector
// extensions; intrinsics only for what the extensions lack. Everything here has internal linkage:
// the same source is compiled once per instruction set, and a shared weak copy of an AVX-512
// function would crash an older processor.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#define FG_INLINE inline __attribute__((always_inline))

#if defined(FLOWGRAD_EMULATED_AVX512)
#include "flowgrad/kernels/cpu/isa/avx512_emulated.h"
#define FG_AVX512
#elif defined(__AVX512F__)
#define FG_AVX512
#endif

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

#if defined(FG_AVX512)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

/// Elements of T in one register.
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

template <class T, int N>
struct RawOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <class T, int N>
using Raw = typename RawOf<T, N>::type;

template <class T, int N = kLanes<T>>
struct vec;

/// Result of a comparison: all bits set where true.
template <class T, int N>
struct mask {
  Raw<BitsOf<T>, N> m;
  friend FG_INLINE mask operator&(mask a, mask b) { return {a.m & b.m}; }
  friend FG_INLINE mask operator|(mask a, mask b) { return {a.m | b.m}; }
  friend FG_INLINE mask operator!(mask a) { return {~a.m}; }
};

template <class T, int N>
struct vec {
  using value_type = T;
  static constexpr int size = N;
  Raw<T, N> v;

  vec() = default;
  FG_INLINE vec(Raw<T, N> raw) : v(raw) {}
  // s - 0 keeps the sign of a zero, s + 0 would not.
  template <class S>
  requires std::is_arithmetic_v<S>
  explicit FG_INLINE vec(S s) : v(static_cast<T>(s) - Raw<T, N>{}) {}

  static FG_INLINE vec load(const T* p) {
    vec r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  FG_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }
  /// The first n elements (0 <= n <= N), zeros behind them.
  static FG_INLINE vec load(const T* p, int n);
  FG_INLINE void store(T* p, int n) const;

  friend FG_INLINE vec operator-(vec a) { return {-a.v}; }
  friend FG_INLINE vec operator+(vec a, vec b) { return {a.v + b.v}; }
  friend FG_INLINE vec operator-(vec a, vec b) { return {a.v - b.v}; }
  friend FG_INLINE vec operator*(vec a, vec b) { return {a.v * b.v}; }
  friend FG_INLINE vec operator/(vec a, vec b) { return {a.v / b.v}; }
  friend FG_INLINE mask<T, N> operator==(vec a, vec b) { return {a.v == b.v}; }
  friend FG_INLINE mask<T, N> operator!=(vec a, vec b) { return {a.v != b.v}; }
  friend FG_INLINE mask<T, N> operator<(vec a, vec b) { return {a.v < b.v}; }
  friend FG_INLINE mask<T, N> operator<=(vec a, vec b) { return {a.v <= b.v}; }
  friend FG_INLINE mask<T, N> operator>(vec a, vec b) { return {a.v > b.v}; }
  friend FG_INLINE mask<T, N> operator>=(vec a, vec b) { return {a.v >= b.v}; }
};

template <class To, class From>
FG_INLINE To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  __builtin_memcpy(&r, &x, sizeof r);
  return r;
}

template <class T, int N>
FG_INLINE Raw<BitsOf<T>, N> to_bits(vec<T, N> x) {
  return bit_cast<Raw<BitsOf<T>, N>>(x.v);
}
template <class T, int N>
FG_INLINE vec<T, N> from_bits(Raw<BitsOf<T>, N> x) {
  return {bit_cast<Raw<T, N>>(x)};
}

/// Sums and differences of bit patterns, which may wrap around where a lane holds no number.
template <class T, int N>
FG_INLINE Raw<BitsOf<T>, N> wrap_add(Raw<BitsOf<T>, N> a, Raw<BitsOf<T>, N> b) {
  using U = Raw<std::make_unsigned_t<BitsOf<T>>, N>;
  return bit_cast<Raw<BitsOf<T>, N>>(bit_cast<U>(a) + bit_cast<U>(b));
}
template <class T, int N>
FG_INLINE Raw<BitsOf<T>, N> wrap_sub(Raw<BitsOf<T>, N> a, Raw<BitsOf<T>, N> b) {
  using U = Raw<std::make_unsigned_t<BitsOf<T>>, N>;
  return bit_cast<Raw<BitsOf<T>, N>>(bit_cast<U>(a) - bit_cast<U>(b));
}
template <class T, int N>
FG_INLINE Raw<BitsOf<T>, N> all_bits(BitsOf<T> value) {
  return Raw<BitsOf<T>, N>{} + value;
}

template <class T, int N>
FG_INLINE vec<T, N> select(mask<T, N> c, vec<T, N> a, vec<T, N> b) {
  return {c.m ? a.v : b.v};
}

template <class T, int N>
FG_INLINE bool any(mask<T, N> c) {
#if defined(FG_AVX512)
  if constexpr (sizeof c.m == 64 && sizeof(T) == 4)
    return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(c.m), reinterpret_cast<__m512i>(c.m)) !=
           0;
  if constexpr (sizeof c.m == 64 && sizeof(T) == 8)
    return _mm512_test_epi64_mask(reinterpret_cast<__m512i>(c.m), reinterpret_cast<__m512i>(c.m)) !=
           0;
#endif
#if defined(__AVX__)
  if constexpr (sizeof c.m == 32)
    return _mm256_testz_si256(reinterpret_cast<__m256i>(c.m), reinterpret_cast<__m256i>(c.m)) == 0;
#endif
#if defined(__SSE4_1__)
  if constexpr (sizeof c.m == 16)
    return _mm_testz_si128(reinterpret_cast<__m128i>(c.m), reinterpret_cast<__m128i>(c.m)) == 0;
#endif
  for (int i = 0; i < N; ++i)
    if (c.m[i] != 0) return true;
  return false;
}

#if defined(__AVX2__)
/// All bits set in the first n of 8 lanes, as a mask of 32-bit words.
FG_INLINE __m256i first_words(int n) {
  alignas(32) static constexpr std::int32_t words[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 8 - n));
}
#endif

template <class T, int N>
FG_INLINE vec<T, N> vec<T, N>::load(const T* p, int n) {
#if defined(FG_AVX512)
  if constexpr (sizeof(Raw<T, N>) == 64 && std::is_same_v<T, float>)
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p)};
  if constexpr (sizeof(Raw<T, N>) == 64 && std::is_same_v<T, double>)
    return {_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p)};
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(Raw<T, N>) == 32 && std::is_same_v<T, float>)
    return {_mm256_maskload_ps(p, first_words(n))};
  if constexpr (sizeof(Raw<T, N>) == 32 && std::is_same_v<T, double>)
    return {_mm256_maskload_pd(p, first_words(2 * n))};
#endif
  Raw<T, N> r = {};
  __builtin_memcpy(&r, p, static_cast<std::size_t>(n) * sizeof(T));
  return {r};
}

template <class T, int N>
FG_INLINE void vec<T, N>::store(T* p, int n) const {
#if defined(FG_AVX512)
  if constexpr (sizeof v == 64 && std::is_same_v<T, float>) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v);
    return;
  }
  if constexpr (sizeof v == 64 && std::is_same_v<T, double>) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), v);
    return;
  }
#endif
#if defined(__AVX2__)
  // In halves: some processors run a masked store as a long microprogram.
  if constexpr (sizeof v == 32 && std::is_same_v<T, float>) {
    if (n == 8) return store(p);
    __m128 rest = _mm256_castps256_ps128(v);
    if ((n & 4) != 0) {
      _mm_storeu_ps(p, rest);
      p += 4;
      rest = _mm256_extractf128_ps(v, 1);
    }
    if ((n & 2) != 0) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
      p += 2;
      rest = _mm_movehl_ps(rest, rest);
    }
    if ((n & 1) != 0) _mm_store_ss(p, rest);
    return;
  }
  if constexpr (sizeof v == 32 && std::is_same_v<T, double>) {
    if (n == 4) return store(p);
    __m128d rest = _mm256_castpd256_pd128(v);
    if ((n & 2) != 0) {
      _mm_storeu_pd(p, rest);
      p += 2;
      rest = _mm256_extractf128_pd(v, 1);
    }
    if ((n & 1) != 0) _mm_store_sd(p, rest);
    return;
  }
#endif
  __builtin_memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T));
}

/// a * b + c, rounded once where the instruction set can.
template <class T, int N>
FG_INLINE vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
#if defined(FG_AVX512)
  if constexpr (sizeof a.v == 64 && std::is_same_v<T, float>)
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  if constexpr (sizeof a.v == 64 && std::is_same_v<T, double>)
    return {_mm512_fmadd_pd(a.v, b.v, c.v)};
#endif
#if defined(__FMA__)
  if constexpr (sizeof a.v == 32 && std::is_same_v<T, float>)
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
  if constexpr (sizeof a.v == 32 && std::is_same_v<T, double>)
    return {_mm256_fmadd_pd(a.v, b.v, c.v)};
  if constexpr (sizeof a.v == 16 && std::is_same_v<T, float>) return {_mm_fmadd_ps(a.v, b.v, c.v)};
  if constexpr (sizeof a.v == 16 && std::is_same_v<T, double>) return {_mm_fmadd_pd(a.v, b.v, c.v)};
#endif
  return a * b + c;
}

template <class T, int N>
FG_INLINE vec<T, N> abs(vec<T, N> x) {
  constexpr BitsOf<T> keep = ~(BitsOf<T>(1) << (sizeof(T) * 8 - 1));
  return from_bits<T, N>(to_bits(x) & keep);
}

/// Magnitude of x, sign of s.
template <class T, int N>
FG_INLINE vec<T, N> copysign(vec<T, N> x, vec<T, N> s) {
  constexpr BitsOf<T> sign = BitsOf<T>(1) << (sizeof(T) * 8 - 1);
  return from_bits<T, N>((to_bits(x) & ~sign) | (to_bits(s) & sign));
}

template <class T, int N>
FG_INLINE vec<T, N> sqrt(vec<T, N> x) {
#if defined(FG_AVX512)
  if constexpr (sizeof x.v == 64 && std::is_same_v<T, float>)
    return {_mm512_maskz_sqrt_ps(static_cast<__mmask16>(-1), x.v)};
  if constexpr (sizeof x.v == 64 && std::is_same_v<T, double>)
    return {_mm512_maskz_sqrt_pd(static_cast<__mmask8>(-1), x.v)};
#endif
#if defined(__AVX__)
  if constexpr (sizeof x.v == 32 && std::is_same_v<T, float>) return {_mm256_sqrt_ps(x.v)};
  if constexpr (sizeof x.v == 32 && std::is_same_v<T, double>) return {_mm256_sqrt_pd(x.v)};
#endif
#if defined(__SSE2__)
  if constexpr (sizeof x.v == 16 && std::is_same_v<T, float>) return {_mm_sqrt_ps(x.v)};
  if constexpr (sizeof x.v == 16 && std::is_same_v<T, double>) return {_mm_sqrt_pd(x.v)};
#endif
  for (int i = 0; i < N; ++i) x.v[i] = static_cast<T>(__builtin_sqrt(static_cast<double>(x.v[i])));
  return x;
}

/// Mode 0: nearest even, 1: down, 2: up.
template <int Mode, class T, int N>
FG_INLINE vec<T, N> round_mode(vec<T, N> x) {
#if defined(FG_AVX512)
  // The unmasked forms start from an undefined register, which GCC 12 warns of.
  if constexpr (sizeof x.v == 64 && std::is_same_v<T, float>)
    return {_mm512_maskz_roundscale_ps(static_cast<__mmask16>(-1), x.v, Mode | 8)};
  if constexpr (sizeof x.v == 64 && std::is_same_v<T, double>)
    return {_mm512_maskz_roundscale_pd(static_cast<__mmask8>(-1), x.v, Mode | 8)};
#endif
#if defined(__AVX__)
  if constexpr (sizeof x.v == 32 && std::is_same_v<T, float>)
    return {_mm256_round_ps(x.v, Mode | 8)};
  if constexpr (sizeof x.v == 32 && std::is_same_v<T, double>)
    return {_mm256_round_pd(x.v, Mode | 8)};
#endif
#if defined(__SSE4_1__)
  if constexpr (sizeof x.v == 16 && std::is_same_v<T, float>) return {_mm_round_ps(x.v, Mode | 8)};
  if constexpr (sizeof x.v == 16 && std::is_same_v<T, double>) return {_mm_round_pd(x.v, Mode | 8)};
#endif
  for (int i = 0; i < N; ++i) {
    const double d = static_cast<double>(x.v[i]);
    x.v[i] = static_cast<T>(Mode == 0   ? __builtin_nearbyint(d)
                            : Mode == 1 ? __builtin_floor(d)
                                        : __builtin_ceil(d));
  }
  return x;
}
template <class T, int N>
FG_INLINE vec<T, N> round(vec<T, N> x) {
  return round_mode<0>(x);
}
template <class T, int N>
FG_INLINE vec<T, N> floor(vec<T, N> x) {
  return round_mode<1>(x);
}
template <class T, int N>
FG_INLINE vec<T, N> ceil(vec<T, N> x) {
  return round_mode<2>(x);
}

/// a > b ? a : b, which is b where one of them is NaN: what the processor's instruction gives.
template <class T, int N>
FG_INLINE vec<T, N> larger(vec<T, N> a, vec<T, N> b) {
#if defined(FG_AVX512)
  if constexpr (sizeof a.v == 64 && std::is_same_v<T, float>)
    return {_mm512_maskz_max_ps(static_cast<__mmask16>(-1), a.v, b.v)};
  if constexpr (sizeof a.v == 64 && std::is_same_v<T, double>)
    return {_mm512_maskz_max_pd(static_cast<__mmask8>(-1), a.v, b.v)};
#endif
#if defined(__AVX__)
  if constexpr (sizeof a.v == 32 && std::is_same_v<T, float>) return {_mm256_max_ps(a.v, b.v)};
  if constexpr (sizeof a.v == 32 && std::is_same_v<T, double>) return {_mm256_max_pd(a.v, b.v)};
#endif
  return select(a > b, a, b);
}
/// a < b ? a : b, which is b where one of them is NaN.
template <class T, int N>
FG_INLINE vec<T, N> smaller(vec<T, N> a, vec<T, N> b) {
#if defined(FG_AVX512)
  if constexpr (sizeof a.v == 64 && std::is_same_v<T, float>)
    return {_mm512_maskz_min_ps(static_cast<__mmask16>(-1), a.v, b.v)};
  if constexpr (sizeof a.v == 64 && std::is_same_v<T, double>)
    return {_mm512_maskz_min_pd(static_cast<__mmask8>(-1), a.v, b.v)};
#endif
#if defined(__AVX__)
  if constexpr (sizeof a.v == 32 && std::is_same_v<T, float>) return {_mm256_min_ps(a.v, b.v)};
  if constexpr (sizeof a.v == 32 && std::is_same_v<T, double>) return {_mm256_min_pd(a.v, b.v)};
#endif
  return select(a < b, a, b);
}

/// NaN in either operand gives NaN.
template <class T, int N>
FG_INLINE vec<T, N> max(vec<T, N> a, vec<T, N> b) {
  return {((a.v > b.v) | (a.v != a.v)) ? a.v : b.v};
}
template <class T, int N>
FG_INLINE vec<T, N> min(vec<T, N> a, vec<T, N> b) {
  return {((a.v < b.v) | (a.v != a.v)) ? a.v : b.v};
}

/// -1, 0 or 1; NaN stays NaN.
template <class T, int N>
FG_INLINE vec<T, N> sign(vec<T, N> x) {
  using V = vec<T, N>;
  const V one = copysign(V(1), x);
  return select(x == V(0), V(0), select(x == x, one, x));
}

// GCC 12 converts whole registers in halves, and joins halves by way of memory.
template <class T, int N>
FG_INLINE vec<double, N> to_double(vec<T, N> x) {
#if defined(FG_AVX512)
  if constexpr (std::is_same_v<T, float> && N == 8)
    return {_mm512_maskz_cvtps_pd(static_cast<__mmask8>(-1), x.v)};
#endif
#if defined(__AVX__)
  if constexpr (std::is_same_v<T, float> && N == 4) return {_mm256_cvtps_pd(x.v)};
#endif
  return {__builtin_convertvector(x.v, Raw<double, N>)};
}
template <class T, int N>
FG_INLINE vec<float, N> to_float(vec<T, N> x) {
#if defined(FG_AVX512)
  if constexpr (std::is_same_v<T, double> && N == 8)
    return {_mm512_maskz_cvtpd_ps(static_cast<__mmask8>(-1), x.v)};
#endif
#if defined(__AVX__)
  if constexpr (std::is_same_v<T, double> && N == 4) return {_mm256_cvtpd_ps(x.v)};
#endif
  return {__builtin_convertvector(x.v, Raw<float, N>)};
}

/// Lower and upper half of a float register as doubles, and back.
template <int N>
struct Halves {
  vec<double, N / 2> low, high;
};
template <int N>
FG_INLINE Halves<N> widen(vec<float, N> x) {
  // Copied in halves, a register would go by way of memory, with two stores before one load.
#if defined(FG_AVX512)
  if constexpr (N == 16) {
    const auto half = [&]<int I>() __attribute__((always_inline)) {
      return to_double(vec<float, 8>(reinterpret_cast<__m256>(_mm512_maskz_extractf64x4_pd(
          static_cast<__mmask8>(-1), reinterpret_cast<__m512d>(x.v), I))));
    };
    return {half.template operator()<0>(), half.template operator()<1>()};
  }
#endif
#if defined(__AVX__)
  if constexpr (N == 8)
    return {to_double(vec<float, 4>(_mm256_castps256_ps128(x.v))),
            to_double(vec<float, 4>(_mm256_extractf128_ps(x.v, 1)))};
#endif
  struct {
    Raw<float, N / 2> low, high;
  } parts;
  static_assert(sizeof parts == sizeof x.v);
  __builtin_memcpy(&parts, &x.v, sizeof parts);
  return {to_double(vec<float, N / 2>(parts.low)), to_double(vec<float, N / 2>(parts.high))};
}
template <int N, int... I>
FG_INLINE vec<float, N> join_halves(vec<float, N / 2> low, vec<float, N / 2> high,
                                    std::integer_sequence<int, I...>) {
  return {__builtin_shufflevector(low.v, high.v, I...)};
}
template <int N>
FG_INLINE vec<float, N> narrow(vec<double, N / 2> low, vec<double, N / 2> high) {
  return join_halves<N>(to_float(low), to_float(high), std::make_integer_sequence<int, N>{});
}

/// Applies a scalar function to every lane.
template <class T, int N, class F>
FG_INLINE vec<T, N> per_lane(vec<T, N> x, F f) {
  for (int i = 0; i < N; ++i) x.v[i] = f(x.v[i]);
  return x;
}
template <class T, int N, class F>
FG_INLINE vec<T, N> per_lane(vec<T, N> a, vec<T, N> b, F f) {
  for (int i = 0; i < N; ++i) a.v[i] = f(a.v[i], b.v[i]);
  return a;
}

/// y with f(x) in some lanes, seldom any: out of line, as a loop over the lanes of a register would
/// have GCC keep that register in memory on the common path too.
template <class T, class F, class... X>
[[gnu::noinline, gnu::cold]] void replace_lanes(const BitsOf<T>* which, T* y, int n, F f,
                                                const X*... x) {
  for (int i = 0; i < n; ++i)
    if (which[i] != 0) y[i] = f(x[i]...);
}
template <class T, int N, class F, class... X>
FG_INLINE vec<T, N> rare_lanes(mask<T, N> which, vec<T, N> y, F f, X... x) {
  if (__builtin_expect(!any(which), 1)) return y;
  Raw<T, N> out = y.v;
  const Raw<BitsOf<T>, N> where = which.m;
  const auto call = [&](auto... in) __attribute__((always_inline)) {
    replace_lanes(reinterpret_cast<const BitsOf<T>*>(&where), reinterpret_cast<T*>(&out), N, f,
                  reinterpret_cast<const T*>(&in)...);
  };
  call(x.v...);
  return {out};
}

/// f(i, count) for every register of n elements; count is a constant but for the last.
template <int W, class F>
FG_INLINE void for_registers(int64_t n, F f) {
  int64_t i = 0;
  for (; i + W <= n; i += W) f(i, std::integral_constant<int, W>{});
  if (i < n) f(i, static_cast<int>(n - i));
}
template <class T, int W>
FG_INLINE vec<T> take(const T* p, std::integral_constant<int, W>) {
  return vec<T>::load(p);
}
template <class T>
FG_INLINE vec<T> take(const T* p, int count) {
  return vec<T>::load(p, count);
}
template <class T, int W>
FG_INLINE void put(vec<T> v, T* p, std::integral_constant<int, W>) {
  v.store(p);
}
template <class T>
FG_INLINE void put(vec<T> v, T* p, int count) {
  v.store(p, count);
}

}  // namespace
}  // namespace flowgrad::kernels::FLOWGRAD_ISA
