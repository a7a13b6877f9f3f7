#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "flowgrad/core/device.h"
#include "flowgrad/core/random.h"

namespace flowgrad {

/// Work of a device that was recorded once and runs again by a single call of the host (a CUDA
/// graph): what many small kernels spend on being launched one by one is saved.
///
/// The record holds addresses, sizes and numbers as they were. So what changes from run to run is
/// copied into tensors that were there before, results are read from tensors that the work made,
/// and both must be alive whenever it runs. Memory that the work allocates belongs to the record as
/// long as that lives: no trimming of the pool takes it, and nobody else gets it. Random draws
/// are those that the generator gives at each run, the same bits as without a record.
///
/// A graph belongs to one thread at a time.
class DeviceGraph {
 public:
  /// Calls `work` once; what it asks of the device is recorded and does not run, so every tensor
  /// that it makes is empty until the first launch. `draws` may be used in it, and is left as it
  /// was. Raises DeviceError on the CPU, on a device that cannot record, inside of another capture,
  /// and where `work` reads a value of the device, copies from the host, waits, or draws from
  /// another generator; then, as after any error of `work`, nothing has run.
  DeviceGraph(Device device, const std::function<void()>& work, Generator* draws = nullptr);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  /// Queues the work; the generator gives it as many streams as it took. ValueError for a generator
  /// that got another seed since the capture.
  void launch();
  /// Bytes that the record keeps to itself.
  int64_t memory_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Whether this thread captures a graph.
bool is_capturing();

/// For operations that draw: DeviceError when this thread captures a graph whose draws are not
/// those of this generator.
void check_captured_draw(const char* op, const Generator& generator);

/// For kernels that draw: where the device reads what to add to a stream's number, nullptr when
/// nothing is captured. DeviceError for a stream that the captured generator did not give.
const uint64_t* captured_stream_shift(uint64_t seed, uint64_t stream);

}  // namespace flowgrad
