// The wrappers of PTX instructions against plain loops. Kernel and emulator share an author and so
// may share a misreading of PTX: run this file first whenever a device is at hand.
#include <cmath>

#include "flowgrad/kernels/ptx_mma.cuh"
#include "support.cuh"

using namespace flowgrad::test;

namespace {

const gpu::Stream stream = gpu::default_stream();

// Doubles the input, tile by tile, with the next tile on its way.
template <int BYTES>
__global__ void pipeline(const float* in, float* out, int n) {
  constexpr int kPerThread = BYTES / 4;
  GPU_SHARED(float4, storage, [2][32]);
  float* tiles = reinterpret_cast<float*>(&storage[0][0]);
  const int tile_size = 32 * kPerThread;
  const int n_tiles = (n + tile_size - 1) / tile_size;
  const int own = static_cast<int>(threadIdx.x) * kPerThread;
  const auto start = [&](int tile) {
    const int first = tile * tile_size + own;
    const bool inside = tile < n_tiles && first < n;
    gpu::cp_async<BYTES>(tiles + tile % 2 * 128 + own, inside ? in + first : in, inside);
    gpu::cp_async_commit();
  };
  start(0);
  for (int tile = 0; tile < n_tiles; ++tile) {
    start(tile + 1);
    gpu::cp_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < kPerThread; ++i) {
      const int at = tile * tile_size + static_cast<int>(threadIdx.x) + i * 32;
      const float v = tiles[tile % 2 * 128 + static_cast<int>(threadIdx.x) + i * 32];
      if (at < n) out[at] = 2.0f * v;
    }
    __syncthreads();
  }
  gpu::cp_async_wait_all();
}

__global__ void read_too_early(const float* in, float* out, int wait) {
  GPU_SHARED(float, tile, [32]);
  gpu::cp_async<4>(&tile[threadIdx.x], in + threadIdx.x);
  gpu::cp_async_commit();
  if (wait != 0) gpu::cp_async_wait<0>();
  if (wait == 0) gpu::cp_async_wait<1>();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <int N, bool TRANSPOSED>
__global__ void load_matrices(const std::uint16_t* in, std::uint32_t* out) {
  GPU_SHARED(uint4, rows, [32]);
  std::uint16_t* elements = reinterpret_cast<std::uint16_t*>(&rows[0]);
  for (unsigned i = threadIdx.x; i < 256; i += 32) elements[i] = in[i];
  __syncthreads();
  std::uint32_t registers[N];
  gpu::ldmatrix<N, TRANSPOSED>(registers, &rows[threadIdx.x % (8 * N)]);
  for (int i = 0; i < N; ++i) out[i * 32 + static_cast<int>(threadIdx.x)] = registers[i];
}

// Fragments by the layout that ptx_mma.cuh states, straight from device memory.
__global__ void multiply_bf16(const float* a, const float* b, float* c) {
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  std::uint32_t ra[4];
  std::uint32_t rb[2];
  float rc[4];
  for (int i = 0; i < 4; ++i) {
    const float* at = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    ra[i] = gpu::pack_bf16(at[0], at[1]);
    rc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; ++i) {
    const float* at = b + (2 * t + i * 8) * 8 + g;
    rb[i] = gpu::pack_bf16(at[0], at[8]);
  }
  gpu::mma_m16n8k16_bf16(rc, ra, rb);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = rc[i];
}

__global__ void multiply_tf32(const float* a, const float* b, float* c) {
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  std::uint32_t ra[4];
  std::uint32_t rb[2];
  float rc[4];
  for (int i = 0; i < 4; ++i) {
    ra[i] = gpu::to_tf32(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    rc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; ++i) rb[i] = gpu::to_tf32(b[(t + i * 4) * 8 + g]);
  gpu::mma_m16n8k8_tf32(rc, ra, rb);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = rc[i];
}

__global__ void convert(const float* in, std::uint32_t* tf32, std::uint32_t* bf16, int n) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) {
    tf32[i] = gpu::to_tf32(in[i]);
    bf16[i] = gpu::pack_bf16(in[i], -in[i]);
  }
}

// x to a number of bits of fraction, by arithmetic instead of by bits.
double rounded(float x, int bits, bool ties_to_even) {
  if (x == 0.0f) return 0.0;
  int exponent;
  const double fraction = std::frexp(static_cast<double>(x), &exponent);
  const double scaled = std::ldexp(fraction, bits + 1);
  const double whole = ties_to_even ? std::nearbyint(scaled) : std::round(scaled);
  return std::ldexp(whole, exponent - bits - 1);
}

}  // namespace

