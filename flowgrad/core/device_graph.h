#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/core/device.h"
#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// The text of the error for an index that is out of range, at an element (in C-order) of a tensor
/// of indices.
using IndexMessage = std::function<std::string(int64_t index, int64_t element)>;

/// Work of a device that was recorded once and runs again by a single call of the host (a CUDA
/// graph): what many small kernels spend on being launched one by one is saved.
///
/// The record holds addresses, sizes and numbers as they were. So what changes from run to run is
/// copied into tensors that were there before, results are read from tensors that the work made,
/// and both must be alive whenever it runs. Memory that the work allocates belongs to the record as
/// long as that lives: no trimming of the pool takes it, and nobody else gets it. Random draws
/// are those that the generators give at each run, the same bits as without a record. Indices are
/// checked by the device, and one that is out of range is told of by `check`.
///
/// A graph belongs to one thread at a time.
class DeviceGraph {
 public:
  /// Calls `work` once; what it asks of the device is recorded and does not run, so every tensor
  /// that it makes is empty until the first launch. The generators of `draws` may be used in it,
  /// and are left as they were. Raises DeviceError on the CPU, on a device that cannot record,
  /// inside of another capture, and where `work` reads a value of the device, copies from the host,
  /// waits, or draws from another generator; then, as after any error of `work`, nothing has run.
  DeviceGraph(Device device, const std::function<void()>& work,
              const std::vector<Generator*>& draws = {});
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  /// Queues the work; every generator gives it as many streams as it took. ValueError for a
  /// generator that got another seed since the capture.
  void launch();
  /// To be called before the results of the launches so far are believed: ValueError for the first
  /// index among theirs that was out of range, with the text of the check that found it. 0 has
  /// stood in for it. Waits for the device where the work looks anything up. The next launches
  /// start anew.
  void check();
  /// Bytes that the record keeps to itself.
  int64_t memory_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Whether this thread captures a graph.
bool is_capturing();

/// For operations that draw: DeviceError when this thread captures a graph that does not know this
/// generator.
void check_captured_draw(const char* op, const Generator& generator);

/// For kernels that draw: where the device reads what to add to a stream's number, nullptr when
/// nothing is captured. DeviceError for a stream that no generator of the graph gave, or two.
const uint64_t* captured_stream_shift(uint64_t seed, uint64_t stream);

/// Where a kernel of the graph that this thread captures leaves what it finds out of range. Nothing
/// is overwritten there until DeviceGraph::check has read it.
struct CapturedIndices {
  /// int64 (parts, 2), for each part of the indices: element and value of its first one out of
  /// range, element -1 where there is none.
  Tensor found;
  /// int64 (): not 0 once anything was found, by any check of the graph.
  Tensor any;
};
/// `any` of the graph that this thread captures.
const Tensor& captured_any_index();
/// For checks of indices while a graph is captured.
CapturedIndices capture_index_check(int64_t parts, IndexMessage message);

}  // namespace flowgrad
