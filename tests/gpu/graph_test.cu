// Recorded work: when it runs, in which order, and what may not be recorded.
#include "flowgrad/kernels/gpu_graph.h"
#include "gpu/support.cuh"

using namespace flowgrad;
using namespace flowgrad::test;

namespace {

__global__ void scale_and_add(float* data, float factor, float term, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = data[i] * factor + term;
}

void step(float* data, float factor, float term, int n) {
  gpu::launch(scale_and_add, dim3(1), dim3(64), 0, gpu::default_stream(), data, factor, term, n);
}

/// Whether f raises a DeviceError that says so.
bool refused(const std::function<void()>& f, const std::string& text) {
  try {
    f();
  } catch (const DeviceError& e) {
    return std::string(e.what()).find(text) != std::string::npos;
  }
  return false;
}

}  // namespace

TEST_CASE("recorded work runs when it is launched, as often as it is", "[graph_test]") {
  const gpu::Stream stream = gpu::default_stream();
  const DeviceArray<float> x(std::vector<float>{1, 2, 3}), y(std::vector<float>{0, 0, 0});
  CHECK_FALSE(gpu::capturing());
  gpu::begin_capture();
  CHECK(gpu::capturing());
  step(x.get(), 2, 0, 3);
  step(x.get(), 1, 1, 3);  // after the first
  gpu::copy_on_device(y.get(), x.get(), 2 * sizeof(float), stream);
  gpu::fill_bytes(x.get() + 2, 0, sizeof(float), stream);
  const gpu::Graph graph = gpu::end_capture();
  CHECK_FALSE(gpu::capturing());
  CHECK(x.values() == std::vector<float>{1, 2, 3});
  gpu::launch_graph(graph, stream);
  CHECK(x.values() == std::vector<float>{3, 5, 0});
  CHECK(y.values() == std::vector<float>{3, 5, 0});
  // Ordinary work keeps its place between two runs.
  step(x.get(), 1, 10, 3);
  gpu::launch_graph(graph, stream);
  gpu::launch_graph(graph, stream);
  step(x.get(), 10, 0, 3);
  gpu::release_graph(graph);  // what was launched still runs
  CHECK(x.values() == std::vector<float>{550, 630, 0});
  CHECK(y.values() == std::vector<float>{55, 63, 0});
  gpu::release_graph({});
}

TEST_CASE("what meets the host is refused, and the recording goes on", "[graph_test]") {
  const gpu::Stream stream = gpu::default_stream();
  const DeviceArray<float> x(std::vector<float>{1, 2, 3});
  float host[3] = {7, 7, 7};
  gpu::Event event;
  gpu::begin_capture();
  step(x.get(), 2, 0, 3);
  CHECK(refused([&] { gpu::synchronize(stream); }, "synchronize: asked for while"));
  CHECK(refused([&] { gpu::copy_to_host(host, x.get(), sizeof host, stream); },
                "copy_to_host: asked for while"));
  CHECK(refused([&] { gpu::copy_to_device(x.get(), host, sizeof host, stream); },
                "copy_to_device: asked for while"));
  CHECK(refused([&] { gpu::record_event(event, stream); }, "record_event"));
  CHECK(refused([] { gpu::begin_capture(); }, "recording already"));
  CHECK((host[0] == 7 && host[1] == 7 && host[2] == 7));
  const gpu::Graph graph = gpu::end_capture();
  gpu::launch_graph(graph, stream);
  CHECK(x.values() == std::vector<float>{2, 4, 6});
  gpu::release_graph(graph);
}

TEST_CASE("a recording that is dropped leaves nothing behind", "[graph_test]") {
  const DeviceArray<float> x(std::vector<float>{1, 2, 3});
  gpu::begin_capture();
  step(x.get(), 2, 0, 3);
  gpu::drop_capture();
  gpu::drop_capture();
  CHECK_FALSE(gpu::capturing());
  CHECK(refused([] { gpu::end_capture(); }, "records nothing"));
  step(x.get(), 1, 1, 3);
  CHECK(x.values() == std::vector<float>{2, 3, 4});
}
