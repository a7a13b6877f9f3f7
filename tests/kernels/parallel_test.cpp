#include "flowgrad/kernels/parallel.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "kernels/cpu_support.h"

using namespace flowgrad::kernels;
using flowgrad::testing::CpuSettings;

TEST_CASE("every chunk runs exactly once at any number of threads", "[parallel_test]") {
  CpuSettings restore;
  for (int threads : {1, 2, 3, 4, 7, 16}) {
    set_num_threads(threads);
    CHECK(num_threads() == threads);
    for (int64_t chunks : {0, 1, 2, 3, 7, 8, 100, 1001}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(chunks));
      parallel_for(chunks, [&](int64_t i) { ++seen[static_cast<size_t>(i)]; });
      for (auto& s : seen) REQUIRE(s == 1);
    }
  }
}

TEST_CASE("work is shared between threads", "[parallel_test]") {
  CpuSettings restore;
  set_num_threads(3);
  // Each chunk waits for the other two, so this only ends when three threads run.
  std::atomic<int> arrived{0};
  std::vector<std::thread::id> who(3);
  parallel_for(3, [&](int64_t i) {
    who[static_cast<size_t>(i)] = std::this_thread::get_id();
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
  });
  CHECK(who[0] == std::this_thread::get_id());
  CHECK(who[0] != who[1]);
  CHECK(who[1] != who[2]);
}

TEST_CASE("a thread that is done takes what is left of the others' shares", "[parallel_test]") {
  CpuSettings restore;
  set_num_threads(2);
  // Chunk 0 ends only when every other chunk has run, those of its own share too.
  std::atomic<int> others{0};
  parallel_for(8, [&](int64_t i) {
    if (i > 0) {
      ++others;
      return;
    }
    while (others < 7) std::this_thread::yield();
  });
  CHECK(others == 7);
}

TEST_CASE("nested regions run serially in their thread", "[parallel_test]") {
  CpuSettings restore;
  set_num_threads(4);
  CHECK_FALSE(in_parallel_region());
  std::atomic<int> inner{0};
  std::atomic<int> strangers{0};
  parallel_for(8, [&](int64_t) {
    const auto me = std::this_thread::get_id();
    if (!in_parallel_region()) ++strangers;
    parallel_for(10, [&](int64_t) {
      ++inner;
      if (std::this_thread::get_id() != me) ++strangers;
    });
  });
  CHECK(inner == 80);
  CHECK(strangers == 0);
  CHECK_FALSE(in_parallel_region());
}

TEST_CASE("the exception of the lowest chunk reaches the caller", "[parallel_test]") {
  CpuSettings restore;
  for (int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    for (int64_t bad : {0, 5, 41, 99}) {
      try {
        parallel_for(100, [&](int64_t i) {
          if (i >= bad) throw std::runtime_error(std::to_string(i));
        });
        FAIL("no exception");
      } catch (const std::runtime_error& e) {
        CHECK(e.what() == std::to_string(bad));
      }
    }
    // The pool still works.
    std::atomic<int> count{0};
    parallel_for(100, [&](int64_t) { ++count; });
    CHECK(count == 100);
  }
}

TEST_CASE("many callers at once all get their work done", "[parallel_test]") {
  CpuSettings restore;
  set_num_threads(3);
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 10; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        std::atomic<int64_t> mine{0};
        parallel_for(17, [&](int64_t i) { mine += i; });
        total += mine;
      }
    });
  }
  for (auto& t : callers) t.join();
  CHECK(total == 10 * 200 * 136);
}

TEST_CASE("the number of threads may change between regions", "[parallel_test]") {
  CpuSettings restore;
  std::atomic<int> count{0};
  for (int round = 0; round < 60; ++round) {
    set_num_threads(1 + round % 5);
    parallel_for(9, [&](int64_t) { ++count; });
  }
  CHECK(count == 60 * 9);
}

TEST_CASE("thread counts outside 1 to 1024 are refused", "[parallel_test]") {
  CpuSettings restore;
  const int before = num_threads();
  CHECK_THROWS_WITH(set_num_threads(0), "set_num_threads: 0 given; 1 to 1024 threads are accepted");
  CHECK_THROWS_AS(set_num_threads(-3), flowgrad::ValueError);
  CHECK_THROWS_AS(set_num_threads(1025), flowgrad::ValueError);
  CHECK(num_threads() == before);
  set_num_threads(2);
  CHECK_THROWS_AS(parallel_for(2, [](int64_t) { set_num_threads(3); }), flowgrad::ValueError);
}
