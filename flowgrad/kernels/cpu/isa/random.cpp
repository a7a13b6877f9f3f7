// Random numbers for one instruction set: Philox4x32-10 with a block in every lane, and the one
// Box-Muller transform of core/normal.h over registers. The bits are those of the plain loops.

#include "flowgrad/kernels/cpu/isa/shuffle.h"

// No copy of these functions outside of the kernels of their instruction set.
#define FLOWGRAD_NORMAL_FUNCTION FG_INLINE
#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::RandomTable;
using cpu::RandomTables;
using std::int64_t;
using std::uint32_t;
using std::uint64_t;

constexpr int kBlocks = kLanes<double>;
using Words32 = Raw<uint32_t, 2 * kBlocks>;
using Words64 = Raw<uint64_t, kBlocks>;

/// The product of the lower halves of every lane.
FG_INLINE Words64 multiply(Words64 a, uint64_t b) {
#if defined(FG_AVX512)
  // With a mask of all lanes: the plain one reads a register that it leaves undefined, and g++ 12
  // warns of that.
  return reinterpret_cast<Words64>(_mm512_maskz_mul_epu32(
      0xff, reinterpret_cast<__m512i>(a), _mm512_set1_epi64(static_cast<int64_t>(b))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words64>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<int64_t>(b))));
#elif defined(__x86_64__)
  return reinterpret_cast<Words64>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(static_cast<int64_t>(b))));
#else
  return (a & 0xffffffffu) * b;
#endif
}

/// Four words of kBlocks blocks from block `first` on, see Philox. Only the lower half of a lane
/// counts: what the rounds leave in the upper one is never read.
struct Blocks {
  Words64 word[4];

  FG_INLINE Blocks(uint64_t seed, uint64_t stream, uint64_t first) {
    Words64 lane;
    for (int i = 0; i < kBlocks; ++i) lane[i] = static_cast<uint64_t>(i);
    const Words64 index = lane + first;
    Words64 c0 = index, c1 = index >> 32;
    Words64 c2 = Words64{} + stream, c3 = Words64{} + (stream >> 32);
    auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const Words64 p0 = multiply(c0, 0xD2511F53u), p1 = multiply(c2, 0xCD9E8D57u);
      c0 = (p1 >> 32) ^ c1 ^ uint64_t { k0 };
      c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ uint64_t { k1 };
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
  }
  /// Words i and i + 1 as the upper and lower half of one.
  FG_INLINE Words64 joined(int i) const {
    return (word[i] << 32) | (word[i + 1] & uint64_t{0xffffffffu});
  }
};

/// The lower halves of a's lanes, then of b's.
template <int... I>
FG_INLINE Words32 lower_halves(Words64 a, Words64 b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(reinterpret_cast<Words32>(a), reinterpret_cast<Words32>(b),
                                 2 * I...);
}

/// Elements of a and b in turn, from their first or second halves.
template <int N, bool Second>
struct Zip {
  static constexpr int lane(int i) { return i % 2 * N + i / 2 + (Second ? N / 2 : 0); }
};
template <class T, int N>
FG_INLINE void zip(vec<T, N>& a, vec<T, N>& b) {
  const vec<T, N> first = shuffle<Zip<N, false>>(a, b);
  b = shuffle<Zip<N, true>>(a, b);
  a = first;
}

/// out[i], i < n, from registers of Count elements a block that make(first block, registers) fills:
/// register j has element j of every block.
template <class T, int Count, class Make>
FG_INLINE void generate(uint64_t first_block, int64_t n, T* out, Make make) {
  using V = vec<T>;
  constexpr int W = V::size;
  for (int64_t i = 0; i < n; i += Count * W, first_block += W) {
    V x[Count];
    make(first_block, x);
    if constexpr (Count == 4) {
      zip(x[0], x[2]);
      zip(x[1], x[3]);
      zip(x[0], x[1]);
      zip(x[2], x[3]);
    } else {
      zip(x[0], x[1]);
    }
    if (n - i >= Count * W) {
      for (int j = 0; j < Count; ++j) x[j].store(out + i + j * W);
      continue;
    }
    for (int j = 0; j < Count && i + j * W < n; ++j) {
      const int64_t left = n - i - j * W;
      x[j].store(out + i + j * W, left < W ? static_cast<int>(left) : W);
    }
  }
}

