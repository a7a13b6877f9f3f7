#include "flowgrad/core/ref.h"

#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/tensor.h"

using namespace flowgrad;

namespace {

// Released after the lists of the main thread are gone.
[[maybe_unused]] const Tensor kLivesToTheEnd = Tensor::empty({3});

struct Counted : RefCounted {
  explicit Counted(int& alive) : alive(alive) { ++alive; }
  ~Counted() override { --alive; }
  int& alive;
  char more[200] = {};
};

}  // namespace

TEST_CASE("memory of objects is writable in all sizes and comes back", "[ref_test]") {
  for (const size_t bytes : {1, 31, 32, 33, 200, 639, 640, 641, 5000}) {
    CAPTURE(bytes);
    std::vector<void*> blocks;
    // More than a list keeps.
    for (int i = 0; i < 1500; ++i) {
      blocks.push_back(object_allocate(bytes));
      std::memset(blocks.back(), i, bytes);
    }
    CHECK(std::set<void*>(blocks.begin(), blocks.end()).size() == blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      CHECK(static_cast<unsigned char*>(blocks[i])[bytes - 1] == i % 256);
      object_free(blocks[i], bytes);
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__)
TEST_CASE("a freed object's memory serves the next of its size", "[ref_test]") {
  void* const first = object_allocate(100);
  object_free(first, 100);
  void *const other = object_allocate(200), *second = object_allocate(97);
  CHECK(second == first);
  CHECK(other != first);
  object_free(second, 97);
  object_free(other, 200);
}
#endif

TEST_CASE("objects may end on another thread than they began on", "[ref_test]") {
  int alive = 0;
  std::vector<Ref<Counted>> objects;
  const auto make = [&] {
    for (int i = 0; i < 100; ++i) objects.push_back(make_ref<Counted>(alive));
  };
  std::thread(make).join();
  CHECK(alive == 100);
  make();
  std::thread([&] { objects.clear(); }).join();
  CHECK(alive == 0);
  make();
  const Ref<Counted> kept = objects.front();
  objects.clear();
  CHECK(alive == 1);
}
