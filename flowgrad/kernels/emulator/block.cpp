#include "flowgrad/kernels/emulator/block.h"

#include <string>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/report.h"
#include "flowgrad/kernels/emulator/scheduler.h"

namespace flowgrad::gpu::emulator {

unsigned thread_rank() { return Scheduler::instance().current().rank; }

void fail(const std::string& what) {
  if (!Scheduler::running_here()) throw DeviceError("device code called by the host: " + what);
  Scheduler::instance().fail(what);
}
void fail_misaligned(std::size_t alignment, const char* what) {
  fail(what + (": misaligned address; a multiple of " + std::to_string(alignment)) +
       " bytes is needed");
}

void block_barrier(const char* what, const Site& site) {
  Scheduler::instance().block_barrier(what, site, false);
}
unsigned block_barrier_count(const char* what, const Site& site, bool predicate) {
  Scheduler::instance().block_barrier(what, site, predicate);
  return Scheduler::instance().last_vote();
}
void named_barrier(unsigned number, unsigned n_threads, bool wait, const Site& site) {
  Scheduler::instance().named_barrier(number, n_threads, wait, site);
}
void warp_collective(const char* what, const Site& site, unsigned mask, void* slot,
                     Combine combine) {
  Scheduler::instance().warp_collective(what, site, mask, slot, combine);
}
void wait_until(const char* what, const Site& site, bool (*done)(void*), void* argument) {
  Scheduler::instance().wait_until(what, site, done, argument);
}
unsigned present_lanes() {
  const Warp& warp = Scheduler::instance().warp();
  return warp.present & ~warp.exited;
}

unsigned block_slot() { return Scheduler::instance().block_slot(); }
void refuse_cooperative(const char* what) {
  if (Scheduler::instance().is_cooperative()) {
    fail(std::string(what) + ": not emulated in a cooperative launch of several blocks");
  }
}

void* shared_variable(const void* key, std::size_t bytes, std::size_t alignment) {
  std::string error;
  void* memory = Scheduler::instance().shared().variable(key, bytes, alignment, error);
  if (memory == nullptr) fail(error);
  return memory;
}
void* shared_dynamic() { return Scheduler::instance().shared().dynamic(); }
unsigned shared_offset(const void* pointer) {
  const char* base = Scheduler::instance().shared().base();
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(pointer) - base);
  if (offset >= SharedMemory::kWindow)
    fail("a shared address is needed, not " + hexadecimal(pointer));
  return static_cast<unsigned>(offset);
}
void* shared_pointer(unsigned offset) { return Scheduler::instance().shared().base() + offset; }

void check_launch(const Kernel& kernel, const Launch& launch) {
  const auto& [grid, block, dynamic_shared, cooperative] = launch;
  const auto refuse = [&](const std::string& why) {
    throw DeviceError("launch of kernel " + kernel.name() + ": " + why);
  };
  const auto text = [](dim3 d) { return describe(uint3{d.x, d.y, d.z}); };
  const auto threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.x > 1024 || block.y > 1024 || block.z > 64) {
    refuse("block of " + text(block) +
           " threads; 1 to 1024 in all are accepted, at most (1024, 1024, 64)");
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535) {
    refuse("grid of " + text(grid) +
           " blocks; at least one and at most (2147483647, 65535, 65535) are accepted");
  }
  if (const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
      cooperative && blocks * threads > kMaxCooperativeThreads) {
    refuse("cooperative grid of " + std::to_string(blocks) + " blocks; at most " +
           std::to_string(kMaxCooperativeThreads / threads) + " run together");
  }
  if (dynamic_shared > kMaxShared) {
    refuse(std::to_string(dynamic_shared) + " bytes of dynamic shared memory; at most " +
           std::to_string(kMaxShared) + " are accepted");
  }
}

void run_grid(const Kernel& kernel, const Launch& launch) {
  Scheduler::instance().run(kernel, launch);
}

}  // namespace flowgrad::gpu::emulator
