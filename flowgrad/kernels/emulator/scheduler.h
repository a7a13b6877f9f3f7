#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/emulator/fiber.h"
#include "flowgrad/kernels/emulator/shared_memory.h"

/// The scheduler's own state; kernels see block.h only.
namespace flowgrad::gpu::emulator {

enum class ThreadState : std::uint8_t { fresh, ready, at_barrier, in_warp, at_condition, exited };

struct Thread {
  Fiber fiber;
  Stack stack;
  uint3 index{};
  unsigned rank = 0;
  ThreadState state = ThreadState::fresh;
  // Where and for what it waits.
  const char* what = "";
  Site site;
  unsigned mask = 0;
  bool (*done)(void*) = nullptr;
  void* argument = nullptr;
};

/// Lanes of one warp on their way to meet. It lives on the stack of the lane that came first.
struct Meeting {
  const char* what;
  Site site;
  unsigned mask;
  unsigned arrived = 0;
  void* slots[kWarpSize] = {};
  Meeting* next = nullptr;
};

struct Warp {
  unsigned present = 0;  // lanes that exist
  unsigned exited = 0;
  Meeting* meetings = nullptr;
};

struct Barrier {
  unsigned waiting = 0;
  unsigned votes = 0;
  unsigned result = 0;
  const char* what = "";
  Site site;
};

struct NamedBarrier {
  unsigned expected = 0;
  unsigned arrived = 0;
  unsigned generation = 0;
};

/// In which order threads first run and are let go, and blocks run. Code that is right passes in
/// all.
enum class Order : std::uint8_t { forward, reverse, random };

/// One block: its threads, and where they meet.
struct Block {
  unsigned slot = 0;  // among the blocks that are alive together
  std::uint64_t number = 0;
  unsigned n_exited = 0;
  std::vector<Thread> threads = std::vector<Thread>(kMaxThreads);
  std::array<Warp, kMaxThreads / kWarpSize> warps;
  std::array<unsigned, kMaxThreads> permutation;
  // Threads that can go on, a ring: at most all of them are in it.
  std::array<Thread*, kMaxThreads> ready;
  unsigned ready_head = 0;
  unsigned n_ready = 0;
  unsigned n_conditions = 0;
  Barrier barrier;
  std::array<NamedBarrier, 16> named;
  SharedMemory shared;
};

class Scheduler {
 public:
  static Scheduler& instance();

  /// Blocks run one after the other; those of a cooperative launch take turns, so that one may wait
  /// for another.
  void run(const Kernel& kernel, const Launch& launch);

  // What the functions of block.h do, for the running thread.
  [[noreturn]] void fail(const std::string& what);
  /// As fail, where the stack cannot be unwound.
  [[noreturn]] void fail_abruptly(const std::string& what);
  void block_barrier(const char* what, const Site& site, bool vote);
  void named_barrier(unsigned number, unsigned n_threads, bool wait, const Site& site);
  void warp_collective(const char* what, const Site& site, unsigned mask, void* slot,
                       Combine combine);
  void wait_until(const char* what, const Site& site, bool (*done)(void*), void* argument);

  Thread& current() { return *current_; }
  Warp& warp() { return block_->warps[current_->rank / kWarpSize]; }
  unsigned last_vote() const { return block_->barrier.result; }
  SharedMemory& shared() { return block_->shared; }
  const StackPool& stacks() const { return stacks_; }
  const Kernel* kernel() const { return kernel_; }
  std::uint64_t block_number() const { return block_->number; }
  unsigned block_slot() const { return block_->slot; }
  bool is_cooperative() const { return n_alive_ > 1; }
  /// Whether the calling OS thread is inside a kernel.
  static bool running_here();
  static std::string place_of_running_thread();

 private:
  void enter(Block& block);
  void prepare_block(unsigned slot, const Launch& launch);
  void start_block();
  /// Runs all threads of the blocks that were started.
  void run_blocks();
  void end_block(Block& block);
  [[noreturn]] static void fiber_main();
  [[noreturn]] void run_threads();
  void run_body();
  [[noreturn]] void leave_block();
  void thread_exits();
  Thread* next_thread();
  Thread* next_of_block();
  void wait(ThreadState state, const char* what, const Site& site, unsigned mask);
  void resume(Thread& thread);
  void make_ready(Thread& thread);
  std::string deadlock_report() const;
  void choose_order();
  std::string threads_waiting(const Block& block) const;

  const Kernel* kernel_ = nullptr;
  unsigned n_threads_ = 0;
  unsigned n_alive_ = 0;  // blocks at a time: one, or all of a cooperative launch
  std::uint64_t random_ = 0;
  Order order_ = Order::forward;
  bool failed_ = false;
  std::string failure_;

  Fiber host_;
  Thread* current_ = nullptr;
  Block* block_ = nullptr;  // of the current thread
  std::vector<std::unique_ptr<Block>> blocks_;
  StackPool stacks_;
};

std::string describe(const Site& site);

}  // namespace flowgrad::gpu::emulator
