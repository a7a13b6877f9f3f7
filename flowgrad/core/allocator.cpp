#include "flowgrad/core/allocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/error.h"
#include "flowgrad/core/private_pool.h"
#include "flowgrad/core/thread_cache.h"

namespace flowgrad {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLargeStep = size_t{2} << 20;
constexpr size_t kSmallLimit = size_t{1} << 20;
constexpr int kClasses = 21;  // 2^6 .. 2^20, and one list for larger blocks
constexpr size_t kMaxCachedLarge = size_t{1} << 30;
constexpr size_t kMaxDevices = 128;  // of one kind: what Device::index can name

/// Powers of two from 64 bytes to 1 MiB, steps of 2 MiB above: few sizes, so blocks are reused.
size_t pool_size(size_t bytes) {
  if (bytes <= kAlignment) return kAlignment;
  if (bytes <= kSmallLimit) return std::bit_ceil(bytes);
  return (bytes + kLargeStep - 1) / kLargeStep * kLargeStep;
}

/// Through which this thread allocates on the pool's device; nullptr: the device's own.
thread_local PrivatePool::Blocks* chosen = nullptr;

/// Of the host's pool. Constant-initialised and without a destructor: every access is a plain one.
thread_local constinit ThreadCache thread_cache;

/// Nothing where the device has none left.
void* system_allocate(size_t size, Device device) {
  return device.is_cpu() ? std::aligned_alloc(kAlignment, size)
                         : device_memory(device.kind).allocate(size);
}

void system_release(void* block, Device device) noexcept {
  device.is_cpu() ? std::free(block) : device_memory(device.kind).release(block);
}

/// One for each device. A device's work runs in one stream, so that a freed block may serve the
/// next tensor at once: its kernels run after those of the last owner.
struct Pool {
  explicit Pool(Device of) : device(of) {}

  const Device device;
  std::mutex mutex;
  std::array<std::vector<void*>, kClasses> small;
  struct Large {
    void* block;
    size_t size;
  };
  std::vector<Large> large;
  /// Live blocks of private pools.
  std::unordered_map<void*, std::shared_ptr<PrivatePool::Blocks>> private_owner;
  /// Whether there ever was one.
  std::atomic<bool> has_private{false};
  /// Of the threads; their numbers are not in the pool's yet.
  std::vector<ThreadCache*> caches;
  MemoryStats stats;

  int64_t live_bytes() const {
    int64_t bytes = stats.live_bytes;
    for (const ThreadCache* c : caches) bytes += c->live.load(std::memory_order_relaxed);
    return bytes;
  }
  /// The peak, with that of a thread beside what the others hold now: exact for one thread.
  int64_t peak_bytes() const {
    const int64_t live = live_bytes();
    int64_t peak = std::max(stats.peak_bytes, live);
    for (const ThreadCache* c : caches)
      peak = std::max(peak, live - c->live.load(std::memory_order_relaxed) +
                                c->peak.load(std::memory_order_relaxed));
    return peak;
  }
  /// Takes the numbers of this thread's cache over, before the pool's own change.
  void settle() {
    if (!device.is_cpu() || thread_cache.state != ThreadCache::State::open) return;
    stats.peak_bytes = peak_bytes();
    stats.live_bytes += thread_cache.live.exchange(0);
    stats.allocations += thread_cache.allocations.exchange(0);
    thread_cache.peak.store(0);
  }

  std::vector<void*>& list(size_t size) {
    return small[static_cast<size_t>(std::countr_zero(size))];
  }

  void* take_cached(size_t size) {
    if (size <= kSmallLimit) {
      auto& blocks = list(size);
      if (blocks.empty()) return nullptr;
      void* p = blocks.back();
      blocks.pop_back();
      return p;
    }
    for (size_t i = large.size(); i-- > 0;) {
      if (large[i].size == size) {
        void* p = large[i].block;
        large[i] = large.back();
        large.pop_back();
        return p;
      }
    }
    return nullptr;
  }

