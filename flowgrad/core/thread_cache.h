#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>

namespace flowgrad {

/// Small blocks of host memory that a thread freed, for its next tensors: they come and go without
/// a lock. The numbers are written by the thread alone and read by all, so that none costs more
/// than a plain addition.
struct ThreadCache {
  static constexpr size_t kSmallest = 64, kLargest = size_t{1} << 16;
  static constexpr int kSizes = 11;  // powers of two
  /// Of each size; what goes beyond it goes to the pool of all threads.
  static constexpr size_t kMostBytes = size_t{1} << 20;

  /// Lies in the block itself.
  struct Free {
    Free* next;
  };
  enum class State : uint8_t { unused, open, closed };

  Free* first[kSizes] = {};
  size_t bytes[kSizes] = {};
  State state = State::unused;
  /// Since the pool took the numbers over: bytes that tensors hold more than then, the most of
  /// these, and the allocations.
  std::atomic<int64_t> live{0}, peak{0}, allocations{0};
  /// Bytes in the lists.
  std::atomic<int64_t> cached{0};

  static void add(std::atomic<int64_t>& number, int64_t more) {
    number.store(number.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }
  static int list_of(size_t size) { return std::countr_zero(size) - std::countr_zero(kSmallest); }

  /// Null where there is none of that size.
  void* take(size_t size) {
    const int list = list_of(size);
    Free* const block = first[list];
    if (block == nullptr) return nullptr;
    first[list] = block->next;
    bytes[list] -= size;
    add(cached, -static_cast<int64_t>(size));
    add(live, static_cast<int64_t>(size));
    add(allocations, 1);
    const int64_t now = live.load(std::memory_order_relaxed);
    if (now > peak.load(std::memory_order_relaxed)) peak.store(now, std::memory_order_relaxed);
    return block;
  }
  /// False where it keeps no more.
  bool give(void* block, size_t size) noexcept {
    const int list = list_of(size);
    if (state != State::open || bytes[list] >= kMostBytes) return false;
    first[list] = new (block) Free{first[list]};
    bytes[list] += size;
    add(cached, static_cast<int64_t>(size));
    add(live, -static_cast<int64_t>(size));
    return true;
  }
  /// f(block, size) of every block, which the cache no longer holds.
  template <class F>
  void empty(F&& f) {
    for (int list = 0; list < kSizes; ++list) {
      while (Free* const block = first[list]) {
        first[list] = block->next;
        f(static_cast<void*>(block), kSmallest << list);
      }
      bytes[list] = 0;
    }
    cached.store(0, std::memory_order_relaxed);
  }
};

}  // namespace flowgrad
