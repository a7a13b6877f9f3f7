#include "flowgrad/kernels/emulator/device.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/checker.h"
#include "flowgrad/kernels/emulator/environment.h"
#include "flowgrad/kernels/emulator/fault.h"
#include "flowgrad/kernels/emulator/memory.h"
#include "flowgrad/kernels/emulator/report.h"
#include "flowgrad/kernels/emulator/scheduler.h"
#include "flowgrad/kernels/gpu_graph.h"

namespace flowgrad::gpu {
namespace emulator {
namespace {

constexpr std::size_t kMaxQueued = 4096;
constexpr std::size_t kMaxStaged = std::size_t{256} << 20;

/// Work in the order in which it was issued.
using Work = std::vector<std::function<void()>>;
/// What this thread records; nothing where it does not.
thread_local std::shared_ptr<Work> recording;

bool deferred() {
  static const std::vector<std::string> accepted{"deferred", "eager"};
  return emulator::choice_from_environment("FLOWGRAD_EMULATOR", accepted) == 0;
}

/// One device for the process: a queue of work in the order it was issued, over all streams.
class Device {
 public:
  static Device& instance() {
    static Device device;
    return device;
  }

  void enqueue(std::function<void()> work, std::size_t staged_bytes = 0) {
    raise_pending();
    if (recording != nullptr) {
      recording->push_back(std::move(work));
      return;
    }
    queue_.push_back(std::move(work));
    ++issued_;
    staged_ += staged_bytes;
    if (!deferred() || queue_.size() > kMaxQueued || staged_ > kMaxStaged) flush();
  }

  /// Runs what is queued. After a failure the rest is dropped and the error thrown.
  void flush() {
    raise_pending();
    if (queue_.empty()) return;
    Work work;
    work.swap(queue_);
    staged_ = 0;
    done_ = issued_;
    const Arena::Access access;
    for (const auto& item : work) item();
  }

  /// Items queued since the start, and how many of them have run or were dropped.
  std::uint64_t issued() const { return issued_; }
  std::uint64_t done() const { return done_; }

  void flush_quietly() noexcept {
    try {
      flush();
    } catch (const std::exception& e) {
      try {
        pending_ = e.what();
      } catch (...) {
      }
    }
  }

  std::recursive_mutex mutex;
  std::map<const char*, std::size_t> pinned;

  bool is_pinned(const void* pointer, std::size_t bytes) const {
    const auto* p = static_cast<const char*>(pointer);
    auto after = pinned.upper_bound(p);
    if (after == pinned.begin()) return false;
    --after;
    return p + bytes <= after->first + after->second;
  }

 private:
  void raise_pending() {
    if (pending_.empty()) return;
    const std::string text = std::move(pending_);
    pending_.clear();
    throw DeviceError(text);
  }

