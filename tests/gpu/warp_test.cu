// Warp functions against plain loops, over masks and widths. They run on the emulator and on a
// device.
#include "support.cuh"

using namespace flowgrad::test;

namespace {

struct Results {
  int index, up, down, exclusive;
  unsigned ballot;
  int any, all;
};

// Only the lanes of mask take part.
__global__ void shuffle_all(unsigned mask, int width, int argument, const int* values,
                            Results* out) {
  const unsigned lane = threadIdx.x % 32;
  if ((mask >> lane & 1u) != 0) {
    const int v = values[threadIdx.x];
    Results r;
    r.index = __shfl_sync(mask, v, argument, width);
    r.up = __shfl_up_sync(mask, v, static_cast<unsigned>(argument), width);
    r.down = __shfl_down_sync(mask, v, static_cast<unsigned>(argument), width);
    r.exclusive = __shfl_xor_sync(mask, v, argument, width);
    r.ballot = __ballot_sync(mask, v > 0);
    r.any = __any_sync(mask, v > 0);
    r.all = __all_sync(mask, v > 0);
    out[threadIdx.x] = r;
  }
}

// What PTX says about shfl: the segment of a lane, and the lane itself where the source lies
// outside.
int source_of(int kind, int lane, int argument, int width) {
  const int low = lane / width * width;
  const int high = low + width;
  if (kind == 0) return low + argument % width;
  const int from = kind == 1 ? lane - argument : kind == 2 ? lane + argument : (lane ^ argument);
  if (kind == 1) return from < low ? lane : from;
  return from >= high ? lane : from;
}

__global__ void shuffle_types(const double* in, double* out, long long* integers, float2* pairs) {
  const double v = in[threadIdx.x];
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, v, 1);
  integers[threadIdx.x] =
      __shfl_down_sync(0xffffffffu, (1LL << 40) + static_cast<long long>(threadIdx.x), 1u);
  const float x = __shfl_sync(0xffffffffu, static_cast<float>(v), 3);
  pairs[threadIdx.x] = make_float2(x, -x);
}

__global__ void two_halves(int* out) {
  // The halves of a warp go separate ways and meet among themselves.
  const unsigned lane = threadIdx.x;
  int v = static_cast<int>(lane);
  if (lane < 16) {
    for (int offset = 8; offset > 0; offset /= 2) v += __shfl_down_sync(0x0000ffffu, v, offset, 16);
  } else {
    for (int offset = 8; offset > 0; offset /= 2) {
      const int other = __shfl_down_sync(0xffff0000u, v, offset, 16);
      v = other > v ? other : v;
    }
  }
  __syncwarp();
  out[lane] = v;
}

__global__ void reductions(const int* in, int* sum, int* low, int* high, unsigned* match) {
  const int v = in[threadIdx.x];
  sum[threadIdx.x] = __reduce_add_sync(0xffffffffu, v);
  low[threadIdx.x] = __reduce_min_sync(0xffffffffu, v);
  high[threadIdx.x] = __reduce_max_sync(0xffffffffu, v);
  match[threadIdx.x] = __match_any_sync(0xffffffffu, v);
}

}  // namespace

