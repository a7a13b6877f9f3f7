#pragma once

#include <cstddef>

#include "flowgrad/core/device.h"

/// A device that lives in host memory and does not let the host in: what plays the part of a GPU
/// where the library is built without one.
///
/// One anonymous file is mapped twice. Tensors hold addresses of the mapping that nobody may touch;
/// the backend and the copies translate them to the other one. So host code that reads or writes a
/// device tensor crashes at once, on any thread, while a kernel given a host address, or a view
/// that reaches outside of one block, raises Error. Fresh and freed blocks are filled with 0xFF:
/// NaN in every floating type, and a bool and an index that are none.
///
/// Kernels are those of the reference backend, so results equal the CPU's reference bit for bit.
namespace flowgrad::testing {

/// Registers the arena as the memory of kind cuda, and its backend. Call it once, before any tensor
/// is on a device.
void register_arena();
bool arena_is_registered();

/// Blocks that the arena has handed out and not got back.
size_t arena_blocks();
/// Allocations beyond this many bytes in all are refused; 0 means the whole arena.
void limit_arena(size_t bytes);

}  // namespace flowgrad::testing