TEST_CASE("cp_async in a two-stage pipeline", "[ptx_test]") {
  for (const int n : {4, 32, 128, 132, 1000}) {
    const auto in = random_floats(static_cast<std::size_t>(n), 1);
    const DeviceArray<float> din(in);
    const auto check = [&](auto kernel) {
      const DeviceArray<float> out(in.size());
      gpu::launch(kernel, 1, 32, 0, stream, din.get(), out.get(), n);
      const auto values = out.values();
      for (std::size_t i = 0; i < in.size(); ++i) REQUIRE(values[i] == 2.0f * in[i]);
    };
    check(pipeline<4>);
    check(pipeline<8>);
    check(pipeline<16>);
  }
}

TEST_CASE("cp_async has not landed before the wait", "[ptx_test]") {
  const DeviceArray<float> in(std::vector<float>(32, 1.0f)), out(32);
  gpu::launch(read_too_early, 1, 32, 0, stream, in.get(), out.get(), 1);
  CHECK(out.values()[5] == 1.0f);
  if (!gpu::device_info(0).emulated) return;
  gpu::launch(read_too_early, 1, 32, 0, stream, in.get(), out.get(), 0);
  const float v = out.values()[5];
  CHECK(v != v);
}

TEST_CASE("ldmatrix", "[ptx_test]") {
  std::vector<std::uint16_t> in(256);
  for (std::size_t i = 0; i < 256; ++i) in[i] = static_cast<std::uint16_t>(i * 251 + 7);
  const DeviceArray<std::uint16_t> din(in);
  const auto check = [&](auto kernel, int n, bool transposed) {
    const DeviceArray<std::uint32_t> out(static_cast<std::size_t>(n) * 32);
    gpu::launch(kernel, 1, 32, 0, stream, din.get(), out.get());
    const auto values = out.values();
    for (int m = 0; m < n; ++m) {
      for (int l = 0; l < 32; ++l) {
        const auto element = [&](int row, int column) {
          return std::uint32_t{in[static_cast<std::size_t>(m * 64 + row * 8 + column)]};
        };
        const int r = l / 4;
        const int c = l % 4 * 2;
        const std::uint32_t expected = transposed ? element(c, r) | element(c + 1, r) << 16
                                                  : element(r, c) | element(r, c + 1) << 16;
        REQUIRE(values[static_cast<std::size_t>(m * 32 + l)] == expected);
      }
    }
  };
  check(load_matrices<1, false>, 1, false);
  check(load_matrices<2, false>, 2, false);
  check(load_matrices<4, false>, 4, false);
  check(load_matrices<1, true>, 1, true);
  check(load_matrices<2, true>, 2, true);
  check(load_matrices<4, true>, 4, true);
}

TEST_CASE("mma.sync in bf16 and tf32", "[ptx_test]") {
  for (const bool bf16 : {true, false}) {
    const int k = bf16 ? 16 : 8;
    const auto a = random_floats(static_cast<std::size_t>(16 * k), 2);
    const auto b = random_floats(static_cast<std::size_t>(k * 8), 3);
    const auto c = random_floats(16 * 8, 4);
    const DeviceArray<float> da(a), db(b), dc(c);
    gpu::launch(bf16 ? multiply_bf16 : multiply_tf32, 1, 32, 0, stream, da.get(), db.get(),
                dc.get());
    std::vector<float> expected(c);
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        double sum = static_cast<double>(c[static_cast<std::size_t>(i * 8 + j)]);
        for (int l = 0; l < k; ++l) {
          sum += rounded(a[static_cast<std::size_t>(i * k + l)], bf16 ? 7 : 10, bf16) *
                 rounded(b[static_cast<std::size_t>(l * 8 + j)], bf16 ? 7 : 10, bf16);
        }
        expected[static_cast<std::size_t>(i * 8 + j)] = static_cast<float>(sum);
      }
    }
    // Operands are rounded alike, so only the order of the sums is left to differ.
    CHECK(largest_difference(dc.values(), expected) < 2e-6);
  }
}

TEST_CASE("rounding to tf32 and bfloat16", "[ptx_test]") {
  auto in = random_floats(28, 5);
  in.insert(in.end(), {0.0f, 1.0f + 0x1p-11f, 1.0f + 0x1p-8f, 1.0f + 0x3p-8f});  // ties
  const DeviceArray<float> din(in);
  const DeviceArray<std::uint32_t> tf32(32), bf16(32);
  gpu::launch(convert, 1, 32, 0, stream, din.get(), tf32.get(), bf16.get(), 32);
  const auto tf32_bits = tf32.values();
  const auto bf16_bits = bf16.values();
  const auto value = [](std::uint32_t bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return static_cast<double>(v);
  };
  for (std::size_t i = 0; i < in.size(); ++i) {
    INFO(in[i]);
    CHECK(value(tf32_bits[i]) == rounded(in[i], 10, false));
    CHECK(value(bf16_bits[i] << 16) == rounded(in[i], 7, true));
    CHECK(value(bf16_bits[i] & 0xffff0000u) == -rounded(in[i], 7, true));
  }
}
