#include "flowgrad/core/device_graph.h"

#include <fmt/format.h>

#include <utility>

#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/error.h"
#include "flowgrad/core/private_pool.h"

namespace flowgrad {

/// A generator of the captured work.
struct CapturedDraws {
  explicit CapturedDraws(Generator* g) : generator(g), seed(g->seed()), first_stream(g->stream()) {}
  Generator* const generator;
  const uint64_t seed, first_stream;
  /// Streams that a run takes.
  uint64_t n_streams = 0;
};

/// A check of indices in the captured work.
struct CapturedCheck {
  Tensor found;
  IndexMessage message;
};

namespace {

/// What a thread captures.
struct Capture {
  const std::vector<CapturedDraws>& draws;
  /// On the device, for each generator: the streams that it gave since the capture.
  const uint64_t* shifts;
  const Tensor& any_index;
  std::vector<CapturedCheck>& checks;
  const PrivatePool& words;
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
  State(Device on, const std::vector<Generator*>& generators)
      : memory(recorder(on)),
        device(on),
        pool(on),
        words(on),
        draws(generators.begin(), generators.end()),
        shifts(Tensor::empty({static_cast<int64_t>(draws.size())}, DType::int64, on)),
        any_index(Tensor::empty({}, DType::int64, on)) {}
  ~State() {
    if (graph != nullptr) memory.release_graph(graph);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  /// Says on the device that no index was out of range.
  void clear_checks() const {
    const int64_t none = 0;
    memory.copy_in(any_index.raw(), &none, sizeof none);
    for (const CapturedCheck& c : checks) {
      const std::vector<int64_t> nothing(static_cast<size_t>(c.found.numel()), -1);
      memory.copy_in(c.found.raw(), nothing.data(), nothing.size() * sizeof(int64_t));
    }
  }

  const DeviceMemory& memory;
  const Device device;
  /// Of what the work allocates; and of what the host writes before a launch, which in the first
  /// would share its memory with temporaries of the work.
  PrivatePool pool, words;
  void* graph = nullptr;
  std::vector<CapturedDraws> draws;
  const Tensor shifts, any_index;
  std::vector<CapturedCheck> checks;
};

DeviceGraph::DeviceGraph(Device device, const std::function<void()>& work,
                         const std::vector<Generator*>& draws)
    : state_(std::make_unique<State>(device, draws)) {
  State& s = *state_;
  const Capture capture{s.draws, static_cast<const uint64_t*>(s.shifts.raw()), s.any_index,
                        s.checks, s.words};
  // Nothing has run, so nothing was drawn.
  struct Rewind {
    const State& s;
    ~Rewind() {
      for (const CapturedDraws& d : s.draws) d.generator->set_state(d.seed, d.first_stream);
    }
  } const rewind{s};
  Recording recording(s.memory, capture);
  {
    const PrivatePool::Scope own(s.pool);
    work();
  }
  for (CapturedDraws& d : s.draws) {
    // A state that the work sets would be set at every run.
    if (d.generator->seed() != d.seed || d.generator->stream() < d.first_stream) {
      throw DeviceError(
          "DeviceGraph: the work set the state of a generator; set it before each launch");
    }
    d.n_streams = d.generator->stream() - d.first_stream;
  }
  s.graph = recording.end();
  s.clear_checks();
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::launch() {
  State& s = *state_;
  std::vector<uint64_t> shifts;
  for (const CapturedDraws& d : s.draws) {
    if (d.n_streams > 0 && d.generator->seed() != d.seed) {
      throw ValueError(
          fmt::format("DeviceGraph: the generator has seed {}; the graph was captured with {}",
                      d.generator->seed(), d.seed));
    }
    shifts.push_back(d.generator->stream() - d.first_stream);
  }
  if (!shifts.empty())
    s.memory.copy_in(s.shifts.raw(), shifts.data(), shifts.size() * sizeof(uint64_t));
  for (const CapturedDraws& d : s.draws) {
    if (d.n_streams > 0) d.generator->set_state(d.seed, d.generator->stream() + d.n_streams);
  }
  s.memory.launch_graph(s.graph);
}

void DeviceGraph::check() {
  const State& s = *state_;
  if (s.checks.empty()) return;
  int64_t any = 0;
  s.memory.copy_out(&any, s.any_index.raw(), sizeof any);
  if (any == 0) return;
  std::string text;
  for (const CapturedCheck& c : s.checks) {
    std::vector<int64_t> found(static_cast<size_t>(c.found.numel()));
    s.memory.copy_out(found.data(), c.found.raw(), found.size() * sizeof(int64_t));
    for (size_t i = 0; i < found.size() && text.empty(); i += 2) {
      if (found[i] >= 0) text = c.message(found[i + 1], found[i]);
    }
    if (!text.empty()) break;
  }
  s.clear_checks();
  throw ValueError(text);
}

int64_t DeviceGraph::memory_bytes() const { return state_->pool.bytes() + state_->words.bytes(); }

bool is_capturing() { return current != nullptr; }

void check_captured_draw(const char* op, const Generator& generator) {
  if (current == nullptr) return;
  for (const CapturedDraws& d : current->draws) {
    if (d.generator == &generator) return;
  }
  throw DeviceError(
      fmt::format("{}: a draw from a generator that the graph being captured does not know; pass "
                  "it to DeviceGraph",
                  op));
}

const uint64_t* captured_stream_shift(uint64_t seed, uint64_t stream) {
  if (current == nullptr) return nullptr;
  const uint64_t* shift = nullptr;
  int owners = 0;
  for (size_t i = 0; i < current->draws.size(); ++i) {
    const CapturedDraws& d = current->draws[i];
    if (d.seed != seed || stream < d.first_stream || stream >= d.generator->stream()) continue;
    shift = current->shifts + i;
    ++owners;
  }
  if (owners == 1) return shift;
  throw DeviceError(fmt::format(
      "random: seed {}, stream {} drawn while a graph is captured; {} of its generators "
      "gave it, and one must",
      seed, stream, owners == 0 ? "none" : "several"));
}

const Tensor& captured_any_index() { return current->any_index; }

CapturedIndices capture_index_check(int64_t parts, IndexMessage message) {
  const PrivatePool::Scope apart(current->words);
  Tensor found = Tensor::empty({parts, 2}, DType::int64, current->any_index.device());
  current->checks.push_back({found, std::move(message)});
  return {std::move(found), current->any_index};
}

}  // namespace flowgrad
