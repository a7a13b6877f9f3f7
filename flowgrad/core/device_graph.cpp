#include "flowgrad/core/device_graph.h"

#include <fmt/format.h>

#include "flowgrad/core/allocator.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/error.h"
#include "flowgrad/core/private_pool.h"

namespace flowgrad {
namespace {

constexpr size_t kShiftBytes = sizeof(uint64_t);

/// What a thread captures.
struct Capture {
  Generator* draws;
  uint64_t first_stream;
  const uint64_t* shift;
};
thread_local const Capture* current = nullptr;

/// Between begin and end of a capture; one that is not ended is dropped.
class Recording {
 public:
  Recording(const DeviceMemory& memory, const Capture& capture) : memory_(memory) {
    memory_.begin_capture();
    current = &capture;
  }
  ~Recording() {
    current = nullptr;
    if (!ended_) memory_.drop_capture();
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  void* end() {
    ended_ = true;
    return memory_.end_capture();
  }

 private:
  const DeviceMemory& memory_;
  bool ended_ = false;
};

const DeviceMemory& recorder(Device device) {
  if (current != nullptr) {
    throw DeviceError("DeviceGraph: this thread captures a graph already; one at a time");
  }
  if (device.is_cpu()) {
    throw DeviceError("DeviceGraph: cpu given; a graph holds the work of a device such as cuda");
  }
  const DeviceMemory& memory = device_memory(device.kind);
  if (!memory.begin_capture || !memory.end_capture || !memory.drop_capture ||
      !memory.launch_graph || !memory.release_graph) {
    throw DeviceError(fmt::format("DeviceGraph: {} cannot record its work", device.to_string()));
  }
  return memory;
}

}  // namespace

struct DeviceGraph::State {
  State(Device on, Generator* generator)
      : memory(recorder(on)),
        device(on),
        pool(on),
        draws(generator),
        seed(draws ? draws->seed() : 0),
        first_stream(draws ? draws->stream() : 0),
        shift(static_cast<uint64_t*>(pool_allocate(kShiftBytes, on))) {}
  ~State() {
    if (graph != nullptr) memory.release_graph(graph);
    pool_free(shift, kShiftBytes, device);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  const DeviceMemory& memory;
  const Device device;
  PrivatePool pool;
  void* graph = nullptr;
  Generator* const draws;
  const uint64_t seed, first_stream;
  uint64_t n_streams = 0;
  /// On the device: streams that the generator gave since the capture.
  uint64_t* const shift;
};

DeviceGraph::DeviceGraph(Device device, const std::function<void()>& work, Generator* draws)
    : state_(std::make_unique<State>(device, draws)) {
  State& s = *state_;
  const Capture capture{draws, s.first_stream, s.shift};
  // Nothing has run, so nothing was drawn.
  struct Rewind {
    const State& s;
    ~Rewind() {
      if (s.draws) s.draws->set_state(s.seed, s.first_stream);
    }
  } const rewind{s};
  Recording recording(s.memory, capture);
  {
    const PrivatePool::Scope own(s.pool);
    work();
  }
  if (draws) s.n_streams = draws->stream() - s.first_stream;
  s.graph = recording.end();
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::launch() {
  State& s = *state_;
  if (s.n_streams > 0) {
    if (s.draws->seed() != s.seed) {
      throw ValueError(
          fmt::format("DeviceGraph: the generator has seed {}; the graph was captured with {}",
                      s.draws->seed(), s.seed));
    }
    const uint64_t shift = s.draws->stream() - s.first_stream;
    s.memory.copy_in(s.shift, &shift, kShiftBytes);
    s.draws->set_state(s.seed, s.draws->stream() + s.n_streams);
  }
  s.memory.launch_graph(s.graph);
}

int64_t DeviceGraph::memory_bytes() const { return state_->pool.bytes(); }

bool is_capturing() { return current != nullptr; }

void check_captured_draw(const char* op, const Generator& generator) {
  if (current == nullptr || current->draws == &generator) return;
  throw DeviceError(
      fmt::format("{}: a draw from a generator that the graph being captured does not know; pass "
                  "it to DeviceGraph",
                  op));
}

const uint64_t* captured_stream_shift(uint64_t seed, uint64_t stream) {
  if (current == nullptr) return nullptr;
  const Generator* draws = current->draws;
  if (draws == nullptr || draws->seed() != seed || stream < current->first_stream ||
      stream >= draws->stream()) {
    throw DeviceError(
        fmt::format("random: seed {}, stream {} drawn while a graph is captured whose generator "
                    "did not give it",
                    seed, stream));
  }
  return current->shift;
}

}  // namespace flowgrad
