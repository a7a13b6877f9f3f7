#include "flowgrad/core/random.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/normal.h"

using namespace flowgrad;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

namespace {

uint64_t fnv(const void* data, size_t bytes, uint64_t hash) {
  const auto* p = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ p[i]) * 1099511628211u;
  return hash;
}
constexpr uint64_t kFnvStart = 1469598103934665603u;

/// cos and sin of 2 pi * fraction, reduced exactly by octants so that small values keep their
/// digits.
std::pair<double, double> turn_of(long double fraction) {
  constexpr long double pi = 3.141592653589793238462643383279502884L;
  const long double quarter = std::floor(4 * fraction + 0.5L);
  const long double rest = (fraction - quarter / 4) * 2 * pi;
  const auto c = static_cast<double>(std::cos(rest));
  const auto s = static_cast<double>(std::sin(rest));
  switch (static_cast<int>(quarter) % 4) {
    case 0: return {c, s};
    case 1: return {-s, c};
    case 2: return {-c, -s};
    default: return {s, -c};
  }
}

/// First words of blocks, with the corners of the 32-bit range put in front.
std::vector<uint32_t> words(size_t n, size_t which) {
  std::vector<uint32_t> w(n);
  for (size_t i = 0; i < n; ++i) w[i] = Philox::block(7, 3, i)[which];
  const uint32_t corners[] = {0u,          ~0u,         1u,          0x20000000u,
                              0x1fffffffu, 0xe0000000u, 0x80000000u, 0x40000000u};
  for (size_t i = 0; i < 64; ++i) w[i] = corners[which % 2 == 0 ? i / 8 : i % 8];
  return w;
}

#if defined(__GNUC__)
template <class T>
struct Wide {
  typedef T type __attribute__((vector_size(16)));
};
#endif

}  // namespace

TEST_CASE("Philox4x32-10 gives the known answers of Random123", "[random_test]") {
  CHECK(Philox::block(0, 0, 0) == Philox::Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Philox::block(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}) ==
        Philox::Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(Philox::block(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) ==
        Philox::Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform grids", "[random_test]") {
  CHECK(uniform24(0) == 0.0f);
  CHECK(uniform24(~0u) == 1.0f - 0x1p-24f);
  CHECK(uniform53(0, 0) == 0.0);
  CHECK(uniform53(~0u, ~0u) == 1.0 - 0x1p-53);
  CHECK(uniform53(0x80000000u, 0) == 0.5);
}

TEST_CASE("a generator's state is its seed and its next stream", "[random_test]") {
  Generator g(5, 2);
  CHECK(g.next_stream() == 2);
  CHECK(g.next_stream() == 3);
  CHECK(g.stream() == 4);
  g.set_state(9, 1);
  CHECK(g.seed() == 9);
  CHECK(g.next_stream() == 1);
}

TEST_CASE("Box-Muller in float is accurate for every word", "[random_test]") {
  const size_t n = 200000;
  const auto w0 = words(n, 0);
  const auto w1 = words(n, 1);
  double worst = 0;
  for (size_t i = 0; i < n; ++i) {
    const auto z = normal::box_muller32<float>(w0[i], w1[i]);
    const double u = static_cast<double>(static_cast<float>((w0[i] >> 1) | 1u)) / 0x1p31;
    const double radius = std::sqrt(-2 * std::log(u));
    const auto [c, s] = turn_of(static_cast<long double>(w1[i]) / 0x1p32L);
    REQUIRE((std::isfinite(z.first) && std::isfinite(z.second)));
    worst = std::fmax(worst, std::abs(static_cast<double>(z.first) - radius * c) /
                                 (std::abs(radius * c) + 1e-30));
    worst = std::fmax(worst, std::abs(static_cast<double>(z.second) - radius * s) /
                                 (std::abs(radius * s) + 1e-30));
  }
  CHECK(worst < 3e-7);
}

TEST_CASE("Box-Muller in double is accurate for every word", "[random_test]") {
  const size_t n = 200000;
  const auto a = words(n, 0);
  const auto b = words(n, 1);
  double worst = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint64_t w0 = normal::join(a[i], b[n - 1 - i]);
    const uint64_t w1 = normal::join(b[i], a[n - 1 - i]);
    const auto z = normal::box_muller64<double>(w0, w1);
    const long double u = (static_cast<long double>(w0 >> 12) + 0.5L) / 0x1p52L;
    const auto radius = static_cast<double>(std::sqrt(-2 * std::log(u)));
    const auto [c, s] = turn_of(static_cast<long double>(w1 >> 10) / 0x1p54L);
    REQUIRE((std::isfinite(z.first) && std::isfinite(z.second)));
    worst = std::fmax(worst, std::abs(z.first - radius * c) / (std::abs(radius * c) + 1e-300));
    worst = std::fmax(worst, std::abs(z.second - radius * s) / (std::abs(radius * s) + 1e-300));
  }
  CHECK(worst < 1.5e-15);
}

