#include "flowgrad/core/allocator.h"

#include <cstdint>
#include <cstring>

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

// Sanitizers abort on such a request, hence the tag.
TEST_CASE("an impossible request says what was asked", "[allocator_test][slow]") {
  const MemoryStats before = memory_stats();
  CHECK_THROWS_AS(Tensor::empty({int64_t{1} << 58}, DType::boolean), Error);
  CHECK(memory_stats().live_bytes == before.live_bytes);
  const Device elsewhere{Device::Kind::cuda, 100};
  CHECK_THROWS_AS(pool_allocate(8, elsewhere), DeviceError);
}
