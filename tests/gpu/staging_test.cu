// Copies by way of pinned blocks: none is used again before the device is done with it.
#include "flowgrad/kernels/cuda/staging.h"

#include <thread>

#include "gpu/support.cuh"

using namespace flowgrad;
using namespace flowgrad::test;
using kernels::Staging;

namespace {

std::vector<char> pattern(std::size_t n, int seed) {
  std::vector<char> bytes(n);
  for (std::size_t i = 0; i < n; ++i)
    bytes[i] = static_cast<char>((i * 31 + static_cast<std::size_t>(seed) * 17) % 251);
  return bytes;
}

__global__ void add_one(unsigned char* data, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = static_cast<unsigned char>(data[i] + 1);
}

}  // namespace

TEST_CASE("copies to the device keep their bytes while blocks take turns", "[staging_test]") {
  // The emulator reads pinned memory when it must and not before: a block that is filled anew too
  // early carries the wrong bytes.
  for (const std::size_t blocks : {0, 1, 2, 5}) {
    Staging staging(64, blocks);
    std::vector<std::vector<char>> sent;
    const std::vector<std::size_t> sizes{1, 63, 64, 65, 128, 1000, 0, 7};
    std::vector<std::unique_ptr<DeviceArray<char>>> arrays;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      sent.push_back(pattern(sizes[i], static_cast<int>(i)));
      arrays.push_back(std::make_unique<DeviceArray<char>>(sizes[i]));
      std::vector<char> own = sent.back();
      staging.to_device(arrays.back()->get(), own.data(), own.size());
      std::fill(own.begin(), own.end(), '\0');  // the caller's again
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) CHECK(arrays[i]->values() == sent[i]);
  }
}

TEST_CASE("copies to the host hold the bytes when they return", "[staging_test]") {
  // No blocks: no pinned memory was to be had.
  for (const std::size_t blocks : {0, 1, 2, 5}) {
    Staging staging(64, blocks);
    for (const std::size_t n : {1, 64, 65, 320, 1000}) {
      const std::vector<char> there = pattern(n, 3);
      const DeviceArray<char> array(there);
      std::vector<char> got(n + 2, 'x');
      staging.to_host(got.data() + 1, array.get(), n);
      CHECK(std::vector<char>(got.begin() + 1, got.end() - 1) == there);
      CHECK((got.front() == 'x' && got.back() == 'x'));
    }
  }
}

TEST_CASE("staged copies are ordered with kernels, both ways", "[staging_test]") {
  Staging staging(64, 2);
  const std::size_t n = 300;
  const DeviceArray<unsigned char> array(n);
  std::vector<unsigned char> host(n, 1), back(n);
  for (int round = 0; round < 3; ++round) {
    staging.to_device(array.get(), host.data(), n);
    gpu::launch(add_one, dim3(2), dim3(256), 0, gpu::default_stream(), array.get(),
                static_cast<int>(n));
    staging.to_host(back.data(), array.get(), n);
    CHECK(back == std::vector<unsigned char>(n, static_cast<unsigned char>(2 + 2 * round)));
    for (unsigned char& value : host) value = static_cast<unsigned char>(value + 2);
  }
}

TEST_CASE("threads share the blocks of staged copies", "[staging_test]") {
  for (const std::size_t blocks : {1, 3}) {
    Staging staging(64, blocks);
    std::vector<int> wrong(3);
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<DeviceArray<char>>> arrays;
    for (int t = 0; t < 3; ++t) arrays.push_back(std::make_unique<DeviceArray<char>>(4096));
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        std::vector<char> back(4096);
        for (int round = 0; round < 40; ++round) {
          const std::vector<char> sent = pattern(4096, 3 * round + t);
          char* const device = arrays[static_cast<std::size_t>(t)]->get();
          staging.to_device(device, sent.data(), sent.size());
          staging.to_host(back.data(), device, back.size());
          wrong[static_cast<std::size_t>(t)] += back != sent;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(3, 0));
  }
}

TEST_CASE("an event waits for what came before it", "[staging_test]") {
  gpu::wait_event({});
  const DeviceArray<float> array(random_floats(8, 1));
  auto* const pinned = static_cast<float*>(gpu::pinned_allocate(8 * sizeof(float)));
  REQUIRE(pinned != nullptr);
  gpu::Event event;
  for (int seed = 1; seed < 3; ++seed) {
    const std::vector<float> values = random_floats(8, static_cast<std::uint32_t>(seed));
    gpu::copy_to_device(array.get(), values.data(), 8 * sizeof(float), gpu::default_stream());
    gpu::copy_to_host(pinned, array.get(), 8 * sizeof(float), gpu::default_stream());
    gpu::record_event(event, gpu::default_stream());
    gpu::wait_event(event);
    CHECK(std::vector<float>(pinned, pinned + 8) == values);
  }
  gpu::release_event(event);
  gpu::pinned_release(pinned);
}
