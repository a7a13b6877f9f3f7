#pragma once

#include <array>
#include <cstdint>

// Marks what CUDA kernels call too; nothing in plain C++.
#if defined(__CUDACC__)
#define FLOWGRAD_HOST_DEVICE __host__ __device__
#else
#define FLOWGRAD_HOST_DEVICE
#endif

namespace flowgrad {

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten rounds
/// that turn a 128-bit counter and a 64-bit key into four random words. Stateless, so element i of
/// a draw depends on (seed, stream, i) only, never on threads, batch split or device.
struct Philox {
  using Block = std::array<uint32_t, 4>;

  FLOWGRAD_HOST_DEVICE static constexpr Block block(uint64_t seed, uint64_t stream,
                                                    uint64_t index) {
    Block c{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
            static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
    uint32_t k0 = static_cast<uint32_t>(seed);
    uint32_t k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }
};

/// Uniform in [0, 1) on the 2^-24 grid.
FLOWGRAD_HOST_DEVICE constexpr float uniform24(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}
/// Uniform in [0, 1) on the 2^-53 grid.
FLOWGRAD_HOST_DEVICE constexpr double uniform53(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 21) | (low >> 11)) * 0x1p-53;
}

/// A seed and the number of the next stream. Every random operation takes one stream, so the state
/// to save for an exact resume is two integers. Not shared between threads.
class Generator {
 public:
  explicit Generator(uint64_t seed = 0, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint64_t seed() const { return seed_; }
  /// Number of the stream that the next operation takes.
  uint64_t stream() const { return stream_; }
  uint64_t next_stream() { return stream_++; }
  void set_state(uint64_t seed, uint64_t stream) {
    seed_ = seed;
    stream_ = stream;
  }

 private:
  uint64_t seed_;
  uint64_t stream_;
};

}  // namespace flowgrad
