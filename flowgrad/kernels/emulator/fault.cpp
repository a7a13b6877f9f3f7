#include "flowgrad/kernels/emulator/fault.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "flowgrad/kernels/emulator/memory.h"
#include "flowgrad/kernels/emulator/report.h"
#include "flowgrad/kernels/emulator/scheduler.h"

namespace flowgrad::gpu::emulator {
namespace {

constexpr std::size_t kSignalStackBytes = 128 << 10;
thread_local std::unique_ptr<char[]> signal_stack;
thread_local std::unique_ptr<char[]> landing_stack;
struct sigaction previous_action;

struct Fault {
  const void* address;
  bool is_write;
} fault;

// Where a kernel that faulted goes on, no longer in the handler.
[[noreturn]] void landing() {
  Scheduler& scheduler = Scheduler::instance();
  static std::string what;  // never destroyed on this path, so it must not be a local variable
  what = fault.is_write ? "writes to " : "reads from ";
  what += hexadecimal(fault.address);
  if (scheduler.stacks().is_guard(fault.address)) {
    what = "stack overflow: the local variables of a thread do not fit into its stack";
  } else if (Arena::instance().reserves(fault.address)) {
    what = "out of bounds: " + what + ", " + Arena::instance().describe(fault.address);
  } else {
    what += ", which is no memory of the device";
  }
  scheduler.fail_abruptly(what);
}

void explain(const void* address) {
  const std::string text = "flowgrad: host code touched device memory at " + hexadecimal(address) +
                           " (" + Arena::instance().describe(address) +
                           "); copy it to the host with gpu::copy_to_host\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
}

void on_fault(int, siginfo_t* info, [[maybe_unused]] void* context) {
  const bool in_kernel = Scheduler::running_here();
  if (in_kernel && Arena::instance().open_page(info->si_addr)) return;
#if defined(__x86_64__)
  if (in_kernel) {
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    fault = {info->si_addr, (registers[REG_ERR] & 2) != 0};
    // Below the red zone of the faulting function, or elsewhere if it is the stack that is full.
    auto top = static_cast<std::uintptr_t>(registers[REG_RSP]) - 256;
    if (Scheduler::instance().stacks().is_guard(info->si_addr)) {
      top = reinterpret_cast<std::uintptr_t>(landing_stack.get()) + kSignalStackBytes;
    }
    registers[REG_RSP] = static_cast<greg_t>((top & ~std::uintptr_t{15}) - 8);
    registers[REG_RIP] = reinterpret_cast<greg_t>(&landing);
    return;
  }
#endif
  if (Arena::instance().reserves(info->si_addr)) explain(info->si_addr);
  sigaction(SIGSEGV, &previous_action, nullptr);  // the instruction faults again, into that action
}

}  // namespace

void arm_fault_handler() {
  struct sigaction current {};
  sigaction(SIGSEGV, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_fault) return;
  previous_action = current;
  struct sigaction ours {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&ours.sa_mask);
  sigaction(SIGSEGV, &ours, nullptr);
}

void prepare_fault_stack() {
  arm_fault_handler();
  if (signal_stack != nullptr) return;
  signal_stack = std::make_unique<char[]>(kSignalStackBytes);
  landing_stack = std::make_unique<char[]>(kSignalStackBytes);
  stack_t stack{};
  stack.ss_sp = signal_stack.get();
  stack.ss_size = kSignalStackBytes;
  sigaltstack(&stack, nullptr);
}

}  // namespace flowgrad::gpu::emulator
