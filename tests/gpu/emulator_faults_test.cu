// Planted bugs, each of which the emulator must notice and explain. On a device they would hang,
// give wrong results or pass by luck, so this file is built for the emulator only.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "flowgrad/kernels/ptx_async.cuh"
#include "flowgrad/kernels/ptx_tagged.cuh"
#include "support.cuh"

using namespace flowgrad::test;

namespace {

const gpu::Stream stream = gpu::default_stream();

// Launches, synchronises, and returns the message of the error.
template <class... P, class... A>
std::string failure(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t dynamic,
                    A... arguments) {
  return message_of([&] {
    gpu::launch(kernel, grid, block, dynamic, stream, arguments...);
    gpu::synchronize(stream);
  });
}

// What each kernel should have done: out = in reversed within the block.
__global__ void reverse_without_barrier(const float* in, float* out) {
  GPU_SHARED(float, buffer, [64]);
  buffer[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = buffer[63 - threadIdx.x];
}

__global__ void divergent_barrier(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

// clang-format off
__global__ void divergent_barrier_in_one_line(int* out) {
  if (threadIdx.x < 32) { __syncthreads(); } else { __syncthreads(); }
  out[threadIdx.x] = 1;
}
// clang-format on

__global__ void barrier_for_some(int* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void early_return(int* out, int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void store(float* out, long i) { out[i + threadIdx.x] = 1.0f; }
__global__ void load(const float* in, float* out, long i) { out[threadIdx.x] = in[i]; }

__global__ void mask_without_caller(int* out) {
  out[threadIdx.x] = __shfl_sync(0x0000ffffu, static_cast<int>(threadIdx.x), 0);
}
__global__ void mask_with_exited_lane(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 0);
}
__global__ void mask_with_lane_elsewhere(int* out) {
  if (threadIdx.x == 7) {
    out[7] = __any_sync(0xffffffffu, 1);
  } else {
    out[threadIdx.x] = __all_sync(0xffffffffu, 1);
  }
}
__global__ void reads_from_outside_the_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}
// Lane 0 waits for 1, 1 for 2, 2 for 0; the rest waits for all three.
__global__ void deadlock(int* out) {
  if (threadIdx.x < 3) {
    out[threadIdx.x] = __any_sync((1u << threadIdx.x) | (1u << (threadIdx.x + 1) % 3), 1);
  }
  __syncthreads();
}

__global__ void overrun_shared(int* out, int i) {
  GPU_SHARED(int, buffer, [10]);
  int* first = buffer;  // no array whose size a compiler could check
  first[i] = 3;
  __syncthreads();
  out[0] = first[i];
}
__global__ void too_much_shared(int* out) {
  GPU_SHARED(int, first, [8000]);
  GPU_SHARED(int, second, [8000]);
  first[0] = second[0] = 1;
  out[0] = first[0];
}

__device__ int recurse(int depth) {
  volatile int local[256];
  local[depth % 256] = depth;
  return depth == 0 ? local[0] : recurse(depth - 1) + local[depth % 256];
}
__global__ void overflow_stack(int* out, int depth) { out[0] = recurse(depth); }

__global__ void fill(float* out, float value) { out[threadIdx.x] = value; }
__global__ void read_shared_of_previous_block(float* out) {
  GPU_SHARED(float, buffer, [1]);
  out[blockIdx.x] = buffer[0];
  buffer[0] = 1.0f;
}

}  // namespace

// The checker build notices at once what shows as NaN elsewhere.
#if defined(FLOWGRAD_GPU_CHECKER)
const bool checked = true;
#else
const bool checked = false;
#endif

TEST_CASE("missing barrier reads NaN", "[emulator_faults_test]") {
  const auto in = random_floats(64, 1);
  const DeviceArray<float> din(in), out(64);
  gpu::launch(reverse_without_barrier, 1, 64, 0, stream, din.get(), out.get());
  if (checked) {
    CHECK(contains(message_of([&] { gpu::synchronize(stream); }), "uninitialised"));
    return;
  }
  std::vector<float> expected(in.rbegin(), in.rend());
  const double d = largest_difference(out.values(), expected);
  CHECK(d != d);
}

TEST_CASE("divergent barriers", "[emulator_faults_test]") {
  const DeviceArray<int> out(64);
  std::string text = failure(divergent_barrier, 1, 64, 0, out.get());
  CHECK(contains(text, "divergent barrier"));
  CHECK(contains(text, "divergent_barrier(int*)"));
  CHECK(contains(text, "block (0, 0, 0), thread ("));
  CHECK(contains(text, "emulator_faults_test.cu:"));
  text = failure(divergent_barrier_in_one_line, 1, 64, 0, out.get());
  CHECK(contains(text, "divergent barrier"));
  text = failure(barrier_for_some, 1, 64, 0, out.get());
  CHECK((contains(text, "exits while") || contains(text, "have exited")));
  text = failure(early_return, 1, 64, 0, out.get(), 50);
  CHECK((contains(text, "exits while") || contains(text, "have exited")));
  CHECK(failure(early_return, 1, 64, 0, out.get(), 64).empty());
  CHECK(failure(early_return, 1, 64, 0, out.get(), 0).empty());  // the whole block: no barrier
}

TEST_CASE("global memory out of bounds", "[emulator_faults_test]") {
  const DeviceArray<float> a(1000), b(1000);
  CHECK(failure(store, 1, 1, 0, a.get(), 999L).empty());
  // Within the slack of the last page, just before the data, a page away, far away.
  for (const long i : {1000L, -1L, 1024L, 2048L, 100000L, -2000L, -50000L}) {
    INFO(i);
    const std::string text = failure(store, 1, 1, 0, a.get(), i);
    CHECK(contains(text, "out of bounds"));
    CHECK(contains(text, "store(float*, long)"));
  }
  const DeviceArray<float> fresh(4);
  CHECK(contains(failure(load, 1, 1, 0, static_cast<const float*>(a.get()), b.get(), 100000L),
                 checked ? "out of bounds: reads" : "reads from"));
  CHECK(
      contains(failure(store, 1, 1, 0, fresh.get(), 5000L), "past the end of device memory of 16"));
  CHECK(contains(failure(store, 1, 1, 0, static_cast<float*>(nullptr), 0L),
                 "which is no memory of the device"));
  // The device goes on after an error.
  CHECK(failure(store, 1, 1, 0, a.get(), 0L).empty());
}

TEST_CASE("released memory", "[emulator_faults_test]") {
  auto* p = static_cast<float*>(gpu::allocate(400));
  auto* q = static_cast<float*>(gpu::allocate(400));
  gpu::release(p);
  CHECK(contains(failure(store, 1, 1, 0, p, 0L), "released memory"));  // as an argument
  CHECK(contains(failure(store, 1, 1, 0, q, p - q), "4 bytes into released memory") == false);
  CHECK(contains(failure(store, 1, 1, 0, q, p - q), "0 bytes into released memory of 400"));
  gpu::release(q);
  gpu::release(nullptr);
}

TEST_CASE("host pointers are refused", "[emulator_faults_test]") {
  std::vector<float> host(10);
  CHECK(contains(failure(store, 1, 1, 0, host.data(), 0L), "argument 0"));
  const DeviceArray<float> a(10);
  CHECK(contains(message_of([&] { gpu::copy_to_device(host.data(), a.get(), 40, stream); }),
                 "is host memory"));
  CHECK(contains(message_of([&] { gpu::copy_to_host(a.get(), a.get(), 40, stream); }),
                 "is device memory"));
  CHECK(contains(message_of([&] { gpu::copy_to_device(a.get(), host.data(), 44, stream); }),
                 "44 bytes"));
  CHECK(contains(message_of([&] { gpu::copy_on_device(a.get(), a.get() + 1, 8, stream); }),
                 "overlap"));
}

TEST_CASE("warp functions with a wrong mask", "[emulator_faults_test]") {
  const DeviceArray<int> out(64);
  CHECK(contains(failure(mask_without_caller, 1, 32, 0, out.get()), "lacks the calling lane"));
  const std::string exited = failure(mask_with_exited_lane, 1, 32, 0, out.get());
  CHECK((contains(exited, "exits while other lanes") || contains(exited, "have exited")));
  CHECK(contains(failure(mask_with_lane_elsewhere, 1, 32, 0, out.get()), "wait elsewhere"));
  CHECK(contains(failure(reads_from_outside_the_mask, 1, 32, 0, out.get()),
                 "reads from lane 20, which does not take part"));
}

TEST_CASE("deadlocks are reported with every place of waiting", "[emulator_faults_test]") {
  const DeviceArray<int> out(64);
  const std::string text = failure(deadlock, 1, 36, 0, out.get());
  INFO(text);
  CHECK(contains(text, "deadlock"));
  CHECK(contains(text, "threads 0 to 0: __any_sync at emulator_faults_test.cu:"));
  CHECK(contains(text, "mask 0x00000006"));
  CHECK(contains(text, "threads 3 to 35: __syncthreads at emulator_faults_test.cu:"));
}

TEST_CASE("shared memory out of bounds or too large", "[emulator_faults_test]") {
  const DeviceArray<int> out(1);
  CHECK(failure(overrun_shared, 1, 1, 0, out.get(), 9).empty());
  CHECK(contains(failure(overrun_shared, 1, 1, 0, out.get(), 10),
                 checked ? "out of bounds: writes 40 bytes" : "0 bytes past the end of"));
  CHECK(contains(failure(too_much_shared, 1, 1, 0, out.get()), "at most 49152"));
  CHECK(contains(failure(overrun_shared, 1, 1, 227 << 10, out.get(), 0), "at most 232448"));
  CHECK(contains(failure(overrun_shared, 1, 1, 228 << 10, out.get(), 0), "at most 232448"));
}

TEST_CASE("launches that a device refuses", "[emulator_faults_test]") {
  const DeviceArray<float> out(10);
  // At the call, not at the synchronize.
  const auto refused = [&](dim3 grid, dim3 block) {
    return message_of([&] { gpu::launch(fill, grid, block, 0, stream, out.get(), 1.0f); });
  };
  CHECK(contains(refused(1, 1025), "1 to 1024 in all"));
  CHECK(contains(refused(1, dim3(32, 33)), "1 to 1024 in all"));
  CHECK(contains(refused(1, dim3(1, 1, 65)), "(1, 1, 65)"));
  CHECK(contains(refused(1, 0), "block of (0, 1, 1)"));
  CHECK(contains(refused(0, 1), "grid of (0, 1, 1)"));
  CHECK(contains(refused(dim3(1, 65536), 1), "65535"));
  CHECK(refused(1, 10).empty());
  gpu::synchronize(stream);
}

TEST_CASE("stack overflow of a thread", "[emulator_faults_test]") {
  const DeviceArray<int> out(1);
  CHECK(failure(overflow_stack, 1, 1, 0, out.get(), 3).empty());
  CHECK(contains(failure(overflow_stack, 1, 1, 0, out.get(), 100000), "stack overflow"));
}

TEST_CASE("without a synchronize nothing has happened", "[emulator_faults_test]") {
  const DeviceArray<float> a(std::vector<float>(32, 1.0f));
  std::vector<float> host = a.values();
  gpu::launch(fill, 1, 32, 0, stream, a.get(), 2.0f);
  gpu::copy_to_host(host.data(), a.get(), 32 * sizeof(float), stream);
  CHECK(host[0] != host[0]);  // neither the old value nor the new one
  gpu::synchronize(stream);
  CHECK(host[0] == 2.0f);
  // Pinned memory is read when the copy runs, not when it is asked for.
  auto* pinned = static_cast<float*>(gpu::pinned_allocate(128));
  pinned[0] = 3.0f;
  gpu::copy_to_device(a.get(), pinned, 128, stream);
  pinned[0] = 4.0f;
  gpu::copy_to_host(host.data(), a.get(), 128, stream);
  gpu::synchronize(stream);
  CHECK(host[0] == 4.0f);
  gpu::pinned_release(pinned);
  // Run at once, the same code works by luck.
  setenv("FLOWGRAD_EMULATOR", "eager", 1);
  gpu::launch(fill, 1, 32, 0, stream, a.get(), 5.0f);
  gpu::copy_to_host(host.data(), a.get(), 128, stream);
  CHECK(host[0] == 5.0f);
  setenv("FLOWGRAD_EMULATOR", "deferred", 1);
}

TEST_CASE("fresh device memory and shared memory hold NaN", "[emulator_faults_test]") {
  const DeviceArray<float> a(100), b(4);
  for (const float v : a.values()) REQUIRE(v != v);
  gpu::launch(read_shared_of_previous_block, 4, 1, 0, stream, b.get());
  if (checked) {
    CHECK(contains(message_of([&] { gpu::synchronize(stream); }), "uninitialised"));
    return;
  }
  for (const float v : b.values()) REQUIRE(v != v);
}

TEST_CASE("a failure drops what was queued behind it, once", "[emulator_faults_test]") {
  const DeviceArray<float> a(std::vector<float>(32, 1.0f));
  gpu::launch(store, 1, 1, 0, stream, a.get(), 100000L);
  gpu::launch(fill, 1, 32, 0, stream, a.get(), 2.0f);
  CHECK_FALSE(message_of([&] { gpu::synchronize(stream); }).empty());
  CHECK(message_of([&] { gpu::synchronize(stream); }).empty());
  // Released memory synchronises too, and cannot throw: the next call does.
  auto* p = static_cast<float*>(gpu::allocate(4));
  gpu::launch(store, 1, 1, 0, stream, p, 100000L);
  gpu::release(p);
  CHECK(contains(message_of([&] { gpu::synchronize(stream); }), "out of bounds"));
}

TEST_CASE("device memory runs out", "[emulator_faults_test]") {
  const std::size_t total = gpu::memory_info().total_bytes;
  CHECK(gpu::allocate(total + 1) == nullptr);
  CHECK(gpu::allocate(~std::size_t{0}) == nullptr);
  const std::size_t before = gpu::memory_info().free_bytes;  // pools keep what other cases used
  void* one = gpu::allocate(1000);
  CHECK(gpu::memory_info().free_bytes == before - 1000);
  gpu::release(one);
  CHECK(gpu::memory_info().free_bytes == before);
}

TEST_CASE("host code that touches device memory is told so", "[emulator_faults_test]") {
  const DeviceArray<float> a(std::vector<float>(10, 1.0f));
  gpu::synchronize(stream);
  const bool writes = GENERATE(false, true);
  int channel[2];
  REQUIRE(pipe(channel) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    gpu::synchronize(stream);  // arms the handler again, in front of the default action
    dup2(channel[1], STDERR_FILENO);
    volatile float* p = a.get();
    if (writes) {
      p[3] = 2.0f;
    } else {
      [[maybe_unused]] const float v = p[3];
    }
    _exit(0);
  }
  close(channel[1]);
  std::string text;
  char buffer[256];
  for (ssize_t n; (n = read(channel[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  close(channel[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
  CHECK(contains(text, "host code touched device memory at"));
  CHECK(contains(text, "12 bytes into device memory of 40 bytes"));
}

namespace {

// The last block forgets to send.
__global__ void silent_block(gpu::Tagged<float>* boxes, float* out) {
  if (blockIdx.x + 1 < gridDim.x) gpu::tagged_store(&boxes[blockIdx.x], 1.0f, 1u);
  float got[1] = {};
  gpu::tagged_wait(got, 1u, [&](int) { return &boxes[(blockIdx.x + 1) % gridDim.x]; });
  out[blockIdx.x] = got[0];
}

__global__ void waits_for_zeros(gpu::Tagged<float>* boxes, float* out) {
  float got[1] = {};
  gpu::tagged_wait(got, 0u, [&](int) { return &boxes[0]; });
  out[0] = got[0];
}

__global__ void copies_asynchronously(const float* in, float* out) {
  GPU_SHARED(float, buffer, [4]);
  gpu::cp_async<16>(buffer, in);
  gpu::cp_async_wait_all();
  out[blockIdx.x] = buffer[blockIdx.x];
}

std::string cooperative_failure(auto kernel, unsigned blocks, auto... arguments) {
  return message_of([&] {
    gpu::launch_cooperative(kernel, blocks, 1, 0, stream, arguments...);
    gpu::synchronize(stream);
  });
}

}  // namespace

TEST_CASE("blocks that wait in vain are told so", "[emulator_faults_test]") {
  const DeviceArray<gpu::Tagged<float>> boxes(3);
  const DeviceArray<float> out(std::vector<float>(4, 1.0f));
  gpu::fill_bytes(boxes.get(), 0, 3 * sizeof(gpu::Tagged<float>), stream);
  const std::string silent = cooperative_failure(silent_block, 3, boxes.get(), out.get());
  CHECK(contains(silent, "silent_block"));
  CHECK(contains(silent, "deadlock"));
  CHECK(contains(silent, "block number 1:"));
  CHECK(contains(silent, "tagged_wait at emulator_faults_test.cu:"));
  // Without the cooperation of the others, the first block waits for one that has not begun.
  gpu::fill_bytes(boxes.get(), 0, 3 * sizeof(gpu::Tagged<float>), stream);
  CHECK(contains(failure(silent_block, 2, 1, 0, boxes.get(), out.get()), "deadlock"));
  CHECK(contains(cooperative_failure(waits_for_zeros, 1, boxes.get(), out.get()), "tag 0"));
  CHECK(contains(cooperative_failure(copies_asynchronously, 2, out.get(), out.get()),
                 "cp_async: not emulated in a cooperative launch"));
  CHECK(contains(cooperative_failure(silent_block, 20000, boxes.get(), out.get()),
                 "at most 16384 run together"));
}
