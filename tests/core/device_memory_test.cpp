#include "flowgrad/core/device_memory.h"

#include <cmath>

#include "catch.hpp"
#include "core/io_support.h"
#include "device/arena.h"
#include "device/device.h"
#include "flowgrad/core/allocator.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/core/tensor.h"
#include "flowgrad/core/tensor_bytes.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::testing;
using io_test::Contains;
using io_test::error_of;

namespace {

constexpr DType kAll[] = {DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                          DType::float64};

/// Switches the planned failure and the arena's limit off, whatever the test does.
struct Limits {
  ~Limits() {
    fail_allocation_after(0);
    if (arena_is_registered()) limit_arena(0);
  }
};

}  // namespace

TEST_CASE("without CUDA, asking for a device says so", "[device_memory_test]") {
  if (has_cuda()) return;  // a build with a device: the other cases run there
  CHECK_THAT(error_of<DeviceError>([] { Device::cuda(); }),
             Contains("Device::cuda: flowgrad was built without CUDA; Device::cpu() is available"));
  CHECK_THAT(error_of<DeviceError>([] {
               pool_allocate(64, {Device::Kind::cuda, 0});
             }),
             Contains("built without CUDA"));
  CHECK_THAT(error_of<DeviceError>([] {
               memory_stats({Device::Kind::cuda, 0});
             }),
             Contains("built without CUDA"));
  synchronize(Device::cpu());
}

TEST_CASE("a table of device memory is refused where it could not work", "[device_memory_test]") {
  const DeviceMemory empty;
  CHECK_THAT(error_of<ValueError>([&] { register_device_memory(Device::Kind::cpu, empty); }),
             Contains("kind cpu given"));
  CHECK_THAT(error_of<ValueError>([&] { register_device_memory(Device::Kind::cuda, empty); }),
             Contains("one of them is null"));
}

TEST_CASE("devices are numbered from 0", "[device_memory_test][device_only]") {
  REQUIRE_FALSE(test_device().is_cpu());
  CHECK(Device::cuda() == Device::cuda(0));
  CHECK(Device::cuda().to_string() == "cuda:0");
  CHECK_THAT(error_of<DeviceError>([] { Device::cuda(100); }), Contains("index 100 given"));
  CHECK_THAT(error_of<DeviceError>([] { Device::cuda(-1); }), Contains("index -1 given"));
  CHECK_THAT(error_of<DeviceError>([] {
               pool_allocate(64, {Device::Kind::cuda, 99});
             }),
             Contains("there is no device cuda:99"));
  const DeviceMemory again = device_memory(Device::Kind::cuda);
  CHECK_THAT(error_of<ValueError>([&] { register_device_memory(Device::Kind::cuda, again); }),
             Contains("registered already"));
  synchronize(test_device());
}

TEST_CASE("a device has a pool of its own", "[device_memory_test][device_only]") {
  const Device device = test_device();
  empty_cache(device);
  reset_peak_memory(device);
  const MemoryStats host = memory_stats();
  const MemoryStats before = memory_stats(device);
  void* first = nullptr;
  {
    const Tensor a = Tensor::empty({100}, DType::float32, device);
    first = a.raw();
    CHECK(a.device() == device);
    CHECK(memory_stats(device).live_bytes == before.live_bytes + 512);
    CHECK(memory_stats(device).system_allocations == before.system_allocations + 1);
  }
  CHECK(memory_stats(device).live_bytes == before.live_bytes);
  CHECK(memory_stats(device).cached_bytes == 512);
  // One stream: the block may serve the next tensor at once.
  CHECK(Tensor::empty({128}, DType::float32, device).raw() == first);
  CHECK(memory_stats(device).system_allocations == before.system_allocations + 1);
  CHECK(memory_stats(device).peak_bytes == before.live_bytes + 512);
  empty_cache(device);
  CHECK(memory_stats(device).cached_bytes == 0);
  CHECK(memory_stats().live_bytes == host.live_bytes);
  CHECK(memory_stats().allocations == host.allocations);
}

TEST_CASE("a failed allocation names the device and leaves the pool sound",
          "[device_memory_test][device_only]") {
  const Limits limits;
  const Device device = test_device();
  const int64_t live = memory_stats(device).live_bytes;
  fail_allocation_after(2);
  const Tensor first = Tensor::empty({4}, DType::float32, device);
  CHECK_THAT(error_of<Error>([&] { Tensor::empty({25}, DType::float32, device); }),
             Contains("out of memory on cuda:0: 100 bytes requested; live "));
  const Tensor third = Tensor::empty({4}, DType::float32, device);
  CHECK(memory_stats(device).live_bytes == live + 128);
  // The plan counts allocations anywhere.
  fail_allocation_after(2);
  const Tensor here = Tensor::empty({4});
  CHECK_THAT(error_of<Error>([&] { Tensor::empty({4}, DType::float32, device); }),
             Contains("out of memory on cuda:0"));
}

