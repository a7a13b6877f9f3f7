#pragma once

#include "flowgrad/core/device.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad::testing {

/// The device that a test computes on: FLOWGRAD_TEST_DEVICE=cpu|cuda, cpu without it. With cuda, a
/// library built without CUDA gets the arena of arena.h for a device.
Device test_device();
/// Whether it records work as a graph; the arena does not.
bool device_records();

/// While this lives, test_device() is the CPU: for what results are held against.
class OnCpu {
 public:
  OnCpu();
  ~OnCpu();
  OnCpu(const OnCpu&) = delete;
  OnCpu& operator=(const OnCpu&) = delete;
};

/// t on the test's device, off the tape; undefined stays undefined.
Tensor on_device(const Tensor& t);

}  // namespace flowgrad::testing