// The committed hashes are the contract: they hold for every compiler, instruction set and device.
TEST_CASE("normals have the same bits everywhere", "[random_test]") {
  const size_t n = 1 << 20;
  uint64_t hash32 = kFnvStart;
  uint64_t hash64 = kFnvStart;
  for (size_t i = 0; i < n; ++i) {
    const auto w = Philox::block(7, 3, i);
    const auto f = normal::box_muller32<float>(w[0], w[1]);
    const auto d = normal::box_muller64<double>(normal::join(w[0], w[1]), normal::join(w[2], w[3]));
    hash32 = fnv(&f, sizeof f, hash32);
    hash64 = fnv(&d, sizeof d, hash64);
  }
  CHECK(hash32 == 0x5941c96b7107db54u);
  CHECK(hash64 == 0x231df872555d44e9u);
}

#if defined(__GNUC__)
TEST_CASE("vector forms of Box-Muller have the scalar bits", "[random_test]") {
  using F = Wide<float>::type;
  using U = Wide<uint32_t>::type;
  using D = Wide<double>::type;
  using L = Wide<uint64_t>::type;
  const size_t n = 4096;
  const auto w0 = words(n, 0);
  const auto w1 = words(n, 1);
  for (size_t i = 0; i < n; i += 4) {
    U a, b;
    std::memcpy(&a, &w0[i], sizeof a);
    std::memcpy(&b, &w1[i], sizeof b);
    const auto z = normal::box_muller32<F>(a, b);
    for (size_t k = 0; k < 4; ++k) {
      const auto one = normal::box_muller32<float>(w0[i + k], w1[i + k]);
      REQUIRE((z.first[k] == one.first && z.second[k] == one.second));
    }
    const L c{normal::join(w0[i], w1[i]), normal::join(w0[i + 1], w1[i + 1])};
    const L d{normal::join(w0[i + 2], w1[i + 2]), normal::join(w0[i + 3], w1[i + 3])};
    const auto y = normal::box_muller64<D>(c, d);
    for (size_t k = 0; k < 2; ++k) {
      const auto one = normal::box_muller64<double>(uint64_t{c[k]}, uint64_t{d[k]});
      REQUIRE((y.first[k] == one.first && y.second[k] == one.second));
    }
  }
}
#endif

TEST_CASE("integer_at takes the high half of the product", "[random_test]") {
  for (uint64_t i = 0; i < 1000; ++i) {
    const auto w = Philox::block(1, 2, i / 2);
    const uint64_t x = i % 2 == 0 ? normal::join(w[0], w[1]) : normal::join(w[2], w[3]);
    CHECK(integer_at(1, 2, i, uint64_t{1} << 63) == x >> 1);
    CHECK(integer_at(1, 2, i, uint64_t{1} << 7) == x >> 57);
    CHECK(integer_at(1, 2, i, 1) == 0);
    CHECK(integer_at(1, 2, i, 0xfedcba9876543210u) < 0xfedcba9876543210u);
  }
  const auto w = Philox::block(1, 2, 0);
  const auto expected =
      static_cast<uint64_t>(std::ldexp(static_cast<double>(normal::join(w[0], w[1])), -64) * 1e15);
  CHECK_THAT(static_cast<double>(integer_at(1, 2, 0, 1000000000000000u)),
             WithinAbs(static_cast<double>(expected), 1));
}
