#include "flowgrad/kernels/emulator/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/async.h"
#include "flowgrad/kernels/emulator/checker.h"
#include "flowgrad/kernels/emulator/fault.h"
#include "flowgrad/kernels/emulator/report.h"
#include "flowgrad/kernels/emulator/sm90.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace flowgrad::gpu::emulator {
namespace {

thread_local bool in_kernel = false;

// Unwinds the thread that failed. No standard exception, so that kernels' callers do not catch it.
struct Failure {};

Order order_from_environment() {
  const char* text = std::getenv("FLOWGRAD_EMULATOR_ORDER");
  if (text == nullptr || std::strcmp(text, "forward") == 0 || *text == '\0') return Order::forward;
  if (std::strcmp(text, "reverse") == 0) return Order::reverse;
  if (std::strcmp(text, "random") == 0) return Order::random;
  throw ValueError(std::string("FLOWGRAD_EMULATOR_ORDER is '") + text +
                   "'; accepted are forward, reverse and random");
}

std::uint64_t next_random(std::uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace

Scheduler& Scheduler::instance() {
  static Scheduler scheduler;
  return scheduler;
}

bool Scheduler::running_here() { return in_kernel; }

// --- a grid, a block ---

void Scheduler::choose_order() {
  order_ = order_from_environment();
  std::iota(permutation_.begin(), permutation_.begin() + n_threads_, 0u);
  if (order_ == Order::reverse) {
    for (unsigned i = 0; i < n_threads_; ++i) permutation_[i] = n_threads_ - 1 - i;
  }
  if (random_ == 0) {
    const char* seed = std::getenv("FLOWGRAD_EMULATOR_SEED");
    random_ = (seed != nullptr ? std::strtoull(seed, nullptr, 10) : 0) + 0x9E3779B97F4A7C15u;
  }
}

void Scheduler::run(const Kernel& kernel, dim3 grid, dim3 block, std::size_t dynamic_shared) {
  kernel_ = &kernel;
  gridDim = grid;
  blockDim = block;
  n_threads_ = block.x * block.y * block.z;
  if (threads_.empty()) threads_.resize(kMaxThreads);
  for (unsigned i = 0; i < n_threads_; ++i) {
    threads_[i].rank = i;
    threads_[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  choose_order();
  shared_.start_launch(dynamic_shared);
  checker::start_launch();
  const std::uint64_t n_blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  std::uint64_t step = 1;
  std::uint64_t first = 0;
  if (order_ == Order::random) {
    do {
      step = next_random(random_) % n_blocks + 1;
    } while (std::gcd(step, n_blocks) != 1);
    first = next_random(random_) % n_blocks;
  }
  failed_ = false;
  prepare_fault_stack();
  in_kernel = true;
  for (std::uint64_t i = 0; i < n_blocks && !failed_; ++i) {
    std::uint64_t b = order_ == Order::reverse ? n_blocks - 1 - i : i;
    if (order_ == Order::random) b = (first + i * step) % n_blocks;
    block_number_ = b;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
  }
  in_kernel = false;
  checker::end_launch();
  kernel_ = nullptr;
  if (failed_) throw DeviceError(failure_);
}

void Scheduler::start_block() {
  if (order_ == Order::random) {
    for (unsigned i = n_threads_; i > 1; --i) {
      std::swap(permutation_[i - 1], permutation_[next_random(random_) % i]);
    }
  }
  n_exited_ = 0;
  n_conditions_ = 0;
  barrier_ = {};
  named_.fill({});
  for (unsigned w = 0; w * kWarpSize < n_threads_; ++w) {
    const unsigned lanes = std::min(n_threads_ - w * kWarpSize, kWarpSize);
    warps_[w] = {lanes == kWarpSize ? ~0u : (1u << lanes) - 1, 0, nullptr};
  }
  for (unsigned i = 0; i < n_threads_; ++i) {
    ready_[i] = &threads_[permutation_[i]];
    ready_[i]->state = ThreadState::fresh;
  }
  ready_head_ = 0;
  n_ready_ = n_threads_;
  shared_.start_block();
  async_start_block();
  sm90_start_block();
  checker::start_block();
}

void Scheduler::run_block() {
  start_block();
  // The host side of the switch is not one of the threads, so it cannot go through resume().
  Thread* first = next_thread();
  current_ = first;
  threadIdx = first->index;
  first->stack = stacks_.take();
  prepare(first->fiber, first->stack, &Scheduler::fiber_main);
  switch_fiber(host_, first->fiber);
  if (failed_) {
    // What the abandoned fibers had on their stacks is not destroyed: no RAII across waits in
    // kernels.
    for (unsigned i = 0; i < n_threads_; ++i) {
      const Thread& thread = threads_[i];
      const bool holds_stack = thread.state == ThreadState::exited
                                   ? &thread == current_  // failed on its way out
                                   : thread.state != ThreadState::fresh;
      if (holds_stack) stacks_.give_back(thread.stack);
    }
    return;
  }
  if (const std::string overrun = shared_.overrun(); !overrun.empty()) {
    failed_ = true;
    failure_ = "kernel " + kernel_->name() + ": block " + describe(blockIdx) +
               ": shared memory: " + overrun;
  }
}

// --- one thread ---

void Scheduler::fiber_main() {
  Scheduler& self = instance();
  fiber_started(self.host_);
  try {
    self.run_threads();
  } catch (const Failure&) {
  }
  self.leave_block();  // with no exception being handled any more
}

void Scheduler::leave_block() {
  switch_fiber(current_->fiber, host_, true);
  std::abort();  // nobody resumes it
}

void Scheduler::run_threads() {
  for (;;) {
    run_body();
    Thread& ended = *current_;
    thread_exits();
    Thread* next = next_thread();
    if (next == nullptr) {
      if (n_exited_ < n_threads_) fail(deadlock_report());
      stacks_.give_back(ended.stack);
      leave_block();
    } else if (next->state == ThreadState::fresh) {
      // Kernels without a barrier live on this one warm stack.
      next->stack = ended.stack;
      next->state = ThreadState::ready;
      current_ = next;
      threadIdx = next->index;
    } else {
      stacks_.give_back(ended.stack);  // nobody takes it before the switch below is done
      current_ = next;
      threadIdx = next->index;
      switch_fiber(ended.fiber, next->fiber, true);
    }
  }
}

void Scheduler::run_body() {
  current_->state = ThreadState::ready;
  std::string escaped;
  try {
    kernel_->run();
    return;
  } catch (const std::exception& e) {
    escaped = e.what();
  }
  fail("an exception left the kernel: " + escaped);
}

void Scheduler::thread_exits() {
  Thread& thread = *current_;
  thread.state = ThreadState::exited;
  ++n_exited_;
  if (barrier_.waiting > 0) {
    fail("exits while " + std::to_string(barrier_.waiting) + " threads of the block wait at " +
         barrier_.what + " (" + describe(barrier_.site) + ")");
  }
  Warp& mine = warp();
  const unsigned bit = 1u << (thread.rank % kWarpSize);
  mine.exited |= bit;
  for (const Meeting* m = mine.meetings; m != nullptr; m = m->next) {
    if ((m->mask & bit) != 0) {
      fail(std::string("exits while other lanes of its warp wait for it at ") + m->what + " (" +
           describe(m->site) + ", mask " + hexadecimal(m->mask) + ")");
    }
  }
}

void Scheduler::make_ready(Thread& thread) {
  thread.state = ThreadState::ready;
  ready_[(ready_head_ + n_ready_++) % kMaxThreads] = &thread;
}

Thread* Scheduler::next_thread() {
  if (n_ready_ == 0 && n_conditions_ > 0) {
    for (unsigned i = 0; i < n_threads_; ++i) {
      Thread& thread = threads_[permutation_[i]];
      if (thread.state == ThreadState::at_condition && thread.done(thread.argument)) {
        --n_conditions_;
        make_ready(thread);
      }
    }
  }
  if (n_ready_ == 0) return nullptr;
  Thread* next = ready_[ready_head_];
  ready_head_ = (ready_head_ + 1) % kMaxThreads;
  --n_ready_;
  return next;
}

void Scheduler::resume(Thread& thread) {
  Thread& from = *current_;
  current_ = &thread;
  threadIdx = thread.index;
  if (thread.state == ThreadState::fresh) {
    thread.stack = stacks_.take();
    prepare(thread.fiber, thread.stack, &Scheduler::fiber_main);
  }
  switch_fiber(from.fiber, thread.fiber);
}

void Scheduler::wait(ThreadState state, const char* what, const Site& site, unsigned mask) {
  Thread& thread = *current_;
  thread.state = state;
  thread.what = what;
  thread.site = site;
  thread.mask = mask;
  Thread* next = next_thread();
  if (next == nullptr) fail(deadlock_report());
  if (next != &thread) resume(*next);
}

void Scheduler::fail(const std::string& what) {
  failure_ = place_of_running_thread() + ": " + what;
  failed_ = true;
  throw Failure{};
}

void Scheduler::fail_abruptly(const std::string& what) {
  failure_ = place_of_running_thread() + ": " + what;
  failed_ = true;
  leave_block();
}

// --- meeting others ---

void Scheduler::block_barrier(const char* what, const Site& site, bool vote) {
  if (barrier_.waiting == 0) {
    if (n_exited_ > 0) {
      fail(
          std::string(what) + ": " + std::to_string(n_exited_) +
          " threads of the block have exited and can never arrive; do not return before a barrier");
    }
    barrier_.what = what;
    barrier_.site = site;
    barrier_.votes = 0;
  } else if (!same_site(barrier_.site, site)) {
    fail(std::string("divergent barrier: arrives at ") + what + " (" + describe(site) + ") while " +
         std::to_string(barrier_.waiting) + " threads of the block wait at " + barrier_.what +
         " (" + describe(barrier_.site) + ")");
  }
  barrier_.votes += vote ? 1 : 0;
  if (++barrier_.waiting < n_threads_) {
    wait(ThreadState::at_barrier, what, site, 0);
    return;
  }
  barrier_.waiting = 0;
  barrier_.result = barrier_.votes;
  checker::block_synchronized();
  for (unsigned i = 0; i < n_threads_; ++i) {
    Thread& thread = threads_[permutation_[i]];
    if (thread.state == ThreadState::at_barrier) make_ready(thread);
  }
}

void Scheduler::named_barrier(unsigned number, unsigned n_threads, bool waits, const Site& site) {
  if (number >= named_.size()) fail("named barrier: the number must be below 16");
  NamedBarrier& barrier = named_[number];
  if (n_threads == 0 || n_threads % kWarpSize != 0 || n_threads > n_threads_) {
    fail("named barrier: " + std::to_string(n_threads) +
         " threads; a multiple of 32 up to the size of the block is needed");
  }
  if (barrier.arrived > 0 && barrier.expected != n_threads) {
    fail("named barrier " + std::to_string(number) + ": others expect " +
         std::to_string(barrier.expected) + " threads, this one " + std::to_string(n_threads));
  }
  barrier.expected = n_threads;
  if (++barrier.arrived == n_threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    checker::block_synchronized();
    return;
  }
  if (!waits) return;
  struct Wait {
    const NamedBarrier* barrier;
    unsigned generation;
  } mine{&barrier, barrier.generation};
  wait_until(
      "named barrier", site,
      [](void* w) {
        return static_cast<Wait*>(w)->barrier->generation != static_cast<Wait*>(w)->generation;
      },
      &mine);
}

void Scheduler::warp_collective(const char* what, const Site& site, unsigned mask, void* slot,
                                Combine combine) {
  Warp& mine = warp();
  const unsigned own = current_->rank % kWarpSize;
  const unsigned bit = 1u << own;
  if ((mask & bit) == 0) {
    fail(std::string(what) + ": mask " + hexadecimal(mask) + " lacks the calling lane " +
         std::to_string(own));
  }
  if ((mask & mine.exited) != 0) {
    fail(std::string(what) + ": mask " + hexadecimal(mask) +
         " names lanes that have exited: " + hexadecimal(mask & mine.exited));
  }
  Meeting** link = &mine.meetings;
  while (*link != nullptr &&
         !((*link)->mask == mask && same_site((*link)->site, site) && (*link)->what == what)) {
    const Meeting& other = **link;
    // They wait for this lane there, it waits for them here.
    if ((other.mask & bit) != 0 && (other.arrived & mask) != 0) {
      fail(std::string(what) + " (" + describe(site) + ", mask " + hexadecimal(mask) + "): lanes " +
           hexadecimal(other.arrived & mask) + " wait elsewhere, at " + other.what + " (" +
           describe(other.site) + ", mask " + hexadecimal(other.mask) + ")");
    }
    link = &(*link)->next;
  }
  const unsigned expected = mask & mine.present;
  if (*link == nullptr && expected != bit) {
    Meeting meeting{what, site, mask};
    meeting.arrived = bit;
    meeting.slots[own] = slot;
    *link = &meeting;
    wait(ThreadState::in_warp, what, site, mask);  // the last lane unlinks the meeting
    return;
  }
  if (*link == nullptr) {  // a mask of one lane
    void* slots[kWarpSize] = {};
    slots[own] = slot;
    combine(slots, bit);
    return;
  }
  Meeting& meeting = **link;
  meeting.slots[own] = slot;
  meeting.arrived |= bit;
  if (meeting.arrived != expected) {
    wait(ThreadState::in_warp, what, site, mask);
    return;
  }
  *link = meeting.next;
  combine(meeting.slots, expected);
  checker::warp_synchronized(mask);
  const unsigned start = order_ == Order::random ? next_random(random_) % kWarpSize : 0;
  for (unsigned i = 0; i < kWarpSize; ++i) {
    const unsigned l = order_ == Order::reverse ? kWarpSize - 1 - i : (i + start) % kWarpSize;
    if ((expected >> l & 1) != 0 && l != own) make_ready(threads_[current_->rank - own + l]);
  }
}

void Scheduler::wait_until(const char* what, const Site& site, bool (*done)(void*),
                           void* argument) {
  while (!done(argument)) {
    current_->done = done;
    current_->argument = argument;
    ++n_conditions_;
    wait(ThreadState::at_condition, what, site, 0);
  }
}

}  // namespace flowgrad::gpu::emulator
