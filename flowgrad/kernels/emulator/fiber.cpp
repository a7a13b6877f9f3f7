#include "flowgrad/kernels/emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "flowgrad/core/error.h"

#if defined(__x86_64__)
// Saves what the System V ABI lets a callee assume preserved; the return address is the rest of it.
asm(R"(
.text
.p2align 4
.globl flowgrad_fiber_switch
.hidden flowgrad_fiber_switch
.type flowgrad_fiber_switch, @function
flowgrad_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size flowgrad_fiber_switch, .-flowgrad_fiber_switch
)");
extern "C" void flowgrad_fiber_switch(void** save, void* load);
#endif

namespace flowgrad::gpu::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 << 10;  // redzones make frames several times larger
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif
constexpr std::size_t kStacksPerSlab = 64;

std::size_t page() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
std::size_t stride() { return kStackBytes + page(); }

}  // namespace

void prepare(Fiber& fiber, const Stack& stack, void (*entry)()) {
  char* top = stack.low + stack.bytes - stack.colour;
#if defined(__x86_64__)
  // From the top: a null return address for entry, entry's address, six zeroed registers. The `ret`
  // that enters leaves the stack pointer at 8 modulo 16, as after a call.
  auto* frame = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = frame;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack.low;
  fiber.context.uc_stack.ss_size = static_cast<std::size_t>(top - stack.low);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
  fiber.fake_stack = nullptr;
  fiber.low = stack.low;
  fiber.bytes = stack.bytes;
#endif
}

void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool leaving) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(leaving ? nullptr : &from.fake_stack, to.low, to.bytes);
#endif
#if defined(__x86_64__)
  flowgrad_fiber_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void fiber_started([[maybe_unused]] Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
  // The caller's stack is the OS thread's own; its bounds are learnt here, at the first switch.
  const void* low = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &low, &bytes);
  if (from.low == nullptr) {
    from.low = low;
    from.bytes = bytes;
  }
#endif
}

Stack StackPool::take() {
  if (free_.empty()) grow();
  const Stack stack = free_.back();
  free_.pop_back();
  return stack;
}

void StackPool::give_back(const Stack& stack) {
#if defined(__SANITIZE_ADDRESS__)
  // An abandoned fiber leaves the redzones of its frames behind.
  __asan_unpoison_memory_region(stack.low, stack.bytes);
#endif
  free_.push_back(stack);
}

void StackPool::grow() {
  const std::size_t bytes = stride() * kStacksPerSlab;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Error("CUDA emulator: no memory for the stacks of a block");
  char* low = static_cast<char*>(memory);
  slabs_.push_back({low, bytes});
  for (std::size_t i = kStacksPerSlab; i-- > 0;) {
    char* guard = low + i * stride();
    mprotect(guard, page(), PROT_NONE);
    free_.push_back({guard + page(), kStackBytes, static_cast<unsigned>(i % 16) * 256});
  }
}

bool StackPool::is_guard(const void* address) const {
  const auto a = reinterpret_cast<std::uintptr_t>(address);
  for (const Slab& slab : slabs_) {
    const auto low = reinterpret_cast<std::uintptr_t>(slab.low);
    if (a >= low && a < low + slab.bytes) return (a - low) % stride() < page();
  }
  return false;
}

}  // namespace flowgrad::gpu::emulator