  /// A block that nobody holds any more: into the cache, or back to the system.
  void put(void* block, size_t size) noexcept {
    stats.live_bytes -= static_cast<int64_t>(size);
    bool kept = false;
    try {
      if (size <= kSmallLimit) {
        list(size).push_back(block);
        kept = true;
      } else if (stats.cached_bytes + static_cast<int64_t>(size) <=
                 static_cast<int64_t>(kMaxCachedLarge)) {
        large.push_back({block, size});
        kept = true;
      }
    } catch (const std::bad_alloc&) {
      kept = false;
    }
    if (kept) {
      stats.cached_bytes += static_cast<int64_t>(size);
    } else {
      system_release(block, device);
    }
  }

  void flush() {
    if (device.is_cpu())
      thread_cache.empty([this](void* block, size_t) { system_release(block, device); });
    for (auto& blocks : small) {
      for (void* p : blocks) system_release(p, device);
      blocks.clear();
    }
    for (auto& l : large) system_release(l.block, device);
    large.clear();
    stats.cached_bytes = 0;
  }
};

}  // namespace

/// Of one private pool, guarded by the mutex of its device's pool.
struct PrivatePool::Blocks : std::enable_shared_from_this<Blocks> {
  explicit Blocks(Device of) : device(of) {}
  ~Blocks();
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  void* take(size_t size) {
    const auto found = free.find(size);
    if (found == free.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    return block;
  }

  const Device device;
  std::map<size_t, std::vector<void*>> free;
  /// Of others, freed by the capturing thread.
  std::vector<std::pair<void*, size_t>> kept;
  int64_t bytes = 0;
};

namespace {

// Pools are never destroyed: tensors with static storage may be released after any destructor here.
Pool& cpu_pool() {
  static Pool* p = new Pool(Device::cpu());
  return *p;
}

Pool& device_pool(Device device) {
  static std::array<std::atomic<Pool*>, kMaxDevices> pools;
  static std::mutex making;
  const auto index = static_cast<size_t>(device.index);
  if (index < kMaxDevices) {
    if (Pool* made = pools[index].load(std::memory_order_acquire)) return *made;
  }
  if (device.index < 0 || device.index >= device_memory(device.kind).count()) {
    throw DeviceError("allocate: there is no device " + device.to_string());
  }
  std::lock_guard lock(making);
  std::atomic<Pool*>& slot = pools[index];
  if (!slot.load(std::memory_order_relaxed)) slot.store(new Pool(device));
  return *slot.load(std::memory_order_relaxed);
}

PrivatePool::Blocks* chosen_on(Device device) {
  return chosen != nullptr && chosen->device == device ? chosen : nullptr;
}

/// Opens the cache of this thread, and when the thread ends gives all it has to the pool.
struct CacheOfThread {
  CacheOfThread() {
    Pool& p = cpu_pool();
    std::lock_guard lock(p.mutex);
    p.caches.push_back(&thread_cache);
    thread_cache.state = ThreadCache::State::open;
  }
  ~CacheOfThread() {
    Pool& p = cpu_pool();
    std::lock_guard lock(p.mutex);
    p.settle();
    thread_cache.empty([&p](void* block, size_t size) {
      p.stats.live_bytes += static_cast<int64_t>(size);
      p.put(block, size);
    });
    thread_cache.state = ThreadCache::State::closed;
    std::erase(p.caches, &thread_cache);
  }
};

/// Whether blocks of this size come and go by the thread's cache.
bool is_cached_by_thread(size_t size, Device device) {
  return device.is_cpu() && size <= ThreadCache::kLargest && chosen == nullptr;
}

Pool& pool(Device device) { return device.is_cpu() ? cpu_pool() : device_pool(device); }

std::atomic<int64_t> fail_countdown{0};

bool is_failure_planned() { return fail_countdown.load(std::memory_order_relaxed) != 0; }
bool fails_now() { return is_failure_planned() && fail_countdown.fetch_sub(1) == 1; }

}  // namespace

void* pool_allocate(size_t bytes, Device device) {
  const size_t size = pool_size(bytes);
  if (is_cached_by_thread(size, device) && !is_failure_planned()) {
    if (thread_cache.state == ThreadCache::State::unused) {
      thread_local const CacheOfThread opened;
    }
    if (void* const block = thread_cache.take(size)) return block;
  }
  Pool& p = pool(device);
  const bool fail = fails_now();
  PrivatePool::Blocks* const own = chosen_on(device);
  std::lock_guard lock(p.mutex);
  p.settle();
  void* block = fail || own == nullptr ? nullptr : own->take(size);
  const bool counted = block != nullptr;
  if (!block && !fail) {
    block = p.take_cached(size);
    if (block) {
      p.stats.cached_bytes -= static_cast<int64_t>(size);
    } else {
      block = system_allocate(size, device);
      if (!block) {
        p.flush();
        block = system_allocate(size, device);
      }
      ++p.stats.system_allocations;
    }
  }
  if (!block) {
    throw Error(fmt::format("out of memory on {}: {} bytes requested; live {}, cached {}, peak {}",
                            device.to_string(), bytes, p.live_bytes(), p.stats.cached_bytes,
                            p.peak_bytes()));
  }
  ++p.stats.allocations;
  if (own) {
    p.private_owner.emplace(block, own->shared_from_this());
    p.has_private.store(true, std::memory_order_relaxed);
  }
  if (counted) return block;
  if (own) own->bytes += static_cast<int64_t>(size);
  p.stats.live_bytes += static_cast<int64_t>(size);
  p.stats.peak_bytes = p.peak_bytes();
  return block;
}

void pool_free(void* block, size_t bytes, Device device) noexcept {
  if (!block) return;
  const size_t size = pool_size(bytes);
  Pool& p = pool(device);
  if (is_cached_by_thread(size, device) && !p.has_private.load(std::memory_order_relaxed) &&
      thread_cache.give(block, size))
    return;
  std::shared_ptr<PrivatePool::Blocks> owner;  // may be the last, and goes after the lock
  std::lock_guard lock(p.mutex);
  p.settle();
  try {
    if (!p.private_owner.empty()) {
      if (const auto found = p.private_owner.find(block); found != p.private_owner.end()) {
        owner = std::move(found->second);
        p.private_owner.erase(found);
        owner->free[size].push_back(block);
        return;
      }
    }
    if (PrivatePool::Blocks* const own = chosen_on(device)) {
      own->kept.emplace_back(block, size);
      own->bytes += static_cast<int64_t>(size);
      return;
    }
  } catch (const std::bad_alloc&) {
    return;  // lost, but nobody else's
  }
  p.put(block, size);
}

PrivatePool::PrivatePool(Device device) : blocks_(std::make_shared<Blocks>(device)) {}

int64_t PrivatePool::bytes() const {
  std::lock_guard lock(pool(blocks_->device).mutex);
  return blocks_->bytes;
}

PrivatePool::Scope::Scope(const PrivatePool& own)
    : previous_(std::exchange(chosen, own.blocks_.get())) {}
PrivatePool::Scope::~Scope() { chosen = previous_; }

PrivatePool::Blocks::~Blocks() {
  Pool& p = pool(device);
  std::lock_guard lock(p.mutex);
  p.settle();
  for (const auto& [size, blocks] : free) {
    for (void* block : blocks) p.put(block, size);
  }
  for (const auto& [block, size] : kept) p.put(block, size);
}

MemoryStats memory_stats(Device device) {
  Pool& p = pool(device);
  std::lock_guard lock(p.mutex);
  MemoryStats stats = p.stats;
  stats.live_bytes = p.live_bytes();
  stats.peak_bytes = p.peak_bytes();
  for (const ThreadCache* c : p.caches) {
    stats.cached_bytes += c->cached.load(std::memory_order_relaxed);
    stats.allocations += c->allocations.load(std::memory_order_relaxed);
  }
  return stats;
}

void reset_peak_memory(Device device) {
  Pool& p = pool(device);
  std::lock_guard lock(p.mutex);
  p.settle();
  for (ThreadCache* c : p.caches) c->peak.store(c->live.load());
  p.stats.peak_bytes = p.live_bytes();
}

void empty_cache(Device device) {
  Pool& p = pool(device);
  std::lock_guard lock(p.mutex);
  p.flush();
}

void fail_allocation_after(int64_t n) { fail_countdown.store(n); }

}  // namespace flowgrad
