#include "flowgrad/kernels/emulator/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/async.h"
#include "flowgrad/kernels/emulator/checker.h"
#include "flowgrad/kernels/emulator/environment.h"
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
  static const std::vector<std::string> accepted{"forward", "reverse", "random"};
  return static_cast<Order>(choice_from_environment("FLOWGRAD_EMULATOR_ORDER", accepted));
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
  if (random_ == 0) {
    random_ = number_from_environment("FLOWGRAD_EMULATOR_SEED", 0) + 0x9E3779B97F4A7C15u;
  }
}

void Scheduler::enter(Block& block) {
  block_ = &block;
  checker::enter_block(block.slot);
  const std::uint64_t b = block.number;
  blockIdx = {static_cast<unsigned>(b % gridDim.x),
              static_cast<unsigned>(b / gridDim.x % gridDim.y),
              static_cast<unsigned>(b / gridDim.x / gridDim.y)};
}

void Scheduler::prepare_block(unsigned slot, const Launch& launch) {
  if (slot == blocks_.size()) blocks_.push_back(std::make_unique<Block>());
  Block& block = *blocks_[slot];
  block.slot = slot;
  for (unsigned i = 0; i < n_threads_; ++i) {
    block.threads[i].rank = i;
    block.threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y,
                              i / (blockDim.x * blockDim.y)};
    block.permutation[i] = order_ == Order::reverse ? n_threads_ - 1 - i : i;
  }
  block.shared.start_launch(launch.dynamic_shared);
}

void Scheduler::run(const Kernel& kernel, const Launch& launch) {
  kernel_ = &kernel;
  const dim3 grid = gridDim = launch.grid;
  blockDim = launch.block;
  n_threads_ = blockDim.x * blockDim.y * blockDim.z;
  choose_order();
  const std::uint64_t n_blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  n_alive_ = launch.cooperative ? static_cast<unsigned>(n_blocks) : 1;
  for (unsigned i = 0; i < n_alive_; ++i) prepare_block(i, launch);
  checker::start_launch();
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
  for (std::uint64_t i = 0; i < n_blocks && !failed_;) {
    for (unsigned slot = 0; slot < n_alive_; ++slot, ++i) {
      block_ = blocks_[slot].get();
      block_->number = order_ == Order::reverse  ? n_blocks - 1 - i
                       : order_ == Order::random ? (first + i * step) % n_blocks
                                                 : i;
      enter(*block_);
      start_block();
    }
    run_blocks();
    for (unsigned slot = 0; slot < n_alive_; ++slot) end_block(*blocks_[slot]);
  }
  in_kernel = false;
  checker::end_launch();
  kernel_ = nullptr;
  if (failed_) throw DeviceError(failure_);
}

void Scheduler::start_block() {
  Block& block = *block_;
  if (order_ == Order::random) {
    for (unsigned i = n_threads_; i > 1; --i) {
      std::swap(block.permutation[i - 1], block.permutation[next_random(random_) % i]);
    }
  }
  block.n_exited = 0;
  block.n_conditions = 0;
  block.barrier = {};
  block.named.fill({});
  for (unsigned w = 0; w * kWarpSize < n_threads_; ++w) {
    const unsigned lanes = std::min(n_threads_ - w * kWarpSize, kWarpSize);
    block.warps[w] = {lanes == kWarpSize ? ~0u : (1u << lanes) - 1, 0, nullptr};
  }
  for (unsigned i = 0; i < n_threads_; ++i) {
    block.ready[i] = &block.threads[block.permutation[i]];
    block.ready[i]->state = ThreadState::fresh;
  }
  block.ready_head = 0;
  block.n_ready = n_threads_;
  block.shared.start_block();
  async_start_block();
  sm90_start_block();
  checker::start_block();
}

void Scheduler::run_blocks() {
  enter(*blocks_[0]);
  // The host side of the switch is not one of the threads, so it cannot go through resume().
  Thread* first = next_thread();
  current_ = first;
  threadIdx = first->index;
  first->stack = stacks_.take();
  prepare(first->fiber, first->stack, &Scheduler::fiber_main);
  switch_fiber(host_, first->fiber);
}

