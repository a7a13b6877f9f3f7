#include "device/device.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "device/arena.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/device_memory.h"

namespace flowgrad::testing {
namespace {

thread_local int on_cpu = 0;

Device chosen_device() {
  const char* value = std::getenv("FLOWGRAD_TEST_DEVICE");
  const std::string name = value ? value : "";
  if (name.empty() || name == "cpu") return Device::cpu();
  if (name != "cuda") {
    throw std::runtime_error("FLOWGRAD_TEST_DEVICE: \"" + name +
                             "\" given; cpu and cuda are known");
  }
  if (!has_cuda()) {
    if (built_with_cuda()) {
      std::fputs("skipped: built with CUDA, and no device was found\n", stderr);
      std::exit(77);
    }
    register_arena();
  }
  return Device::cuda();
}

}  // namespace

Device test_device() {
  static const Device device = chosen_device();
  return on_cpu > 0 ? Device::cpu() : device;
}

bool device_records() {
  test_device();  // registers the arena where it is the device
  return !arena_is_registered();
}

OnCpu::OnCpu() { ++on_cpu; }
OnCpu::~OnCpu() { --on_cpu; }

Tensor on_device(const Tensor& t) { return t.defined() ? to(t.detach(), test_device()) : t; }

}  // namespace flowgrad::testing
