#pragma once

#include <cstddef>

#include "flowgrad/core/device.h"

namespace flowgrad {

/// How core/ reaches the memory of a kind of device without knowing its kernels. Every function is
/// ordered with the device's work: one stream, in which kernels and copies run one after another.
struct DeviceMemory {
  /// At least `bytes`, aligned to 64; nullptr when there is none left.
  void* (*allocate)(size_t bytes) = nullptr;
  /// Waits for work that may still use the block.
  void (*release)(void* block) = nullptr;
  /// Host to device; the host's bytes may change as soon as it returns.
  void (*copy_in)(void* device, const void* host, size_t bytes) = nullptr;
  /// Device to host; the bytes are there when it returns.
  void (*copy_out)(void* host, const void* device, size_t bytes) = nullptr;
  /// Devices that the functions serve, numbered from 0; 0 where none is found. Never throws.
  int (*count)() = nullptr;
  /// Waits for all work, so that a clock tells the truth; may be null where nothing is deferred.
  void (*synchronize)() = nullptr;

  // For DeviceGraph; null where the device cannot record.
  /// From here to end_capture, the calling thread's work is recorded and not run. Copies from and
  /// to the host, and waiting, raise DeviceError meanwhile.
  void (*begin_capture)() = nullptr;
  void* (*end_capture)() = nullptr;
  /// Forgets a recording whose work failed.
  void (*drop_capture)() = nullptr;
  void (*launch_graph)(void* graph) = nullptr;
  void (*release_graph)(void* graph) = nullptr;
};

/// Makes devices of a kind usable, once, at start-up. ValueError for the CPU, a missing function or
/// a second table.
void register_device_memory(Device::Kind kind, const DeviceMemory& memory);

/// The table of a kind; DeviceError where none was registered.
const DeviceMemory& device_memory(Device::Kind kind);
/// Whether Device::cuda() would succeed.
bool has_cuda();
/// Whether kernels for CUDA are in this program, be there a device or not.
bool built_with_cuda();
/// Waits for all work on a device; nothing to do on the CPU.
void synchronize(Device device);

}  // namespace flowgrad