void Scheduler::end_block(Block& block) {
  if (failed_) {
    // What the abandoned fibers had on their stacks is not destroyed: no RAII across waits in
    // kernels.
    for (unsigned i = 0; i < n_threads_; ++i) {
      const Thread& thread = block.threads[i];
      const bool holds_stack = thread.state == ThreadState::exited
                                   ? &thread == current_  // failed on its way out
                                   : thread.state != ThreadState::fresh;
      if (holds_stack) stacks_.give_back(thread.stack);
    }
    return;
  }
  if (const std::string overrun = block.shared.overrun(); !overrun.empty()) {
    enter(block);
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
      for (unsigned slot = 0; slot < n_alive_; ++slot) {
        if (blocks_[slot]->n_exited < n_threads_) fail(deadlock_report());
      }
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
  ++block_->n_exited;
  const Barrier& barrier = block_->barrier;
  if (barrier.waiting > 0) {
    fail("exits while " + std::to_string(barrier.waiting) + " threads of the block wait at " +
         barrier.what + " (" + describe(barrier.site) + ")");
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
  block_->ready[(block_->ready_head + block_->n_ready++) % kMaxThreads] = &thread;
}

Thread* Scheduler::next_of_block() {
  Block& block = *block_;
  if (block.n_ready == 0 && block.n_conditions > 0) {
    for (unsigned i = 0; i < n_threads_; ++i) {
      Thread& thread = block.threads[block.permutation[i]];
      if (thread.state == ThreadState::at_condition && thread.done(thread.argument)) {
        --block.n_conditions;
        make_ready(thread);
      }
    }
  }
  if (block.n_ready == 0) return nullptr;
  Thread* next = block.ready[block.ready_head];
  block.ready_head = (block.ready_head + 1) % kMaxThreads;
  --block.n_ready;
  return next;
}

Thread* Scheduler::next_thread() {
  Block& last = *block_;
  if (Thread* next = next_of_block()) return next;
  // Nothing to do in this block: the others have their turn.
  for (unsigned i = 1; i < n_alive_; ++i) {
    enter(*blocks_[(last.slot + i) % n_alive_]);
    if (Thread* next = next_of_block()) return next;
  }
  if (n_alive_ > 1) enter(last);
  return nullptr;
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
  Barrier& barrier = block_->barrier;
  if (barrier.waiting == 0) {
    if (block_->n_exited > 0) {
      fail(
          std::string(what) + ": " + std::to_string(block_->n_exited) +
          " threads of the block have exited and can never arrive; do not return before a barrier");
    }
    barrier.what = what;
    barrier.site = site;
    barrier.votes = 0;
  } else if (!same_site(barrier.site, site)) {
    fail(std::string("divergent barrier: arrives at ") + what + " (" + describe(site) + ") while " +
         std::to_string(barrier.waiting) + " threads of the block wait at " + barrier.what + " (" +
         describe(barrier.site) + ")");
  }
  barrier.votes += vote ? 1 : 0;
  if (++barrier.waiting < n_threads_) {
    wait(ThreadState::at_barrier, what, site, 0);
    return;
  }
  barrier.waiting = 0;
  barrier.result = barrier.votes;
  checker::block_synchronized();
  for (unsigned i = 0; i < n_threads_; ++i) {
    Thread& thread = block_->threads[block_->permutation[i]];
    if (thread.state == ThreadState::at_barrier) make_ready(thread);
  }
}

void Scheduler::named_barrier(unsigned number, unsigned n_threads, bool waits, const Site& site) {
  if (number >= block_->named.size()) fail("named barrier: the number must be below 16");
  NamedBarrier& barrier = block_->named[number];
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
    if ((expected >> l & 1) != 0 && l != own) make_ready(block_->threads[current_->rank - own + l]);
  }
}

void Scheduler::wait_until(const char* what, const Site& site, bool (*done)(void*),
                           void* argument) {
  while (!done(argument)) {
    current_->done = done;
    current_->argument = argument;
    ++block_->n_conditions;
    wait(ThreadState::at_condition, what, site, 0);
  }
}

}  // namespace flowgrad::gpu::emulator
