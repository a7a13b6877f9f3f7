#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// What host code asks of a GPU: memory, copies, synchronisation. Two bodies: the CUDA runtime
/// (gpu_runtime_cuda.cu) and the emulator (emulator/device.cpp). Kernels are launched through
/// gpu.cuh.
///
/// Errors raise DeviceError with the kernel's name, where there is one. Everything on a stream runs
/// in order and at some time before the next synchronize: until then host memory named in a copy
/// belongs to the device.
namespace flowgrad::gpu {

/// An order of execution. The default one is all that most code needs.
struct Stream {
  void* handle = nullptr;
};
inline Stream default_stream() { return {}; }

struct DeviceInfo {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int n_multiprocessors = 0;
  std::size_t memory_bytes = 0;
  std::size_t shared_bytes_per_block = 0;  // with opt-in
  bool emulated = false;
};

/// 0 when there is no driver or no device; never throws.
int device_count() noexcept;
DeviceInfo device_info(int device);

/// Device memory, aligned to 256 bytes. nullptr when there is not enough; bytes may be 0.
void* allocate(std::size_t bytes);
/// Waits for everything queued, then frees. Accepts nullptr. Does not throw: a failure of queued
/// work is raised by the next call that may.
void release(void* pointer) noexcept;
/// Free and total bytes of the device.
struct MemoryInfo {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
};
MemoryInfo memory_info();

/// Pageable source memory is read before the call returns; pinned memory is read any time before
/// the next synchronize.
void copy_to_device(void* destination, const void* source, std::size_t bytes, Stream stream);
/// The data are there after the next synchronize, not before.
void copy_to_host(void* destination, const void* source, std::size_t bytes, Stream stream);
void copy_on_device(void* destination, const void* source, std::size_t bytes, Stream stream);
void fill_bytes(void* destination, int value, std::size_t bytes, Stream stream);

/// Waits for the stream and raises what went wrong on it.
void synchronize(Stream stream);

/// Host memory that the device can copy from and to without a detour; nullptr when there is none.
void* pinned_allocate(std::size_t bytes);
void pinned_release(void* pointer) noexcept;

/// What a launch used; registers and local bytes (a thread's spills and stack) are 0 on the
/// emulator.
struct LaunchRecord {
  std::string kernel;  // mangled
  int registers = 0;
  std::size_t local_bytes = 0;
  std::size_t shared_bytes = 0;
};
/// Where launches are noted down while it is set: for benchmarks.
inline std::vector<LaunchRecord>* launch_records = nullptr;

}  // namespace flowgrad::gpu
