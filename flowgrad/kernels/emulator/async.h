#pragma once

#include <cstddef>
#include <cstdint>

/// Copies that a kernel starts and later waits for. The emulator makes the worst of the time
/// between: the destination is NaN from the start of the copy, and source and data move only at the
/// wait.
namespace flowgrad::gpu::emulator {

/// Copies the first valid bytes (0 to bytes) and clears the rest; destination in shared memory.
void async_copy(void* destination, const void* source, unsigned bytes, unsigned valid);
/// Closes the group of the copies that the running thread has started since the last one.
void async_commit();
/// Waits until at most n_pending groups of the running thread are in flight.
void async_wait(unsigned n_pending);
/// Waits for all copies of the running thread, in a group or not.
void async_wait_all();

/// The scheduler forgets what the last block left in flight.
void async_start_block();

}  // namespace flowgrad::gpu::emulator
