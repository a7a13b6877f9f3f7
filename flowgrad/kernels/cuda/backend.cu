#include "flowgrad/kernels/cuda/backend.h"

#include "flowgrad/core/device_memory.h"
#include "flowgrad/kernels/cuda/staging.h"
#include "flowgrad/kernels/gpu_graph.h"

namespace flowgrad::kernels {
namespace {

void copy_in(void* device, const void* host, size_t bytes) {
  Staging::instance().to_device(device, host, bytes);
}

void copy_out(void* host, const void* device, size_t bytes) {
  Staging::instance().to_host(host, device, bytes);
}

int count() { return gpu::device_count(); }

void synchronize() { gpu::synchronize(gpu::default_stream()); }

void* end_capture() { return gpu::end_capture().handle; }
void launch_graph(void* graph) { gpu::launch_graph({graph}, gpu::default_stream()); }
void release_graph(void* graph) { gpu::release_graph({graph}); }

}  // namespace

Backend& cuda_backend() {
  static CudaBackend instance;
  return instance;
}

void register_cuda() {
  register_device_memory(Device::Kind::cuda, {.allocate = gpu::allocate,
                                              .release = gpu::release,
                                              .copy_in = copy_in,
                                              .copy_out = copy_out,
                                              .count = count,
                                              .synchronize = synchronize,
                                              .begin_capture = gpu::begin_capture,
                                              .end_capture = end_capture,
                                              .drop_capture = gpu::drop_capture,
                                              .launch_graph = launch_graph,
                                              .release_graph = release_graph});
  register_backend(Device::Kind::cuda, &cuda_backend());
}

}  // namespace flowgrad::kernels
