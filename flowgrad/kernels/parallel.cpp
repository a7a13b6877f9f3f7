#include "flowgrad/kernels/parallel.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "flowgrad/core/error.h"

namespace flowgrad::kernels {
namespace {

constexpr int kMaxThreads = 1024;
constexpr auto kSpinTime = std::chrono::microseconds(20);

thread_local bool inside_region = false;

void futex_wait(const void* word, std::uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(const void* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1 : static_cast<int>(n);
}

void check_count(const std::string& what, long n) {
  if (n < 1 || n > kMaxThreads)
    throw ValueError(what + ": " + std::to_string(n) + " given; 1 to " +
                     std::to_string(kMaxThreads) + " threads are accepted");
}

int initial_threads() {
  const char* text = std::getenv("FLOWGRAD_NUM_THREADS");
  if (text == nullptr || *text == '\0') return std::min(available_cores(), kMaxThreads);
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  if (*end != '\0')
    throw ValueError("FLOWGRAD_NUM_THREADS: '" + std::string(text) +
                     "' given; a whole number of threads is accepted");
  check_count("FLOWGRAD_NUM_THREADS", n);
  return static_cast<int>(n);
}

struct Share {
  std::int64_t begin, end;
};

Share share_of(std::int64_t n, int thread, int threads) {
  const std::int64_t each = n / threads, extra = n % threads;
  const std::int64_t begin = thread * each + std::min<std::int64_t>(thread, extra);
  return {begin, begin + each + (thread < extra ? 1 : 0)};
}

class Pool {
 public:
  Pool() : count_(initial_threads()) { choose_spin(); }

  int count() const { return count_.load(std::memory_order_relaxed); }

  void resize(int n) {
    std::lock_guard lock(owner_);
    if (n == count()) return;
    stop_workers();
    count_.store(n, std::memory_order_relaxed);
    choose_spin();
  }

  void run(std::int64_t n_chunks, RangeFunction function, void* context) {
    const int threads = static_cast<int>(std::min<std::int64_t>(count(), n_chunks));
    if (threads <= 1 || inside_region || !owner_.try_lock()) {
      run_here(function, context, {0, n_chunks});
      return;
    }
    std::lock_guard lock(owner_, std::adopt_lock);
    if (workers_.empty()) start_workers();
    run_shared(n_chunks, function, context, std::min<int>(threads, count()));
  }

 private:
  // The low half of the ticket counts regions and is the futex word; the high half says how many
  // threads take part, so that the others go back to waiting without touching the job.
  static std::uint32_t region(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket); }
  static int threads_in(std::uint64_t ticket) { return static_cast<int>(ticket >> 32); }

  static void run_here(RangeFunction function, void* context, Share share) {
    const bool before = inside_region;
    inside_region = true;
    try {
      function(context, share.begin, share.end);
    } catch (...) {
      inside_region = before;
      throw;
    }
    inside_region = before;
  }

  void run_shared(std::int64_t n_chunks, RangeFunction function, void* context, int threads) {
    function_ = function;
    context_ = context;
    n_chunks_ = n_chunks;
    failed_.store(false, std::memory_order_relaxed);
    pending_.store(static_cast<std::uint32_t>(threads - 1), std::memory_order_relaxed);
    const std::uint64_t next =
        (static_cast<std::uint64_t>(threads) << 32) | std::uint32_t(region(ticket_.load()) + 1);
    ticket_.store(next, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake_all(&ticket_);
    run_share(0, threads);
    wait_for_workers();
    if (failed_.load(std::memory_order_acquire)) rethrow_first(threads);
  }

  void run_share(int thread, int threads) {
    try {
      run_here(function_, context_, share_of(n_chunks_, thread, threads));
    } catch (...) {
      errors_[static_cast<std::size_t>(thread)] = std::current_exception();
      failed_.store(true, std::memory_order_release);
    }
  }

  void rethrow_first(int threads) {
    std::exception_ptr first;
    for (int t = threads - 1; t >= 0; --t) {
      auto& error = errors_[static_cast<std::size_t>(t)];
      if (error) first = std::move(error);
      error = nullptr;
    }
    std::rethrow_exception(first);
  }

  template <class Done>
  bool spin_until(const Done& done) const {
    if (done()) return true;
    if (!spin_) return false;
    const auto limit = std::chrono::steady_clock::now() + kSpinTime;
    do {
      for (int i = 0; i < 32; ++i) {
        if (done()) return true;
        relax();
      }
    } while (std::chrono::steady_clock::now() < limit);
    return done();
  }

  void wait_for_workers() {
    if (spin_until([&] { return pending_.load(std::memory_order_acquire) == 0; })) return;
    caller_sleeps_.store(true, std::memory_order_seq_cst);
    for (;;) {
      const std::uint32_t left = pending_.load(std::memory_order_seq_cst);
      if (left == 0) break;
      futex_wait(&pending_, left);
    }
    caller_sleeps_.store(false, std::memory_order_relaxed);
  }

  void work(int thread, std::uint64_t seen) {
    for (;;) {
      if (!spin_until(
              [&] { return region(ticket_.load(std::memory_order_acquire)) != region(seen); })) {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        while (region(ticket_.load(std::memory_order_seq_cst)) == region(seen))
          futex_wait(&ticket_, region(seen));
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
      }
      seen = ticket_.load(std::memory_order_acquire);
      if (stopping_.load(std::memory_order_acquire)) return;
      if (thread >= threads_in(seen)) continue;
      run_share(thread, threads_in(seen));
      if (pending_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
          caller_sleeps_.load(std::memory_order_seq_cst))
        futex_wake_all(&pending_);
    }
  }

  void start_workers() {
    errors_.assign(static_cast<std::size_t>(count()), nullptr);
    for (int t = 1; t < count(); ++t)
      workers_.emplace_back([this, t, seen = ticket_.load()] { work(t, seen); });
  }

  void stop_workers() {
    stopping_.store(true, std::memory_order_release);
    ticket_.store(std::uint32_t(region(ticket_.load()) + 1), std::memory_order_seq_cst);
    futex_wake_all(&ticket_);
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    stopping_.store(false, std::memory_order_release);
  }

  // Spinning only pays while every thread has a core of its own.
  void choose_spin() { spin_ = count() <= available_cores(); }

  std::mutex owner_;
  std::atomic<int> count_;
  bool spin_ = true;
  std::vector<std::thread> workers_;
  std::vector<std::exception_ptr> errors_;
  RangeFunction function_ = nullptr;
  void* context_ = nullptr;
  std::int64_t n_chunks_ = 0;
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint32_t> pending_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> failed_{false};
  std::atomic<bool> stopping_{false};
};

// Never destroyed: workers may still wait in it while the process ends.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

int num_threads() { return pool().count(); }

void set_num_threads(int n) {
  check_count("set_num_threads", n);
  if (inside_region)
    throw ValueError("set_num_threads: called inside a parallel region; it is accepted outside");
  pool().resize(n);
}

bool in_parallel_region() { return inside_region; }

void parallel_run(std::int64_t n_chunks, RangeFunction function, void* context) {
  if (n_chunks <= 0) return;
  pool().run(n_chunks, function, context);
}

}  // namespace flowgrad::kernels
