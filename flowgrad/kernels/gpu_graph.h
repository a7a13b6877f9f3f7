#pragma once

#include "flowgrad/kernels/gpu_runtime.h"

/// Events and graphs of a GPU, beside what gpu_runtime.h has. Both have two bodies as well.
namespace flowgrad::gpu {

/// A place in a stream's order. Made by the first record_event, which later ones move on.
struct Event {
  void* handle = nullptr;
};
void record_event(Event& event, Stream stream);
/// Waits for what was queued before the event and raises what went wrong there; returns at once for
/// an empty one.
void wait_event(Event event);
void release_event(Event event) noexcept;

/// Work that was recorded once, to be run again and again.
struct Graph {
  void* handle = nullptr;
};
/// From here to end_capture, the launches, fills and copies on the device that this thread puts on
/// the default stream are recorded and not run; their arguments are what they are now. Copies from
/// and to the host and synchronize raise DeviceError meanwhile, as does a second begin_capture.
void begin_capture();
Graph end_capture();
/// Ends a recording whose work failed, and forgets it.
void drop_capture() noexcept;
/// Whether this thread is recording.
bool capturing() noexcept;
/// Runs the recorded work in its order; the memory that it names must still be there.
void launch_graph(Graph graph, Stream stream);
/// Accepts an empty graph. What was launched before still runs.
void release_graph(Graph graph) noexcept;

/// What libraries of the CUDA toolkit know as this stream now.
void* native_stream(Stream stream);

/// What both bodies say of a wrong use of a recording.
inline constexpr char kNotInCapture[] =
    ": asked for while work is recorded for a graph, which may not meet the host; copy before, or "
    "read after";
inline constexpr char kCapturesAlready[] = "begin_capture: this thread is recording already";
inline constexpr char kCapturesNothing[] = "end_capture: this thread records nothing";

}  // namespace flowgrad::gpu
