#pragma once

#include <cstddef>
#include <source_location>
#include <string>
#include <type_traits>

#include "flowgrad/kernels/emulator/vector_types.h"

/// What device code calls while it runs on the emulator: who am I, wait for others, give up. The
/// scheduler behind it runs the threads of a block as fibers, one at a time, on the calling OS
/// thread.
namespace flowgrad::gpu::emulator {

/// The place in a kernel where a thread waits; its column tells two barriers of one line apart.
using Site = std::source_location;

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMaxThreads = 1024;
inline constexpr std::size_t kMaxStaticShared = 48 << 10;
inline constexpr std::size_t kMaxShared = 227 << 10;

/// Index of the running thread in its block, and in its warp.
unsigned thread_rank();
inline unsigned lane() { return thread_rank() % kWarpSize; }

/// Ends the launch: synchronize() throws what, with kernel, block and thread put before it.
[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail_misaligned(std::size_t alignment, const char* what);

/// Waits for every thread of the block.
void block_barrier(const char* what, const Site& site);
/// As block_barrier; returns how many threads passed true.
unsigned block_barrier_count(const char* what, const Site& site, bool predicate);
/// Waits for n_threads threads of the block at one of the 16 numbered barriers; with wait false it
/// only arrives.
void named_barrier(unsigned number, unsigned n_threads, bool wait, const Site& site);

/// Runs once for all lanes that meet: slots[i] is what lane i passed, nullptr where lanes lacks bit
/// i.
using Combine = void (*)(void* const* slots, unsigned lanes);

/// Waits until every lane of mask is here. The last one to arrive runs combine over all slots (they
/// lie on the stacks of the waiting lanes), then all go on.
void warp_collective(const char* what, const Site& site, unsigned mask, void* slot,
                     Combine combine);

/// Lets the others run until done(argument) is true.
void wait_until(const char* what, const Site& site, bool (*done)(void*), void* argument);

/// Where the running block stands among the blocks that are alive together; 0 but in cooperative
/// launches.
unsigned block_slot();
/// Ends a cooperative launch: what keeps its state per thread and not per block.
void refuse_cooperative(const char* what);

/// Bit mask of the lanes of the running warp that exist and have not exited.
unsigned present_lanes();

/// Memory of a GPU_SHARED declaration; key is the declaration's own.
void* shared_variable(const void* key, std::size_t bytes, std::size_t alignment);
/// Memory of the block that the launch asked for.
void* shared_dynamic();
/// Shared memory as PTX numbers it: bytes from the start of the block's window.
unsigned shared_offset(const void* pointer);
void* shared_pointer(unsigned offset);

/// Ends the launch when pointer is not a multiple of alignment.
inline void check_alignment(const void* pointer, std::size_t alignment, const char* what) {
  if (reinterpret_cast<std::size_t>(pointer) % alignment != 0) [[unlikely]] {
    fail_misaligned(alignment, what);
  }
}

/// A kernel with its arguments.
class Kernel {
 public:
  explicit Kernel(const void* function) : function_(function) {}
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  virtual ~Kernel() = default;
  /// The body of one thread.
  virtual void run() const = 0;
  /// "scale(float*, float, int)", from the symbol table of the program.
  std::string name() const;

 private:
  const void* function_;
};

/// The configuration of a launch; all blocks of a cooperative one are alive together.
struct Launch {
  dim3 grid, block;
  std::size_t dynamic_shared;
  bool cooperative;
};

/// The most threads of a cooperative launch: each takes a stack.
inline constexpr unsigned kMaxCooperativeThreads = 1 << 14;

/// Runs a whole grid; throws DeviceError when a thread fails.
void run_grid(const Kernel& kernel, const Launch& launch);
/// Throws DeviceError for a launch that a device would refuse.
void check_launch(const Kernel& kernel, const Launch& launch);

}  // namespace flowgrad::gpu::emulator

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;