  Work queue_;
  std::size_t staged_ = 0;
  std::uint64_t issued_ = 0;
  std::uint64_t done_ = 0;
  std::string pending_;
};

/// Every call of the host begins here: one at a time, and none from inside a kernel.
class Call {
 public:
  explicit Call(const char* name) : lock_(Device::instance().mutex) {
    if (Scheduler::running_here()) fail(std::string(name) + ": a host function called by a kernel");
    arm_fault_handler();
  }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

Allocation& device_range(const char* call, const char* argument, const void* pointer,
                         std::size_t bytes) {
  Allocation* found = Arena::instance().holding(pointer, bytes);
  if (found != nullptr) return *found;
  std::string why = hexadecimal(pointer);
  why += Arena::instance().reserves(pointer) ? " (" + Arena::instance().describe(pointer) + ")"
                                             : " is host memory";
  throw DeviceError(std::string(call) + ": " + argument + ": " + std::to_string(bytes) +
                    " bytes at " + why + "; that much device memory is needed");
}

void host_range(const char* call, const char* argument, const void* pointer) {
  if (pointer != nullptr && !Arena::instance().reserves(pointer)) return;
  throw DeviceError(std::string(call) + ": " + argument + ": " + hexadecimal(pointer) +
                    (pointer == nullptr ? " is null" : " is device memory") +
                    "; host memory is needed");
}

void refuse_capture(const char* call) {
  if (recording != nullptr) throw DeviceError(std::string(call) + kNotInCapture);
}

void open_range(void* pointer, std::size_t bytes) {
  Arena& arena = Arena::instance();
  if (Allocation* allocation = arena.holding(pointer, bytes)) arena.open(*allocation);
}

}  // namespace

void enqueue_launch(std::unique_ptr<const Kernel> kernel, const Launch& launch) {
  const Call call("launch");
  check_launch(*kernel, launch);
  if (launch_records != nullptr)
    launch_records->push_back({kernel->name(), 0, 0, launch.dynamic_shared});
  const std::shared_ptr<const Kernel> shared = std::move(kernel);
  Device::instance().enqueue([shared, launch] {
    run_grid(*shared, launch);
    if (const std::string overrun = Arena::instance().overrun(); !overrun.empty()) {
      throw DeviceError("kernel " + shared->name() + ": out of bounds: " + overrun);
    }
  });
}

void check_argument(const Kernel& kernel, int index, const void* pointer) {
  const Call call("launch");
  if (pointer == nullptr || Arena::instance().holding(pointer, 0) != nullptr ||
      Device::instance().is_pinned(pointer, 0)) {
    return;
  }
  const bool reserved = Arena::instance().reserves(pointer);
  throw DeviceError("launch of kernel " + kernel.name() + ": argument " + std::to_string(index) +
                    ": " + hexadecimal(pointer) + " is " +
                    (reserved ? Arena::instance().describe(pointer) : "host memory") +
                    "; device memory is needed");
}

}  // namespace emulator

using emulator::Arena;
using emulator::Call;
using emulator::Device;

int device_count() noexcept {
  const char* devices = std::getenv("FLOWGRAD_EMULATOR_DEVICES");
  return devices && std::strcmp(devices, "0") == 0 ? 0 : 1;
}

DeviceInfo device_info(int device) {
  if (device != 0) {
    throw DeviceError("device_info: device " + std::to_string(device) +
                      " given; the emulator has device 0 only");
  }
  DeviceInfo info;
  info.name = "CUDA emulator";
  info.major = 9;
  info.n_multiprocessors = 4;
  info.memory_bytes = Arena::instance().limit();
  info.shared_bytes_per_block = emulator::kMaxShared;
  info.emulated = true;
  return info;
}

void* allocate(std::size_t bytes) {
  const Call call("allocate");
  return Arena::instance().allocate(bytes);
}

void release(void* pointer) noexcept {
  if (pointer == nullptr) return;
  const Call call("release");
  Device::instance().flush_quietly();
  // A pointer that was never allocated ends the program here, with the reason.
  Arena::instance().release(pointer);
}

MemoryInfo memory_info() {
  const Call call("memory_info");
  const Arena& arena = Arena::instance();
  return {arena.limit() - arena.bytes_in_use(), arena.limit()};
}

void copy_to_device(void* destination, const void* source, std::size_t bytes, Stream) {
  if (bytes == 0) return;
  const Call call("copy_to_device");
  emulator::refuse_capture("copy_to_device");
  emulator::device_range("copy_to_device", "destination", destination, bytes);
  emulator::host_range("copy_to_device", "source", source);
  const auto write = [destination, bytes](const void* from) {
    emulator::open_range(destination, bytes);
    std::memcpy(destination, from, bytes);
    emulator::checker::host_wrote(destination, bytes);
  };
  if (Device::instance().is_pinned(source, bytes)) {
    Device::instance().enqueue([write, source] { write(source); });
    return;
  }
  const auto* first = static_cast<const char*>(source);
  auto staged = std::make_shared<const std::vector<char>>(first, first + bytes);
  Device::instance().enqueue([write, staged] { write(staged->data()); }, bytes);
}

void copy_to_host(void* destination, const void* source, std::size_t bytes, Stream) {
  if (bytes == 0) return;
  const Call call("copy_to_host");
  emulator::refuse_capture("copy_to_host");
  emulator::host_range("copy_to_host", "destination", destination);
  emulator::device_range("copy_to_host", "source", source, bytes);
  // Whoever reads before the synchronize gets NaN, not what an earlier copy happened to leave.
  std::memset(destination, 0xFF, bytes);
  Device::instance().enqueue([=] {
    emulator::open_range(const_cast<void*>(source), bytes);
    std::memcpy(destination, source, bytes);
  });
}

void copy_on_device(void* destination, const void* source, std::size_t bytes, Stream) {
  if (bytes == 0) return;
  const Call call("copy_on_device");
  emulator::device_range("copy_on_device", "destination", destination, bytes);
  emulator::device_range("copy_on_device", "source", source, bytes);
  const auto* to = static_cast<const char*>(destination);
  const auto* from = static_cast<const char*>(source);
  if (to < from + bytes && from < to + bytes) {
    throw DeviceError("copy_on_device: source and destination overlap");
  }
  Device::instance().enqueue([=] {
    emulator::open_range(destination, bytes);
    emulator::open_range(const_cast<void*>(source), bytes);
    std::memcpy(destination, source, bytes);
    emulator::checker::device_copied(destination, source, bytes);
  });
}

void fill_bytes(void* destination, int value, std::size_t bytes, Stream) {
  if (bytes == 0) return;
  const Call call("fill_bytes");
  emulator::device_range("fill_bytes", "destination", destination, bytes);
  Device::instance().enqueue([=] {
    emulator::open_range(destination, bytes);
    std::memset(destination, value, bytes);
    emulator::checker::host_wrote(destination, bytes);
  });
}

void synchronize(Stream) {
  const Call call("synchronize");
  emulator::refuse_capture("synchronize");
  Device::instance().flush();
}

void record_event(Event& event, Stream) {
  const Call call("record_event");
  emulator::refuse_capture("record_event");
  if (event.handle == nullptr) event.handle = new std::uint64_t;
  *static_cast<std::uint64_t*>(event.handle) = Device::instance().issued();
}

void wait_event(Event event) {
  if (event.handle == nullptr) return;
  const Call call("wait_event");
  if (*static_cast<std::uint64_t*>(event.handle) > Device::instance().done())
    Device::instance().flush();
}

void release_event(Event event) noexcept { delete static_cast<std::uint64_t*>(event.handle); }

void* native_stream(Stream stream) { return stream.handle; }

void begin_capture() {
  const Call call("begin_capture");
  if (capturing()) throw DeviceError(kCapturesAlready);
  emulator::recording = std::make_shared<emulator::Work>();
}

Graph end_capture() {
  const Call call("end_capture");
  if (!capturing()) throw DeviceError(kCapturesNothing);
  return {new std::shared_ptr<emulator::Work>(std::move(emulator::recording))};
}

void drop_capture() noexcept { emulator::recording.reset(); }

bool capturing() noexcept { return emulator::recording != nullptr; }

void launch_graph(Graph graph, Stream) {
  const Call call("launch_graph");
  emulator::refuse_capture("launch_graph");
  // Shared, as the graph may be released before its work runs.
  const auto work = *static_cast<std::shared_ptr<emulator::Work>*>(graph.handle);
  Device::instance().enqueue([work] {
    for (const auto& item : *work) item();
  });
}

void release_graph(Graph graph) noexcept {
  delete static_cast<std::shared_ptr<emulator::Work>*>(graph.handle);
}

void* pinned_allocate(std::size_t bytes) {
  const Call call("pinned_allocate");
  const std::size_t size = (bytes + 255) / 256 * 256 + 256;
  auto* memory = static_cast<char*>(std::aligned_alloc(256, size));
  if (memory == nullptr) return nullptr;
  std::memset(memory, 0xFF, size);
  Device::instance().pinned.emplace(memory, bytes);
  return memory;
}

void pinned_release(void* pointer) noexcept {
  if (pointer == nullptr) return;
  const Call call("pinned_release");
  Device::instance().flush_quietly();
  Device::instance().pinned.erase(static_cast<const char*>(pointer));
  std::free(pointer);
}

}  // namespace flowgrad::gpu
