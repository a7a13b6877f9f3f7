#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/// Fibers: flows of control with a stack each, switched by hand on one OS thread. Every CUDA thread
/// of a block is one.
namespace flowgrad::gpu::emulator {

/// A stack with a guard page below it.
struct Stack {
  char* low = nullptr;
  std::size_t bytes = 0;
  unsigned colour = 0;  // shifts the first frame, so that stacks do not compete for one cache set
};

/// Where a fiber stopped.
struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* low = nullptr;
  std::size_t bytes = 0;
#endif
};

/// Makes fiber start in entry, which must never return, on stack.
void prepare(Fiber& fiber, const Stack& stack, void (*entry)());
/// Suspends the running fiber into from and continues to. With leaving, from is never resumed.
void switch_fiber(Fiber& from, Fiber& to, bool leaving = false);
/// The first thing a fresh fiber does; from is what started it.
void fiber_started(Fiber& from);

/// Stacks are mapped once and kept for the next block.
class StackPool {
 public:
  Stack take();
  void give_back(const Stack& stack);
  /// Whether address lies in the guard page of any stack, i.e. a stack has overflowed.
  bool is_guard(const void* address) const;

 private:
  struct Slab {
    char* low;
    std::size_t bytes;
  };
  void grow();
  std::vector<Stack> free_;
  std::vector<Slab> slabs_;
};

}  // namespace flowgrad::gpu::emulator
