// Planted races and accesses that only the checker build can see; built there only.
#include "flowgrad/kernels/cuda/ladder/ladder.h"
#include "flowgrad/kernels/emulator/profile.h"
#include "support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;

namespace {

const gpu::Stream stream = gpu::default_stream();

template <class... P, class... A>
std::string failure(void (*kernel)(P...), dim3 grid, dim3 block, A... arguments) {
  return message_of([&] {
    gpu::launch(kernel, grid, block, 0, stream, arguments...);
    gpu::synchronize(stream);
  });
}

// wait: 0 none, 1 __syncthreads, 2 __syncwarp. Thread t writes t and reads t ^ distance.
__global__ void exchange(float* out, int distance, int wait) {
  GPU_SHARED(float, buffer, [64]);
  buffer[threadIdx.x] = 0.0f;
  __syncthreads();
  buffer[threadIdx.x] = 1.0f;
  if (wait == 1) __syncthreads();
  if (wait == 2) __syncwarp();
  out[threadIdx.x] = buffer[threadIdx.x ^ static_cast<unsigned>(distance)];
}

// A write that follows reads of others: the barrier at the end of a loop body is missing.
__global__ void overwrite(float* out, int with_barrier) {
  GPU_SHARED(float, buffer, [1]);
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    if (threadIdx.x == 0) buffer[0] = static_cast<float>(i);
    __syncthreads();
    sum += buffer[0];
    if (with_barrier != 0) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// Lanes that meet in pairs: 0 with 1, then 1 with 2. So 0 and 2 are ordered, and 0 and 3 are not.
__global__ void chain(float* out, int reader) {
  GPU_SHARED(float, buffer, [1]);
  const int lane = static_cast<int>(threadIdx.x);
  if (lane == 0) buffer[0] = 1.0f;
  if (lane < 2) __syncwarp(0x3u);
  if (lane == 1 || lane == 2) __syncwarp(0x6u);
  if (lane == 3) __syncwarp(0x8u);
  if (lane == reader) out[0] = buffer[0];
}

__global__ void all_blocks_write(float* out, int stride) {
  if (threadIdx.x == 0) out[static_cast<int>(blockIdx.x) * stride] = 1.0f;
}
__global__ void neighbour_block(float* data) {
  data[blockIdx.x] = 1.0f;
  if (blockIdx.x > 0) data[3] = data[blockIdx.x - 1];
}
__global__ void count(unsigned* n, int atomic) {
  if (atomic != 0 || threadIdx.x > 0) {
    atomicAdd(n, 1u);
  } else {
    *n = *n + 1;
  }
}
__global__ void bytes_of_neighbours(bool* out) { out[threadIdx.x] = threadIdx.x % 2 == 0; }

__global__ void copy(const float* in, float* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = in[i];
}
__global__ void load_four(const float* in, float* out) {
  const float4 v = *reinterpret_cast<const float4*>(in);
  out[0] = v.x + v.w;
}
__global__ void transpose(const float* in, float* out, int padded) {
  GPU_SHARED(float, plain, [32][32]);
  GPU_SHARED(float, wide, [32][33]);
  const unsigned x = threadIdx.x;
  const unsigned y = threadIdx.y;
  if (padded != 0) {
    wide[y][x] = in[y * 32 + x];
    __syncthreads();
    out[y * 32 + x] = wide[x][y];
  } else {
    plain[y][x] = in[y * 32 + x];
    __syncthreads();
    out[y * 32 + x] = plain[x][y];
  }
}
__global__ void strided_load(const float* in, float* out, int stride) {
  out[threadIdx.x] = in[static_cast<int>(threadIdx.x) * stride];
}

}  // namespace

TEST_CASE("races in shared memory", "[emulator_checker_test]") {
  const DeviceArray<float> out(64);
  const std::string text = failure(exchange, 1, 64, out.get(), 1, 0);
  CHECK(contains(text, "race: "));
  CHECK(contains(text, "GPU_SHARED variable number 1"));
  CHECK(contains(text, "(in emulator_checker_test.cu:"));
  CHECK(failure(exchange, 1, 64, out.get(), 0, 0).empty());
  CHECK(failure(exchange, 1, 64, out.get(), 1, 1).empty());
  CHECK(failure(exchange, 1, 64, out.get(), 1, 2).empty());
  CHECK(failure(exchange, 1, 64, out.get(), 32, 1).empty());
  CHECK(contains(failure(exchange, 1, 64, out.get(), 32, 2), "race: "));  // across warps
  CHECK(failure(overwrite, 1, 64, out.get(), 1).empty());
  CHECK(contains(failure(overwrite, 1, 64, out.get(), 0), "race: "));
}

TEST_CASE("order passes on through a lane in between", "[emulator_checker_test]") {
  const DeviceArray<float> out(1);
  CHECK(failure(chain, 1, 32, out.get(), 1).empty());
  CHECK(failure(chain, 1, 32, out.get(), 2).empty());
  const std::string text = failure(chain, 1, 32, out.get(), 3);
  // In another order of threads lane 3 comes first, and reads what nobody has written yet.
  CHECK((contains(text, "race: ") || contains(text, "uninitialised: ")));
}

TEST_CASE("races in device memory, across blocks", "[emulator_checker_test]") {
  const DeviceArray<float> out(8);
  CHECK(failure(all_blocks_write, 4, 32, out.get(), 1).empty());
  CHECK(contains(failure(all_blocks_write, 4, 32, out.get(), 0), "of block number"));
  const DeviceArray<float> data(std::vector<float>(8, 0.0f));
  CHECK(contains(failure(neighbour_block, 2, 1, data.get()), "race: "));
  const DeviceArray<unsigned> n(std::vector<unsigned>(1, 0u));
  CHECK(failure(count, 2, 64, n.get(), 1).empty());
  CHECK(n.values()[0] == 128);
  CHECK(contains(failure(count, 1, 64, n.get(), 0), "race: "));
  const DeviceArray<bool> flags(64);
  CHECK(failure(bytes_of_neighbours, 1, 64, flags.get()).empty());
}

TEST_CASE("launches are ordered, past the wrap of their numbers too", "[emulator_checker_test]") {
  const DeviceArray<float> a(std::vector<float>(64, 1.0f)), b(64);
  for (int i = 0; i < 5000; ++i) {
    gpu::launch(copy, 2, 2, 0, stream, a.get(), b.get(), 4);
    gpu::launch(copy, 2, 2, 0, stream, b.get(), a.get(), 4);
  }
  CHECK(message_of([&] { gpu::synchronize(stream); }).empty());
}

TEST_CASE("uninitialised, misaligned and exactly bounded", "[emulator_checker_test]") {
  const DeviceArray<float> fresh(10), out(10), in(std::vector<float>(10, 1.0f));
  CHECK(contains(failure(copy, 1, 16, fresh.get(), out.get(), 10), "uninitialised: reads "));
  CHECK(failure(copy, 1, 16, in.get(), out.get(), 10).empty());
  CHECK(contains(failure(copy, 1, 16, in.get(), out.get(), 11), "out of bounds: reads 4 bytes"));
  CHECK(failure(load_four, 1, 1, in.get() + 4, out.get()).empty());
  CHECK(contains(failure(load_four, 1, 1, in.get() + 1, out.get()), "misaligned: reads 16 bytes"));
  // A copy carries over what is written and what is not.
  const DeviceArray<float> copied(10);
  gpu::copy_on_device(copied.get(), fresh.get(), 40, stream);
  CHECK(contains(failure(copy, 1, 16, copied.get(), out.get(), 10), "uninitialised"));
  gpu::copy_on_device(copied.get(), in.get(), 40, stream);
  CHECK(failure(copy, 1, 16, copied.get(), out.get(), 10).empty());
}

TEST_CASE("profile counts bank passes and sectors", "[emulator_checker_test]") {
  const DeviceArray<float> in(std::vector<float>(1024, 1.0f)), out(1024);
  for (const int padded : {0, 1}) {
    const auto rows = gpu::profile(
        [&] { gpu::launch(transpose, 1, dim3(32, 32), 0, stream, in.get(), out.get(), padded); });
    REQUIRE(rows.size() == 4);
    for (const auto& row : rows) {
      INFO(row.place);
      CHECK(contains(row.place, "emulator_checker_test.cu:"));
      CHECK(row.requests == 32);
      CHECK(row.bytes == 4096);
      if (!row.shared) {
        CHECK(row.transactions == 128);
        CHECK(row.ideal == 128);
      } else {
        CHECK(row.ideal == 32);
        CHECK(row.transactions == (!row.write && padded == 0 ? 1024u : 32u));
      }
    }
  }
  for (const int stride : {1, 2, 8, 32}) {
    const auto rows = gpu::profile(
        [&] { gpu::launch(strided_load, 1, 32, 0, stream, in.get(), out.get(), stride); });
    REQUIRE(rows.size() == 2);
    const auto& load = rows[rows[0].write ? 1 : 0];
    CHECK(load.transactions == static_cast<unsigned>(stride >= 8 ? 32 : 4 * stride));
  }
}

TEST_CASE("the engine's swizzle spreads rows over the banks", "[emulator_checker_test]") {
  const DeviceArray<float> a(random_floats(130 * 160, 1)), b(random_floats(160 * 132, 2));
  const DeviceArray<float> c(130 * 132);
  const auto rows =
      gpu::profile([&] { cuda::ladder::tma(a.get(), b.get(), c.get(), 130, 132, 160, stream); });
  std::uint64_t requests = 0;
  for (const auto& row : rows) {
    if (!row.shared) continue;
    INFO(row.place);
    CHECK(row.transactions == row.ideal);
    requests += row.requests;
  }
  CHECK(requests > 10000);
}