TEST_CASE("a full device is flushed once and asked again", "[device_memory_test][device_only]") {
  if (!arena_is_registered()) return;  // a real device cannot be limited
  const Limits limits;
  const Device device = test_device();
  empty_cache(device);
  const int64_t live = memory_stats(device).live_bytes;
  limit_arena(static_cast<size_t>(live) + (size_t{6} << 20));
  { const Tensor four = Tensor::empty({1 << 20}, DType::float32, device); }
  CHECK(memory_stats(device).cached_bytes == 4 << 20);
  // 6 MiB fit only without the 4 MiB that the pool keeps.
  const Tensor six = Tensor::empty({3 << 19}, DType::float32, device);
  CHECK(memory_stats(device).cached_bytes == 0);
  CHECK_THAT(error_of<Error>([&] { Tensor::empty({1 << 19}, DType::float32, device); }),
             Contains("out of memory on cuda:0: 2097152 bytes requested"));
  limit_arena(0);
  CHECK(Tensor::empty({1 << 19}, DType::float32, device).numel() == 1 << 19);
}

TEST_CASE("values go to a device and come back", "[device_memory_test][device_only]") {
  const Device device = test_device();
  const std::vector<double> v{0, 1, 1, 0, 1, 0};
  for (DType dtype : kAll) {
    INFO(name_of(dtype));
    const Tensor t = Tensor::from(v, {2, 3}, dtype, device);
    CHECK(t.device() == device);
    CHECK(t.to_vector<double>() == v);
    CHECK(t.at({0, 2}) == 1);
    CHECK(t.at({1, 2}) == 0);
    CHECK(to_string(t) == to_string(Tensor::from(v, {2, 3}, dtype)));
    for (uint64_t seed : {1u, 2u, 3u}) {
      const Tensor view = strided(t, seed);
      CHECK(view.device() == device);
      CHECK(view.to_vector<double>() == v);
      CHECK(view.at({1, 1}) == 1);
      const TensorBytes bytes(view);
      const TensorBytes plain(Tensor::from(v, {2, 3}, dtype));
      CHECK(std::equal(bytes.span().begin(), bytes.span().end(), plain.span().begin(),
                       plain.span().end()));
    }
  }
  CHECK(Tensor::from<double>({2.5}, {}, DType::float32, device).item() == 2.5);
  CHECK(Tensor::empty({0, 3}, DType::float32, device).to_vector<float>().empty());
  CHECK(to_string(Tensor::empty({0}, DType::float32, device)) == "[] float32 (0,)");
}

TEST_CASE("host code is refused a device's elements by type", "[device_memory_test][device_only]") {
  const Tensor t = Tensor::from<float>({1, 2}, {2}, DType::float32, test_device());
  CHECK_THAT(error_of<DeviceError>([&] { t.data<float>(); }),
             Contains("data: the tensor is on cuda:0; host code reads it with to_vector"));
  CHECK_THAT(error_of<DTypeError>([&] { t.data<double>(); }), Contains("float64 asked for"));
  const Tensor leaf = t.detach().requires_grad_();
  CHECK_THAT(error_of<DeviceError>([&] {
               leaf.set_grad(Tensor::from<float>({1, 2}, {2}));
             }),
             Contains("set_grad: gradient on cpu given for a tensor on cuda:0"));
}

TEST_CASE("a tensor can take another's storage, on whatever device",
          "[device_memory_test][device_only]") {
  const Tensor leaf = Tensor::from<float>({1, 2}, {2}).requires_grad_();
  const Tensor handle = leaf;
  leaf.set_grad(Tensor::from<float>({3, 4}, {2}));
  const uint64_t version = leaf.storage().version();
  leaf.replace_storage(Tensor::from<float>({5, 6}, {2}, DType::float32, test_device()), "a test");
  CHECK(handle.device() == test_device());
  CHECK(handle.to_vector<float>() == std::vector<float>{5, 6});
  CHECK(handle.is_leaf());
  CHECK(handle.requires_grad());
  CHECK_FALSE(handle.grad().defined());
  CHECK(handle.storage().version() > version);
  CHECK_THAT(error_of<ShapeError>([&] { leaf.replace_storage(Tensor::empty({3}), "a test"); }),
             Contains("replace_storage: (3,) float32 given for a tensor (2,) float32"));
}

TEST_CASE("files hold a device's tensors as those of the CPU",
          "[device_memory_test][device_only]") {
  const io_test::Scratch scratch;
  const std::vector<double> v{1, -2, 3.5, 4, 5, 6};
  const Tensor host = Tensor::from(v, {2, 3}, DType::float32);
  const Tensor there = strided(Tensor::from(v, {2, 3}, DType::float32, test_device()), 5);
  save_npy(scratch / "host.npy", host);
  save_npy(scratch / "device.npy", there);
  CHECK(io_test::get(scratch / "host.npy") == io_test::get(scratch / "device.npy"));
  save_safetensors(scratch / "host.safetensors", {{"w", host}});
  save_safetensors(scratch / "device.safetensors", {{"w", there}});
  CHECK(io_test::get(scratch / "host.safetensors") == io_test::get(scratch / "device.safetensors"));
  CHECK(load_npy(scratch / "device.npy").device().is_cpu());
}
