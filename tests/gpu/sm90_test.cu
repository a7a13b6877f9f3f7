// mbarrier, TMA and wgmma against plain loops; run on a Hopper device before anything is believed.
#include <cstdint>

#include "flowgrad/kernels/ptx_sm90.cuh"
#include "support.cuh"

using namespace flowgrad::test;

namespace {

const gpu::Stream stream = gpu::default_stream();

std::uint16_t bf16_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);  // exact: the tests use few bits of fraction
}

// Small multiples of 1/16, so that bfloat16, tf32 and every sum are exact.
std::vector<float> exact_floats(std::size_t n, std::uint32_t seed) {
  auto values = random_floats(n, seed);
  for (float& v : values) v = static_cast<float>(static_cast<int>(v * 16.0f)) / 16.0f;
  return values;
}

GPU_INLINE char* aligned_to_1024(char* pointer) {
  return pointer + (1024 - reinterpret_cast<std::uintptr_t>(pointer) % 1024) % 1024;
}

__global__ void load_box(const __grid_constant__ gpu::TensorMap map, int column, int row,
                         float* out, int wait) {
  GPU_DYN_SHARED(char, raw);
  GPU_SHARED(std::uint64_t, full, );
  float* tile = reinterpret_cast<float*>(aligned_to_1024(raw));
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(&full, 1);
    gpu::mbarrier_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    gpu::mbarrier_arrive_expect(&full, 8 * 32 * 4);
    gpu::tma_load(tile, map, column, row, &full);
  }
  if (wait != 0) gpu::mbarrier_wait(&full, 0);
  if (wait == 0) __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) out[i] = tile[i];
}

// C (64 x N) = A (64 x K) B^T (N x K), tiles of 128 bytes along k, two stages.
template <class T, int N, bool TF32>
__global__ void multiply(const __grid_constant__ gpu::TensorMap a,
                         const __grid_constant__ gpu::TensorMap b, float* c, int n_tiles) {
  constexpr int kTile = 128 / sizeof(T);
  constexpr int kStage = (64 + N) * 128;
  GPU_DYN_SHARED(char, raw);
  GPU_SHARED(std::uint64_t, full, [2]);
  char* tiles = aligned_to_1024(raw);
  if (threadIdx.x == 0) {
    gpu::mbarrier_init(&full[0], 1);
    gpu::mbarrier_init(&full[1], 1);
    gpu::mbarrier_fence();
  }
  __syncthreads();
  const auto start = [&](int t) {
    if (threadIdx.x != 0 || t >= n_tiles) return;
    char* stage = tiles + t % 2 * kStage;
    gpu::mbarrier_arrive_expect(&full[t % 2], kStage);
    gpu::tma_load(stage, a, t * kTile, 0, &full[t % 2]);
    gpu::tma_load(stage + 64 * 128, b, t * kTile, 0, &full[t % 2]);
  };
  float d[N / 2];
  start(0);
  for (int t = 0; t < n_tiles; ++t) {
    start(t + 1);
    gpu::mbarrier_wait(&full[t % 2], static_cast<unsigned>(t / 2 % 2));
    const char* stage = tiles + t % 2 * kStage;
    gpu::wgmma_fence();
    for (int k = 0; k < 4; ++k) {
      const std::uint64_t da = gpu::wgmma_descriptor(stage + 32 * k);
      const std::uint64_t db = gpu::wgmma_descriptor(stage + 64 * 128 + 32 * k);
      if constexpr (TF32) {
        gpu::wgmma_tf32<N>(d, da, db, t > 0 || k > 0);
      } else {
        gpu::wgmma_bf16<N>(d, da, db, t > 0 || k > 0);
      }
    }
    gpu::wgmma_commit();
    gpu::wgmma_wait<0>();
    __syncthreads();  // all have read the stage that the next round overwrites
  }
  const int r = static_cast<int>(threadIdx.x);
  for (int j = 0; j < N / 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = r / 32 * 16 + r % 32 / 4 + i / 2 * 8;
      c[row * N + j * 8 + r % 4 * 2 + i % 2] = d[j * 4 + i];
    }
  }
}

