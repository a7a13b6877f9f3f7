#include "flowgrad/core/device_memory.h"

#include <fmt/format.h>

#include <atomic>
#include <mutex>

#include "flowgrad/core/error.h"

namespace flowgrad {
namespace {

// Constant-initialised, so that other translation units may register while theirs are.
DeviceMemory cuda_memory;
std::atomic<bool> cuda_registered{false};
std::mutex registering;

}  // namespace

void register_device_memory(Device::Kind kind, const DeviceMemory& memory) {
  if (kind == Device::Kind::cpu) {
    throw ValueError("register_device_memory: kind cpu given; its memory is the system's");
  }
  if (!memory.allocate || !memory.release || !memory.copy_in || !memory.copy_out || !memory.count) {
    throw ValueError(
        "register_device_memory: allocate, release, copy_in, copy_out and count are needed; one "
        "of them is null");
  }
  std::lock_guard lock(registering);
  if (cuda_registered.load(std::memory_order_relaxed)) {
    throw ValueError("register_device_memory: the memory of kind cuda is registered already");
  }
  cuda_memory = memory;
  cuda_registered.store(true, std::memory_order_release);
}

const DeviceMemory& device_memory(Device::Kind kind) {
  if (kind != Device::Kind::cuda || !cuda_registered.load(std::memory_order_acquire)) {
    throw DeviceError("Device::cuda: flowgrad was built without CUDA; Device::cpu() is available");
  }
  return cuda_memory;
}

bool built_with_cuda() { return cuda_registered.load(std::memory_order_acquire); }

bool has_cuda() { return built_with_cuda() && cuda_memory.count() > 0; }

void synchronize(Device device) {
  if (device.is_cpu()) return;
  const DeviceMemory& memory = device_memory(device.kind);
  if (memory.synchronize) memory.synchronize();
}

Device Device::cuda(int index) {
  const int count = device_memory(Kind::cuda).count();
  if (count <= 0) {
    throw DeviceError(
        "Device::cuda: flowgrad was built with CUDA, but no device was found; Device::cpu() is "
        "available");
  }
  if (index < 0 || index >= count) {
    throw DeviceError(fmt::format("Device::cuda: index {} given; {} found, 0 to {} are accepted",
                                  index, count == 1 ? "1 device" : fmt::format("{} devices", count),
                                  count - 1));
  }
  return {Kind::cuda, static_cast<int8_t>(index)};
}

}  // namespace flowgrad
