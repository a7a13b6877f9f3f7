// Small kernels of the usual shapes against plain loops. They run on the emulator and on a device.
#include <cmath>

#include "support.cuh"

using namespace flowgrad::test;

namespace {

__global__ void add(const float* a, const float* b, float* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = a[i] + b[i];
}

__global__ void add_vectors(const float* a, const float* b, float* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i + 4 > n) return;
  const auto x = gpu::load_vec<4>(a + i);
  const auto y = gpu::load_vec<4>(b + i);
  gpu::Vec<float, 4> sum;
  for (int k = 0; k < 4; ++k) sum[k] = x[k] + y[k];
  gpu::store_vec(out + i, sum);
}

struct Strides {
  int size[3];
  int stride[3];
};

__global__ void copy_strided(const float* in, float* out, Strides s, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  int rest = i;
  int offset = 0;
  for (int axis = 2; axis >= 0; --axis) {
    offset += rest % s.size[axis] * s.stride[axis];
    rest /= s.size[axis];
  }
  out[i] = in[offset];
}

__device__ float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// One sum per block.
__global__ void sum_blocks(const float* in, float* out, int n) {
  GPU_SHARED(float, partial, [32]);
  float x = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < static_cast<unsigned>(n);
       i += gridDim.x * blockDim.x) {
    x += in[i];
  }
  x = warp_sum(x);
  const unsigned warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) partial[warp] = x;
  __syncthreads();
  if (warp == 0) {
    x = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f;
    x = warp_sum(x);
    if (threadIdx.x == 0) out[blockIdx.x] = x;
  }
}

template <int TILE>
__global__ void matmul(const float* a, const float* b, float* c, int m, int n, int k) {
  GPU_SHARED(float, tile_a, [TILE][TILE]);
  GPU_SHARED(float, tile_b, [TILE][TILE]);
  const int row = static_cast<int>(blockIdx.y) * TILE + static_cast<int>(threadIdx.y);
  const int column = static_cast<int>(blockIdx.x) * TILE + static_cast<int>(threadIdx.x);
  const int ty = static_cast<int>(threadIdx.y);
  const int tx = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int k0 = 0; k0 < k; k0 += TILE) {
    tile_a[ty][tx] = row < m && k0 + tx < k ? a[row * k + k0 + tx] : 0.0f;
    tile_b[ty][tx] = column < n && k0 + ty < k ? b[(k0 + ty) * n + column] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE; ++i) sum += tile_a[ty][i] * tile_b[i][tx];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

__global__ void reverse_in_block(int* data) {
  GPU_DYN_SHARED(int, buffer);
  const unsigned n = blockDim.x;
  int* mine = data + blockIdx.x * n;
  buffer[threadIdx.x] = mine[threadIdx.x];
  __syncthreads();
  mine[threadIdx.x] = buffer[n - 1 - threadIdx.x];
}

__global__ void histogram(const int* in, unsigned* counts, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) atomicAdd(&counts[in[i]], 1u);
}

__global__ void vote_in_block(const int* in, int* out) {
  const int x = in[threadIdx.x];
  const int count = __syncthreads_count(x > 0);
  const int all = __syncthreads_and(x > 0);
  const int any = __syncthreads_or(x > 0);
  if (threadIdx.x == 0) {
    out[0] = count;
    out[1] = all;
    out[2] = any;
  }
}

__global__ void write_indices(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  out[i] = static_cast<int>(i);
}

}  // namespace

TEST_CASE("vector addition, scalar and in vectors of four", "[kernels_test]") {
  for (const int n : {1, 31, 255, 256, 257, 4096}) {
    const auto a = random_floats(static_cast<std::size_t>(n), 1);
    const auto b = random_floats(static_cast<std::size_t>(n), 2);
    const DeviceArray<float> da(a), db(b), out(a.size()), vectors(a.size());
    gpu::launch(add, gpu::blocks_for(a.size(), 128), 128, 0, gpu::default_stream(), da.get(),
                db.get(), out.get(), n);
    const auto sum = out.values();
    for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(sum[i] == a[i] + b[i]);
    if (n % 4 != 0) continue;
    gpu::launch(add_vectors, gpu::blocks_for(a.size() / 4, 64), 64, 0, gpu::default_stream(),
                da.get(), db.get(), vectors.get(), n);
    REQUIRE(vectors.values() == sum);
  }
}

TEST_CASE("strided copy", "[kernels_test]") {
  const auto in = random_floats(2 * 3 * 5, 3);
  const DeviceArray<float> din(in), out(in.size());
  // The axes (2, 3, 5) seen as (5, 2, 3).
  const Strides s{{5, 2, 3}, {1, 15, 5}};
  gpu::launch(copy_strided, 1, 32, 0, gpu::default_stream(), din.get(), out.get(), s, 30);
  const auto values = out.values();
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 2; ++j) {
      for (int k = 0; k < 3; ++k) {
        REQUIRE(values[static_cast<std::size_t>((i * 2 + j) * 3 + k)] ==
                in[static_cast<std::size_t>(j * 15 + k * 5 + i)]);
      }
    }
  }
}

