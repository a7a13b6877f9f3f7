#pragma once

#include <memory>

#include "flowgrad/kernels/emulator/block.h"

/// The host's side of the emulated device, beyond gpu_runtime.h: launches.
namespace flowgrad::gpu::emulator {

/// Checks the configuration now, and runs the grid at the next synchronising call
/// (FLOWGRAD_EMULATOR=deferred, the default) or now (eager).
void enqueue_launch(std::unique_ptr<const Kernel> kernel, const Launch& launch);

/// Throws DeviceError when pointer, argument number index of kernel, is neither null nor memory
/// that the device can reach.
void check_argument(const Kernel& kernel, int index, const void* pointer);

}  // namespace flowgrad::gpu::emulator
