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
#include <limits>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "flowgrad/core/error.h"

namespace flowgrad::kernels {
namespace {

constexpr int kMaxThreads = 1024;
/// How long a waiting thread looks before it sleeps, for waking it takes tens of microseconds: at
/// first without a pause for others, then giving way to any thread that could run.
constexpr auto kSpinTime = std::chrono::microseconds(20);
constexpr auto kYieldTime = std::chrono::microseconds(1000);
/// A thread takes its share of the chunks in about so many pieces, so that one that is done early
/// finds pieces to take from the others.
constexpr std::int64_t kPieces = 16;

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

/// The chunks of one thread that nobody has begun: [next, end), on a cache line of their own.
struct alignas(64) Share {
  std::atomic<std::int64_t> next{0};
  std::int64_t end = 0, piece = 1;

  void assign(std::int64_t n, int thread, int threads) {
    const std::int64_t each = n / threads, extra = n % threads;
    const std::int64_t begin = thread * each + std::min<std::int64_t>(thread, extra);
    end = begin + each + (thread < extra ? 1 : 0);
    piece = std::max<std::int64_t>(1, (end - begin) / kPieces);
    next.store(begin, std::memory_order_relaxed);
  }
};

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
      const InsideRegion inside;
      return function(context, 0, n_chunks);
    }
    std::lock_guard lock(owner_, std::adopt_lock);
    if (workers_.empty()) start_workers();
    run_shared(n_chunks, function, context, std::min<int>(threads, count()));
  }

 private:
  struct InsideRegion {
    const bool before = inside_region;
    InsideRegion() { inside_region = true; }
    ~InsideRegion() { inside_region = before; }
  };

  // The low half of the ticket counts regions and is the futex word; the high half says how many
  // threads may take part, so that the others go back to waiting without touching the job.
  static std::uint32_t region(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket); }
  static int threads_in(std::uint64_t ticket) { return static_cast<int>(ticket >> 32); }

  // The gate has the region in its high half and the workers that joined it in its low half. A
  // worker that comes when the caller has found no more work to take stays out, so that the end of
  // a region never waits for a thread to wake.
  static constexpr std::uint64_t kClosed = std::uint64_t{1} << 31;

  bool join(std::uint32_t region) {
    std::uint64_t gate = gate_.load(std::memory_order_acquire);
    while (gate >> 32 == region && (gate & kClosed) == 0)
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void run_shared(std::int64_t n_chunks, RangeFunction function, void* context, int threads) {
    function_ = function;
    context_ = context;
    for (int t = 0; t < threads; ++t)
      shares_[static_cast<std::size_t>(t)].assign(n_chunks, t, threads);
    failed_at_.store(kNoFailure, std::memory_order_relaxed);
    finished_.store(0, std::memory_order_relaxed);
    const std::uint32_t next = region(ticket_.load()) + 1;
    gate_.store(std::uint64_t{next} << 32, std::memory_order_release);
    ticket_.store(static_cast<std::uint64_t>(threads) << 32 | next, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake_all(&ticket_);
    run_shares(0, threads);
    const std::uint64_t gate = gate_.fetch_or(kClosed, std::memory_order_acq_rel);
    wait_for_workers(static_cast<std::uint32_t>(gate));
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  /// The thread's own share, then what is left of the others'.
  void run_shares(int thread, int threads) {
    const InsideRegion inside;
    for (int i = 0; i < threads; ++i) {
      Share& share = shares_[static_cast<std::size_t>((thread + i) % threads)];
      for (;;) {
        const std::int64_t begin = share.next.fetch_add(share.piece, std::memory_order_relaxed);
        if (begin >= share.end) break;
        run_piece(begin, std::min(begin + share.piece, share.end));
      }
    }
  }

  /// Keeps the exception of the lowest piece; pieces behind it need not run any more.
  void run_piece(std::int64_t begin, std::int64_t end) {
    if (begin > failed_at_.load(std::memory_order_relaxed)) return;
    try {
      function_(context_, begin, end);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (begin >= failed_at_.load(std::memory_order_relaxed)) return;
      failed_at_.store(begin, std::memory_order_relaxed);
      error_ = std::current_exception();
    }
  }

  template <class Done>
  bool spin_until(const Done& done) const {
    if (done()) return true;
    if (!spin_) return false;
    const auto start = std::chrono::steady_clock::now();
    for (auto waited = start - start; waited < kYieldTime;
         waited = std::chrono::steady_clock::now() - start) {
      for (int i = 0; i < 32; ++i) {
        if (done()) return true;
        relax();
      }
      if (waited >= kSpinTime) sched_yield();
    }
    return done();
  }

  void wait_for_workers(std::uint32_t joined) {
    if (spin_until([&] { return finished_.load(std::memory_order_acquire) == joined; })) return;
    caller_sleeps_.store(true, std::memory_order_seq_cst);
    for (;;) {
      const std::uint32_t finished = finished_.load(std::memory_order_seq_cst);
      if (finished == joined) break;
      futex_wait(&finished_, finished);
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
      if (thread >= threads_in(seen) || !join(region(seen))) continue;
      run_shares(thread, threads_in(seen));
      finished_.fetch_add(1, std::memory_order_seq_cst);
      if (caller_sleeps_.load(std::memory_order_seq_cst)) futex_wake_all(&finished_);
    }
  }

  void start_workers() {
    shares_ = std::vector<Share>(static_cast<std::size_t>(count()));
    try {
      for (int t = 1; t < count(); ++t)
        workers_.emplace_back([this, t, seen = ticket_.load()] { work(t, seen); });
    } catch (const std::system_error& e) {
      const std::size_t started = workers_.size() + 1;
      stop_workers();
      throw Error("threads: only " + std::to_string(started) + " of " + std::to_string(count()) +
                  " can be started: " + e.code().message() +
                  "; --threads or FLOWGRAD_NUM_THREADS asks for fewer");
    }
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
  std::vector<Share> shares_;
  RangeFunction function_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<std::uint64_t> gate_{0};
  alignas(64) std::atomic<std::uint32_t> finished_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  static constexpr std::int64_t kNoFailure = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> failed_at_{kNoFailure};
  std::mutex error_mutex_;
  std::exception_ptr error_;
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