TEST_CASE("shuffles and votes, all widths, arguments and many masks", "[warp_test]") {
  const unsigned masks[] = {0xffffffffu, 0x0000ffffu, 0xffff0000u, 0x00ff00ffu,
                            0x80000001u, 0x00000001u, 0xaaaaaaaau, 0x0f0f3c5au};
  std::vector<int> values(64);
  for (std::size_t i = 0; i < 64; ++i) {
    values[i] = static_cast<int>(i * 37 % 64) - (i % 3 == 0 ? 40 : 0);
  }
  const DeviceArray<int> in(values);
  for (const unsigned mask : masks) {
    for (int width = 1; width <= 32; width *= 2) {
      for (int argument = 0; argument < 32; ++argument) {
        // A lane that reads from one outside the mask has an undefined result: leave such cases
        // out.
        bool defined = true;
        for (int lane = 0; lane < 32; ++lane) {
          if ((mask >> lane & 1u) == 0) continue;
          for (int kind = 0; kind < 4; ++kind) {
            defined = defined && (mask >> source_of(kind, lane, argument, width) & 1u) != 0;
          }
        }
        if (!defined) continue;
        const DeviceArray<Results> out(64);
        gpu::launch(shuffle_all, 1, 64, 0, gpu::default_stream(), mask, width, argument, in.get(),
                    out.get());
        const auto results = out.values();
        for (int warp = 0; warp < 2; ++warp) {
          const int* v = values.data() + warp * 32;
          unsigned ballot = 0;
          for (int lane = 0; lane < 32; ++lane) {
            if ((mask >> lane & 1u) != 0 && v[lane] > 0) ballot |= 1u << lane;
          }
          for (int lane = 0; lane < 32; ++lane) {
            if ((mask >> lane & 1u) == 0) continue;
            const Results& r = results[static_cast<std::size_t>(warp * 32 + lane)];
            REQUIRE(r.index == v[source_of(0, lane, argument, width)]);
            REQUIRE(r.up == v[source_of(1, lane, argument, width)]);
            REQUIRE(r.down == v[source_of(2, lane, argument, width)]);
            REQUIRE(r.exclusive == v[source_of(3, lane, argument, width)]);
            REQUIRE(r.ballot == ballot);
            REQUIRE((r.any != 0) == (ballot != 0));
            REQUIRE((r.all != 0) == (ballot == mask));
          }
        }
      }
    }
  }
}

TEST_CASE("shuffles of 8-byte types", "[warp_test]") {
  std::vector<double> in(32);
  for (std::size_t i = 0; i < 32; ++i) in[i] = 0.1 * static_cast<double>(i);
  const DeviceArray<double> din(in), out(32);
  const DeviceArray<long long> integers(32);
  const DeviceArray<float2> pairs(32);
  gpu::launch(shuffle_types, 1, 32, 0, gpu::default_stream(), din.get(), out.get(), integers.get(),
              pairs.get());
  const auto doubles = out.values();
  const auto longs = integers.values();
  const auto floats = pairs.values();
  for (std::size_t i = 0; i < 32; ++i) {
    CHECK(doubles[i] == in[i ^ 1]);
    CHECK(longs[i] == (1LL << 40) + static_cast<long long>(i < 31 ? i + 1 : i));
    CHECK(floats[i].y == -static_cast<float>(in[3]));
  }
}

TEST_CASE("halves of a warp meet separately", "[warp_test]") {
  const DeviceArray<int> out(32);
  gpu::launch(two_halves, 1, 32, 0, gpu::default_stream(), out.get());
  const auto values = out.values();
  CHECK(values[0] == 120);  // 0 + ... + 15
  CHECK(values[16] == 31);
}

TEST_CASE("warp reductions and matches", "[warp_test]") {
  std::vector<int> in(32);
  for (int i = 0; i < 32; ++i) in[static_cast<std::size_t>(i)] = (i * 7 + 3) % 11 - 5;
  const DeviceArray<int> din(in), sum(32), low(32), high(32);
  const DeviceArray<unsigned> match(32);
  gpu::launch(reductions, 1, 32, 0, gpu::default_stream(), din.get(), sum.get(), low.get(),
              high.get(), match.get());
  int total = 0;
  for (const int v : in) total += v;
  const auto matches = match.values();
  for (std::size_t i = 0; i < 32; ++i) {
    CHECK(sum.values()[i] == total);
    CHECK(low.values()[i] == -5);
    CHECK(high.values()[i] == 5);
    unsigned expected = 0;
    for (std::size_t j = 0; j < 32; ++j) expected |= in[j] == in[i] ? 1u << j : 0u;
    CHECK(matches[i] == expected);
  }
}