TEST_CASE("block sums by shuffles", "[kernels_test]") {
  for (const int n : {1, 100, 1000, 10000}) {
    const auto in = random_floats(static_cast<std::size_t>(n), 4);
    const DeviceArray<float> din(in), out(3);
    gpu::launch(sum_blocks, 3, 256, 0, gpu::default_stream(), din.get(), out.get(), n);
    const auto sums = out.values();
    double total = 0;
    double expected = 0;
    for (const float s : sums) total += static_cast<double>(s);
    for (const float x : in) expected += static_cast<double>(x);
    REQUIRE(std::abs(total - expected) < 1e-3);
  }
}

TEST_CASE("tiled matrix product", "[kernels_test]") {
  const int m = 37;
  const int n = 29;
  const int k = 50;
  const auto a = random_floats(m * k, 5);
  const auto b = random_floats(k * n, 6);
  const DeviceArray<float> da(a), db(b), dc(m * n);
  gpu::launch(matmul<16>, dim3(2, 3), dim3(16, 16), 0, gpu::default_stream(), da.get(), db.get(),
              dc.get(), m, n, k);
  std::vector<float> expected(m * n);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l) {
        sum += static_cast<double>(a[static_cast<std::size_t>(i * k + l)]) *
               static_cast<double>(b[static_cast<std::size_t>(l * n + j)]);
      }
      expected[static_cast<std::size_t>(i * n + j)] = static_cast<float>(sum);
    }
  }
  CHECK(largest_difference(dc.values(), expected) < 1e-5);
}

TEST_CASE("dynamic shared memory, above 48 KiB too", "[kernels_test]") {
  for (const std::size_t bytes : {std::size_t{1024} * sizeof(int), std::size_t{200} << 10}) {
    std::vector<int> in(2048);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i);
    const DeviceArray<int> data(in);
    gpu::launch(reverse_in_block, 2, 1024, bytes, gpu::default_stream(), data.get());
    const auto out = data.values();
    for (int i = 0; i < 2048; ++i) {
      REQUIRE(out[static_cast<std::size_t>(i)] == i / 1024 * 1024 + 1023 - i % 1024);
    }
  }
}

TEST_CASE("atomic histogram", "[kernels_test]") {
  std::vector<int> in(1000);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i * i % 7);
  std::vector<unsigned> expected(7);
  for (const int v : in) ++expected[static_cast<std::size_t>(v)];
  const DeviceArray<int> din(in);
  const DeviceArray<unsigned> counts(std::vector<unsigned>(7, 0u));
  gpu::launch(histogram, 8, 128, 0, gpu::default_stream(), din.get(), counts.get(), 1000);
  CHECK(counts.values() == expected);
}

TEST_CASE("barriers that count", "[kernels_test]") {
  for (const int positive : {0, 1, 63, 64}) {
    std::vector<int> in(64, -1);
    for (int i = 0; i < positive; ++i) in[static_cast<std::size_t>(i * 7 % 64)] = 1;
    const DeviceArray<int> din(in), out(3);
    gpu::launch(vote_in_block, 1, 64, 0, gpu::default_stream(), din.get(), out.get());
    const auto votes = out.values();
    CHECK(votes[0] == positive);
    CHECK((votes[1] != 0) == (positive == 64));
    CHECK((votes[2] != 0) == (positive > 0));
  }
}

TEST_CASE("three-dimensional grids and blocks", "[kernels_test]") {
  const DeviceArray<int> out(2 * 3 * 4 * 5 * 3 * 2);
  gpu::launch(write_indices, dim3(2, 3, 4), dim3(5, 3, 2), 0, gpu::default_stream(), out.get());
  const auto values = out.values();
  for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(values[i] == static_cast<int>(i));
}

TEST_CASE("copies and fills", "[kernels_test]") {
  const auto in = random_floats(100, 7);
  const DeviceArray<float> a(in), b(100);
  gpu::copy_on_device(b.get(), a.get() + 10, 90 * sizeof(float), gpu::default_stream());
  gpu::fill_bytes(b.get() + 90, 0, 10 * sizeof(float), gpu::default_stream());
  const auto out = b.values();
  for (std::size_t i = 0; i < 90; ++i) REQUIRE(out[i] == in[i + 10]);
  for (std::size_t i = 90; i < 100; ++i) REQUIRE(out[i] == 0.0f);

  auto* pinned = static_cast<float*>(gpu::pinned_allocate(100 * sizeof(float)));
  REQUIRE(pinned != nullptr);
  gpu::copy_to_host(pinned, a.get(), 100 * sizeof(float), gpu::default_stream());
  gpu::synchronize(gpu::default_stream());
  for (std::size_t i = 0; i < 100; ++i) REQUIRE(pinned[i] == in[i]);
  gpu::pinned_release(pinned);
}
