#include "flowgrad/core/allocator.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/error.h"
#include "flowgrad/core/tensor.h"

using namespace flowgrad;

namespace {

/// Switches the planned failure off, whatever the test does.
struct FailurePlan {
  explicit FailurePlan(int64_t n) { fail_allocation_after(n); }
  ~FailurePlan() { fail_allocation_after(0); }
};

}  // namespace

TEST_CASE("live bytes follow the tensors and return to the baseline", "[allocator_test][serial]") {
  const MemoryStats before = memory_stats();
  reset_peak_memory();
  {
    const Tensor a = Tensor::empty({100});  // 400 bytes, a block of 512
    CHECK(memory_stats().live_bytes == before.live_bytes + 512);
    const Tensor view = a.detach();
    CHECK(memory_stats().live_bytes == before.live_bytes + 512);
    const Tensor large = Tensor::empty({1 << 20});  // 4 MiB, a multiple of 2 MiB
    CHECK(memory_stats().live_bytes == before.live_bytes + 512 + (4 << 20));
    CHECK(memory_stats().allocations == before.allocations + 2);
  }
  CHECK(memory_stats().live_bytes == before.live_bytes);
  CHECK(memory_stats().peak_bytes == before.live_bytes + 512 + (4 << 20));
  reset_peak_memory();
  CHECK(memory_stats().peak_bytes == before.live_bytes);
}

TEST_CASE("freed blocks are reused", "[allocator_test]") {
  for (size_t bytes : {size_t{100}, size_t{1} << 20, size_t{5} << 20}) {
    CAPTURE(bytes);
    empty_cache();
    CHECK(memory_stats().cached_bytes == 0);
    void* first = pool_allocate(bytes, Device::cpu());
    const int64_t system = memory_stats().system_allocations;
    pool_free(first, bytes, Device::cpu());
    CHECK(memory_stats().cached_bytes >= static_cast<int64_t>(bytes));
    void* second = pool_allocate(bytes - 1, Device::cpu());
    CHECK(second == first);
    CHECK(memory_stats().system_allocations == system);
    CHECK(memory_stats().cached_bytes == 0);
    pool_free(second, bytes - 1, Device::cpu());
  }
  empty_cache();
  CHECK(memory_stats().cached_bytes == 0);
}

TEST_CASE("blocks are aligned, writable to the end, and legal when empty", "[allocator_test]") {
  for (size_t bytes :
       {size_t{0}, size_t{1}, size_t{64}, size_t{65}, size_t{1000}, (size_t{1} << 20) + 1}) {
    void* p = pool_allocate(bytes, Device::cpu());
    CHECK(reinterpret_cast<uintptr_t>(p) % 64 == 0);
    std::memset(p, 1, bytes);
    pool_free(p, bytes, Device::cpu());
  }
  pool_free(nullptr, 10, Device::cpu());
}

TEST_CASE("a planned failure hits exactly the n-th allocation", "[allocator_test]") {
  const MemoryStats before = memory_stats();
  {
    const FailurePlan plan(3);
    const Tensor a = Tensor::empty({4});
    const Tensor b = Tensor::empty({4});
    CHECK_THROWS_WITH(Tensor::empty({7, 1}),
                      Catch::Matchers::StartsWith("out of memory on cpu: 28 bytes "
                                                  "requested; live "));
    const Tensor c = Tensor::empty({4});
    CHECK(c.numel() == 4);
  }
  CHECK(memory_stats().live_bytes == before.live_bytes);
}

TEST_CASE("the peak of small blocks is exact, from the cache as from the system",
          "[allocator_test][serial]") {
  empty_cache();
  for (int turn = 0; turn < 2; ++turn) {
    reset_peak_memory();
    const int64_t before = memory_stats().live_bytes;
    {
      Tensor a = Tensor::empty({16}), b = Tensor::empty({100});
      a = Tensor();
      const Tensor c = Tensor::empty({1000}), d = Tensor::empty({16});
      CHECK(memory_stats().live_bytes == before + 512 + 4096 + 64);
    }
    { const Tensor one = Tensor::empty({1000}); }
    CAPTURE(turn);
    CHECK(memory_stats().peak_bytes == before + 512 + 4096 + 64);
    CHECK(memory_stats().live_bytes == before);
  }
}

TEST_CASE("threads take and free each other's small blocks", "[allocator_test][serial]") {
  constexpr int kBlocks = 20'000;  // more than a thread keeps
  constexpr int64_t kBytes = kBlocks * int64_t{128};
  empty_cache();
  reset_peak_memory();
  const MemoryStats before = memory_stats();
  std::vector<void*> blocks;
  const auto fill = [&] {
    for (int i = 0; i < kBlocks; ++i) {
      blocks.push_back(pool_allocate(100, Device::cpu()));
      std::memset(blocks.back(), i, 100);
    }
  };
  std::thread maker(fill);
  maker.join();
  CHECK(memory_stats().live_bytes == before.live_bytes + kBytes);
  CHECK(memory_stats().peak_bytes == before.live_bytes + kBytes);
  CHECK(memory_stats().allocations == before.allocations + kBlocks);
  const auto release = [&] {
    for (void* block : blocks) pool_free(block, 100, Device::cpu());
    blocks.clear();
  };
  release();
  CHECK(memory_stats().live_bytes == before.live_bytes);
  CHECK(memory_stats().cached_bytes == before.cached_bytes + kBytes);
  // What one thread made and another freed, while the maker goes on.
  const int64_t system = memory_stats().system_allocations;
  fill();
  std::thread(release).join();
  CHECK(memory_stats().system_allocations == system);
  CHECK(memory_stats().live_bytes == before.live_bytes);
  CHECK(memory_stats().cached_bytes == before.cached_bytes + kBytes);
  empty_cache();
  CHECK(memory_stats().cached_bytes == 0);
}

TEST_CASE("many threads at once lose no block", "[allocator_test][serial]") {
  const MemoryStats before = memory_stats();
  std::vector<std::thread> threads;
  std::atomic<bool> is_whole{true};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&is_whole, t] {
      std::vector<std::pair<unsigned char*, size_t>> mine;
      for (int i = 0; i < 20'000; ++i) {
        const size_t bytes = size_t{1} << (6 + (i * 7 + t) % 9);
        auto* const block = static_cast<unsigned char*>(pool_allocate(bytes, Device::cpu()));
        block[0] = block[bytes - 1] = static_cast<unsigned char>(t);
        mine.emplace_back(block, bytes);
        if (i % 3 == 0) continue;
        const auto [first, size] = mine[static_cast<size_t>(i) % mine.size()];
        if (first[0] != t || first[size - 1] != t) is_whole = false;
        pool_free(first, size, Device::cpu());
        mine[static_cast<size_t>(i) % mine.size()] = mine.back();
        mine.pop_back();
      }
      for (const auto& [block, size] : mine) pool_free(block, size, Device::cpu());
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(is_whole);
  CHECK(memory_stats().live_bytes == before.live_bytes);
  CHECK(memory_stats().allocations == before.allocations + 80'000);
}

// Sanitizers abort on such a request, hence the tag.
TEST_CASE("an impossible request says what was asked", "[allocator_test][slow]") {
  const MemoryStats before = memory_stats();
  CHECK_THROWS_AS(Tensor::empty({int64_t{1} << 58}, DType::boolean), Error);
  CHECK(memory_stats().live_bytes == before.live_bytes);
  const Device elsewhere{Device::Kind::cuda, 100};
  CHECK_THROWS_AS(pool_allocate(8, elsewhere), DeviceError);
}
