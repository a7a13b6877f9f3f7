// The CUDA runtime behind gpu_runtime.h. Only the CUDA build compiles this file.
#include <cuda_runtime.h>

#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/gpu.cuh"
#include "flowgrad/kernels/gpu_graph.h"

namespace flowgrad::gpu {
namespace {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string(call) + ": " + cudaGetErrorString(status) + " (" +
                    cudaGetErrorName(status) + ")");
}

/// The stream that records this thread's work; the default one itself cannot be captured.
thread_local cudaStream_t recording = nullptr;

cudaStream_t native(Stream stream) {
  return stream.handle == nullptr ? recording : static_cast<cudaStream_t>(stream.handle);
}

/// Asked of this thread first: the call itself would spoil the recording.
void refuse_capture(const char* call) {
  if (recording == nullptr) return;
  throw DeviceError(std::string(call) + kNotInCapture);
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "device_info");
  return value;
}

std::string name_of(const void* kernel) {
  const char* name = nullptr;
  return cudaFuncGetName(&name, kernel) == cudaSuccess ? name : "(unknown)";
}

LaunchRecord record_of(const void* kernel, std::size_t dynamic_shared) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "launch_records");
  return {name_of(kernel), attributes.numRegs, attributes.localSizeBytes,
          attributes.sharedSizeBytes + dynamic_shared};
}

}  // namespace

int device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // an absent driver is no error to report later
    return 0;
  }
  return count;
}

DeviceInfo device_info(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "device_info");
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.n_multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  info.shared_bytes_per_block =
      static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return info;
}

void* allocate(std::size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes == 0 ? 1 : bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status, "allocate");
  return pointer;
}

void release(void* pointer) noexcept { cudaFree(pointer); }

MemoryInfo memory_info() {
  MemoryInfo info;
  check(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "memory_info");
  return info;
}

void copy_to_device(void* destination, const void* source, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  refuse_capture("copy_to_device");
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, native(stream)),
        "copy_to_device");
}
void copy_to_host(void* destination, const void* source, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  refuse_capture("copy_to_host");
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToHost, native(stream)),
        "copy_to_host");
}
void copy_on_device(void* destination, const void* source, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, native(stream)),
        "copy_on_device");
}
void fill_bytes(void* destination, int value, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(destination, value, bytes, native(stream)), "fill_bytes");
}

void synchronize(Stream stream) {
  refuse_capture("synchronize");
  check(cudaStreamSynchronize(native(stream)), "synchronize");
}

void record_event(Event& event, Stream stream) {
  refuse_capture("record_event");
  if (event.handle == nullptr) {
    cudaEvent_t made = nullptr;
    check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "record_event");
    event.handle = made;
  }
  check(cudaEventRecord(static_cast<cudaEvent_t>(event.handle), native(stream)), "record_event");
}

void wait_event(Event event) {
  if (event.handle == nullptr) return;
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event.handle)), "wait_event");
}

void release_event(Event event) noexcept {
  if (event.handle != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(event.handle));
}

void* native_stream(Stream stream) { return native(stream); }

void begin_capture() {
  if (recording != nullptr) throw DeviceError(kCapturesAlready);
  // One of its own for each thread, never destroyed: the driver may be gone by then.
  static thread_local cudaStream_t stream = nullptr;
  if (stream == nullptr) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "begin_capture");
  }
  // Relaxed: the pool may ask the driver for memory meanwhile.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "begin_capture");
  recording = stream;
}

Graph end_capture() {
  if (recording == nullptr) throw DeviceError(kCapturesNothing);
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(std::exchange(recording, nullptr), &graph), "end_capture");
  cudaGraphExec_t runnable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&runnable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "end_capture");
  return {runnable};
}

void drop_capture() noexcept {
  if (recording == nullptr) return;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(std::exchange(recording, nullptr), &graph) == cudaSuccess)
    cudaGraphDestroy(graph);
  cudaGetLastError();  // a recording that an error ended is no error of the next call
}

bool capturing() noexcept { return recording != nullptr; }

void launch_graph(Graph graph, Stream stream) {
  refuse_capture("launch_graph");
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.handle), native(stream)),
        "launch_graph");
}

void release_graph(Graph graph) noexcept {
  if (graph.handle != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph.handle));
}

void* pinned_allocate(std::size_t bytes) {
  void* pointer = nullptr;
  if (cudaMallocHost(&pointer, bytes == 0 ? 1 : bytes) == cudaSuccess) return pointer;
  cudaGetLastError();
  return nullptr;
}
void pinned_release(void* pointer) noexcept { cudaFreeHost(pointer); }

namespace {

void check_kernel(cudaError_t status, const char* what, const void* kernel) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  const std::string text = std::string(what) + " of kernel " + name_of(kernel);
  check(status, text.c_str());
}

/// More than 48 KiB of shared memory a block, the kernel's static arrays included, must be asked
/// for, once.
void allow_shared(const char* what, const void* kernel, std::size_t dynamic_shared) {
  if (dynamic_shared == 0) return;
  constexpr std::size_t kWithoutOptIn = 48 << 10;
  static std::mutex mutex;
  static std::unordered_map<const void*, std::size_t> allowed;
  const std::lock_guard lock(mutex);
  std::size_t& most = allowed[kernel];
  if (dynamic_shared <= most) return;
  cudaFuncAttributes attributes;
  check_kernel(cudaFuncGetAttributes(&attributes, kernel), what, kernel);
  if (attributes.sharedSizeBytes + dynamic_shared > kWithoutOptIn) {
    check_kernel(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(dynamic_shared)),
                 what, kernel);
  }
  most = dynamic_shared;
}

}  // namespace

namespace detail {

void launch(const void* kernel, dim3 grid, dim3 block, std::size_t dynamic_shared, Stream stream,
            void** arguments, bool cooperative) {
  const char* const what = cooperative ? "cooperative launch" : "launch";
  allow_shared(what, kernel, dynamic_shared);
  check_kernel(cooperative ? cudaLaunchCooperativeKernel(kernel, grid, block, arguments,
                                                         dynamic_shared, native(stream))
                           : cudaLaunchKernel(kernel, grid, block, arguments, dynamic_shared,
                                              native(stream)),
               what, kernel);
  if (launch_records != nullptr) launch_records->push_back(record_of(kernel, dynamic_shared));
}

int coresident_blocks(const void* kernel, unsigned threads, std::size_t dynamic_shared) {
  int device = 0;
  check(cudaGetDevice(&device), "coresident_blocks");
  cudaFuncAttributes attributes;
  check_kernel(cudaFuncGetAttributes(&attributes, kernel), "occupancy", kernel);
  if (attributes.sharedSizeBytes + dynamic_shared >
      static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device))) {
    return 0;
  }
  allow_shared("occupancy", kernel, dynamic_shared);
  int blocks = 0;
  check_kernel(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                   &blocks, kernel, static_cast<int>(threads), dynamic_shared),
               "occupancy", kernel);
  return blocks * attribute(cudaDevAttrMultiProcessorCount, device);
}

}  // namespace detail
}  // namespace flowgrad::gpu