template <class T, int N, bool TF32>
void check_product() {
  const int k = 3 * 128 / static_cast<int>(sizeof(T)) - 4 * static_cast<int>(4 / sizeof(T)) * 2;
  const auto a = exact_floats(static_cast<std::size_t>(64 * k), 1);
  const auto b = exact_floats(static_cast<std::size_t>(N * k), 2);
  const auto stored = [](const std::vector<float>& values) {
    std::vector<T> out(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if constexpr (TF32) {
        out[i] = values[i];
      } else {
        out[i] = bf16_bits(values[i]);
      }
    }
    return out;
  };
  const DeviceArray<T> da(stored(a)), db(stored(b));
  const DeviceArray<float> c(64 * N);
  const auto element = TF32 ? gpu::TensorElement::float32 : gpu::TensorElement::bfloat16;
  const unsigned columns = 128 / sizeof(T);
  const auto un = static_cast<std::uint64_t>(k);
  const auto map_a = gpu::make_tensor_map(da.get(), element, 64, un, un * sizeof(T), 64, columns,
                                          gpu::Swizzle::bytes128);
  const auto map_b = gpu::make_tensor_map(db.get(), element, N, un, un * sizeof(T), N, columns,
                                          gpu::Swizzle::bytes128);
  gpu::launch(multiply<T, N, TF32>, 1, 128, 2 * (64 + N) * 128 + 1024, stream, map_a, map_b,
              c.get(), 3);
  std::vector<float> expected(64 * N);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l) {
        sum += static_cast<double>(a[static_cast<std::size_t>(i * k + l)]) *
               static_cast<double>(b[static_cast<std::size_t>(j * k + l)]);
      }
      expected[static_cast<std::size_t>(i * N + j)] = static_cast<float>(sum);
    }
  }
  CHECK(largest_difference(c.values(), expected) == 0.0);
}

}  // namespace

TEST_CASE("TMA loads a box, zero outside the matrix, swizzled on request", "[sm90_test]") {
  const auto in = random_floats(20 * 40, 3);
  const DeviceArray<float> din(in);
  // Boxes of 256 elements; where piece p of row r lands.
  struct Layout {
    gpu::Swizzle swizzle;
    int columns;
    int (*place)(int p, int r);
  };
  const Layout layouts[] = {
      {gpu::Swizzle::none, 32, [](int p, int) { return p; }},
      {gpu::Swizzle::bytes64, 16, [](int p, int r) { return p ^ (r / 2 & 3); }},
      {gpu::Swizzle::bytes128, 32, [](int p, int r) { return p ^ (r & 7); }},
  };
  for (const Layout& layout : layouts) {
    const int columns = layout.columns, rows = 256 / columns;
    for (const int row : {0, 5, 15, -2}) {
      for (const int column : {0, 4, 20}) {
        const DeviceArray<float> out(256);
        const auto map = gpu::make_tensor_map(din.get(), gpu::TensorElement::float32, 20, 40, 160,
                                              static_cast<unsigned>(rows),
                                              static_cast<unsigned>(columns), layout.swizzle);
        gpu::launch(load_box, 1, 32, 2048, stream, map, column, row, out.get(), 1);
        const auto values = out.values();
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < columns; ++c) {
            const bool inside = row + r >= 0 && row + r < 20 && column + c < 40;
            const float expected =
                inside ? in[static_cast<std::size_t>((row + r) * 40 + column + c)] : 0.0f;
            const int at = r * columns + layout.place(c / 4, r) * 4 + c % 4;
            REQUIRE(values[static_cast<std::size_t>(at)] == expected);
          }
        }
      }
    }
  }
}

TEST_CASE("what TMA does not take is refused by name", "[sm90_test]") {
  const DeviceArray<float> a(64);
  const auto refused = [&](const float* data, std::uint64_t row_bytes, unsigned columns,
                           gpu::Swizzle swizzle) {
    return message_of([&] {
      gpu::make_tensor_map(data, gpu::TensorElement::float32, 2, 32, row_bytes, 2, columns,
                           swizzle);
    });
  };
  CHECK(contains(refused(a.get() + 1, 128, 32, gpu::Swizzle::none), "data"));
  CHECK(contains(refused(a.get(), 132, 32, gpu::Swizzle::none), "row_bytes"));
  CHECK(contains(refused(a.get(), 128, 3, gpu::Swizzle::none), "box_columns"));
  CHECK(contains(refused(a.get(), 128, 16, gpu::Swizzle::bytes128),
                 "box_columns: with this swizzle a row of the box has 128 bytes, not 64"));
  CHECK(contains(refused(a.get(), 128, 32, gpu::Swizzle::bytes64),
                 "box_columns: with this swizzle a row of the box has 64 bytes, not 128"));
}

TEST_CASE("TMA has not landed before the wait", "[sm90_test]") {
  if (!gpu::device_info(0).emulated) return;
  const DeviceArray<float> in(std::vector<float>(8 * 32, 1.0f)), out(256);
  const auto map = gpu::make_tensor_map(in.get(), gpu::TensorElement::float32, 8, 32, 128, 8, 32,
                                        gpu::Swizzle::none);
  gpu::launch(load_box, 1, 32, 2048, stream, map, 0, 0, out.get(), 0);
  const float v = out.values()[7];
  CHECK(v != v);
}

TEST_CASE("wgmma in bf16 and tf32, fed by TMA", "[sm90_test]") {
  check_product<std::uint16_t, 64, false>();
  check_product<std::uint16_t, 128, false>();
  check_product<std::uint16_t, 256, false>();
  check_product<float, 64, true>();
  check_product<float, 128, true>();
  check_product<float, 256, true>();
}