/// f(words of W blocks) for the four words of a block of 32-bit draws.
template <class F>
FG_INLINE void for_words(uint64_t seed, uint64_t stream, uint64_t first, F f) {
  const Blocks a(seed, stream, first), b(seed, stream, first + kBlocks);
  unroll<4>([&](auto j) __attribute__((always_inline)) {
    f(j, lower_halves(a.word[j], b.word[j], std::make_integer_sequence<int, 2 * kBlocks>{}));
  });
}

/// Words of 52 bits or fewer as doubles: exact.
FG_INLINE vec<double> to_doubles(Words64 x) {
  return vec<double>(reinterpret_cast<Raw<double, kBlocks>>(x | 0x4330000000000000u)) -
         vec<double>(0x1p52);
}

template <class T>
FG_INLINE vec<T> between(vec<T> u, T low, T high, T below_high) {
  const vec<T> value = u * vec<T>(high - low) + vec<T>(low);
  return select(value < vec<T>(high), value, vec<T>(below_high));
}

template <class T>
void uniform(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, T low, T high, T below_high,
             T* out) {
  using V = vec<T>;
  if constexpr (sizeof(T) == 4) {
    generate<T, 4>(
        first, n, out, [=](uint64_t block, V(&x)[4]) __attribute__((always_inline)) {
          for_words(
              seed, stream, block, [&](auto j, Words32 w) __attribute__((always_inline)) {
                const V u(__builtin_convertvector(
                    reinterpret_cast<Raw<std::int32_t, V::size>>(w >> 8), Raw<float, V::size>));
                x[j] = between(u * V(0x1p-24f), low, high, below_high);
              });
        });
  } else {
    generate<T, 2>(
        first, n, out, [=](uint64_t block, V(&x)[2]) __attribute__((always_inline)) {
          const Blocks b(seed, stream, block);
          for (int j = 0; j < 2; ++j) {
            const Words64 upper = b.word[2 * j] & uint64_t{0xffffffffu};
            const Words64 lower = (b.word[2 * j + 1] & uint64_t{0xffffffffu}) >> 11;
            const V u = to_doubles(upper) * V(0x1p-32) + to_doubles(lower) * V(0x1p-53);
            x[j] = between(u, low, high, below_high);
          }
        });
  }
}

template <class T>
void normal(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, T mean, T deviation,
            T* out) {
  using V = vec<T>;
  using F = Raw<T, V::size>;
  const auto moved = [=](F z) __attribute__((always_inline)) {
    return V(normal::affine(z, V(deviation).v, V(mean).v));
  };
  if constexpr (sizeof(T) == 4) {
    generate<T, 4>(
        first, n, out, [=](uint64_t block, V(&x)[4]) __attribute__((always_inline)) {
          Words32 words[4];
          for_words(
              seed, stream,
              block, [&](auto j, Words32 w) __attribute__((always_inline)) { words[j] = w; });
          for (int j = 0; j < 4; j += 2) {
            const auto z = normal::box_muller32<F>(words[j], words[j + 1]);
            x[j] = moved(z.first);
            x[j + 1] = moved(z.second);
          }
        });
  } else {
    generate<T, 2>(
        first, n, out, [=](uint64_t block, V(&x)[2]) __attribute__((always_inline)) {
          const Blocks b(seed, stream, block);
          const auto z = normal::box_muller64<F>(b.joined(0), b.joined(2));
          x[0] = moved(z.first);
          x[1] = moved(z.second);
        });
  }
}

void words(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, uint32_t* out) {
  using V = vec<float>;  // for its moves between lanes
  generate<float, 4>(
      first, n,
      reinterpret_cast<float*>(out), [=](uint64_t block, V(&x)[4]) __attribute__((always_inline)) {
        for_words(
            seed, stream, block, [&](auto j, Words32 w) __attribute__((always_inline)) {
              x[j] = V(reinterpret_cast<Raw<float, V::size>>(w));
            });
      });
}

template <class T>
constexpr RandomTable<T> table_of() {
  return {&uniform<T>, &normal<T>};
}

}  // namespace

extern const RandomTables random_tables;
const RandomTables random_tables = {table_of<float>(), table_of<double>(), &words};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
