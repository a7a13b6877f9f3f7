#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "autograd/op_checks.h"
#include "catch.hpp"
#include "core/io_support.h"
#include "device/arena.h"
#include "device/device.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/kernels/backend.h"
#include "kernels/strided.h"

// Operations on a device: where results are, how tensors get there and back, what is refused.
using namespace flowgrad;
using namespace flowgrad::testing;
using io_test::Contains;
using io_test::error_of;

namespace {

/// Whether f ends a process of its own by a violation of memory protection.
template <class F>
bool crashes(F&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    std::signal(SIGBUS, SIG_DFL);
    f();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

Tensor three() { return Tensor::from<double>({0.5, -1.25, 2}, {3}, DType::float64, test_device()); }

}  // namespace

TEST_CASE("planted host accesses to device memory crash", "[device_test][device_only]") {
  if (!arena_is_registered()) return;  // a GPU's memory is not in the host's address space
  const Tensor x = three();
  CHECK_FALSE(crashes([] {}));
  CHECK(crashes([&] { (void)*static_cast<volatile double*>(x.raw()); }));
  CHECK(crashes([&] { *static_cast<volatile double*>(x.raw()) = 1; }));
  CHECK(crashes([&] {  // a host loop over a view, as a kernel of the CPU has it
    const kernels::View view = x;
    volatile double total = 0;
    for (int64_t i = 0; i < view.numel(); ++i) total = total + view.as<double>()[i];
  }));
  CHECK(crashes([&] {  // a copy that forgets the device
    double copy = 0;
    std::memcpy(&copy, x.raw(), sizeof(copy));
    [[maybe_unused]] volatile double seen = copy;
  }));
  CHECK(crashes([&] {  // the CPU's backend on device tensors
    kernels::backend(Device::cpu()).fill(x, 0);
  }));
  CHECK(x.to_vector<double>() == std::vector<double>{0.5, -1.25, 2});
}

TEST_CASE("planted host tensors in a device's kernels are found", "[device_test][device_only]") {
  if (!arena_is_registered()) return;
  const Tensor x = three();
  const Tensor host = Tensor::from<double>({1, 2, 3}, {3});
  kernels::Backend& device = kernels::backend(x.device());
  CHECK_THAT(error_of<Error>([&] { device.copy(host, x); }), Contains("host tensor"));
  CHECK_THAT(error_of<Error>([&] { device.fill(host, 1); }), Contains("host tensor"));
  // A view that reaches beyond its block.
  const Shape shape{100};
  const Strides strides{1};
  kernels::View beyond = x;
  beyond.shape = &shape;
  beyond.strides = &strides;
  CHECK_THAT(error_of<Error>([&] { device.fill(beyond, 1); }), Contains("of a block of 64 bytes"));
  CHECK(x.to_vector<double>() == std::vector<double>{0.5, -1.25, 2});
}

TEST_CASE("to() moves values and gradients, whatever the layout", "[device_test][device_only]") {
  const Device device = test_device();
  for (uint64_t seed : {1u, 2u, 3u}) {
    const Tensor here = strided(values({3, 4}, DType::float64, seed), seed);
    const Tensor there = to(here, device);
    CHECK(there.device() == device);
    CHECK(there.is_contiguous());
    CHECK(there.to_vector<double>() == here.to_vector<double>());
    const Tensor back = to(strided(there, seed + 1), Device::cpu());
    CHECK(back.device().is_cpu());
    CHECK(back.to_vector<double>() == here.to_vector<double>());
  }
  const Tensor x = three();
  CHECK(to(x, device).same_as(x));
  CHECK(to(Tensor::empty({0, 2}), device).shape() == Shape{0, 2});
  for (DType dtype : {DType::boolean, DType::int64, DType::bfloat16}) {
    const Tensor t = ones({2}, dtype);
    CHECK(to(to(t, device), Device::cpu()).to_vector<double>() == t.to_vector<double>());
  }
  const Tensor leaf = Tensor::from<double>({1, 2, 3}, {3}).requires_grad_();
  const Tensor y = to(leaf, device);
  CHECK(y.requires_grad());
  const Tensor g = grad(sum(square(y)), leaf, {.create_graph = true});
  CHECK(g.device().is_cpu());
  CHECK(g.to_vector<double>() == std::vector<double>{2, 4, 6});
  CHECK(grad(sum(g * g), leaf).to_vector<double>() == std::vector<double>{8, 16, 24});
  backward(sum(to(exp(to(leaf, device)), Device::cpu()) * leaf));
  CHECK(leaf.grad().device().is_cpu());
}

TEST_CASE("to() passes gradcheck to third order, both ways", "[device_test][device_only]") {
  const Device device = test_device();
  const auto there = [&](const Tensor& x) { return sin(to(x, device)) * to(cos(x), device); };
  const auto back = [](const Tensor& x) {
    return to(sin(x), Device::cpu()) * to(x, Device::cpu());
  };
  const GradcheckResult a = gradcheck(there, values({2, 3}, DType::float64, 4), {.order = 3});
  INFO(a.message);
  CHECK(a.passed);
  const GradcheckResult b =
      gradcheck(back, to(values({2, 3}, DType::float64, 4), device), {.order = 3});
  INFO(b.message);
  CHECK(b.passed);
}

TEST_CASE("every operation leaves its results where its operands are",
          "[device_test][device_only]") {
  for (const Op& op : op_table()) {
    std::vector<Case> cases{op.at(op.small)};
    cases.insert(cases.end(), op.more.begin(), op.more.end());
    for (const Case& c : cases) {
      if (!c.f) continue;
      INFO(op.name);
      const Outcome o = evaluate(c.f, make_inputs(c, DType::float32, seed_of(op)),
                                 {.gradients = op.differentiable});
      for (const Tensor& t : o.out) CHECK(t.device() == test_device());
      for (const Tensor& t : o.grads) CHECK((!t.defined() || t.device() == test_device()));
    }
  }
}

TEST_CASE("operands on two devices are refused by name", "[device_test][device_only]") {
  int64_t refused = 0;
  for (const Op& op : op_table()) {
    if (op.name == "copy_") continue;  // copies between devices
    std::vector<Case> cases{op.at(op.small)};
    cases.insert(cases.end(), op.more.begin(), op.more.end());
    for (const Case& c : cases) {
      if (!c.f || c.args.size() < 2) continue;
      const Tensors in = make_inputs(c, DType::float32, seed_of(op));
      for (size_t i = 0; i < in.size(); ++i) {
        Tensors mixed = in;
        mixed[i] = to(mixed[i], Device::cpu());
        const std::string message = error_of<DeviceError>([&] { c.f(mixed); });
        INFO(op.name << ", argument " << i << ": " << message);
        CHECK_THAT(message, Contains("cpu"));
        CHECK_THAT(message, Contains("cuda:0"));
        CHECK_THAT(message, Contains("both must be on one device"));
        if (op.name.rfind("operator", 0) != 0) CHECK(message.rfind(op.name + ":", 0) == 0);
        ++refused;
      }
    }
  }
  CHECK(refused >= 100);
}

TEST_CASE("cotangents on another device are refused", "[device_test][device_only]") {
  const Tensor x = three().requires_grad_();
  const Tensor y = exp(x);
  const Tensor cotangent = ones({3}, DType::float64);
  CHECK_THAT(error_of<DeviceError>(
                 [&] { grad(std::span(&y, 1), std::span(&x, 1), std::span(&cotangent, 1)); }),
             Contains("grad: the cotangent given on cpu; expected on cuda:0"));
  CHECK_THAT(
      error_of<DeviceError>([&] { vjp([](const Tensor& t) { return exp(t); }, x, cotangent); }),
      Contains("vjp: the cotangent v is on cpu and f(x) on cuda:0"));
  const auto rule = [](std::span<const Tensor> g, std::span<const Tensor>,
                       std::span<const Tensor>) -> std::vector<Tensor> {
    return {to(g[0], Device::cpu())};
  };
  const auto same = [](std::span<const Tensor> in) -> std::vector<Tensor> { return {exp(in[0])}; };
  const Tensor z = custom_vjp("misplaced", same, rule, std::span(&x, 1))[0];
  CHECK_THAT(error_of<DeviceError>([&] { backward(sum(z)); }),
             Contains("returned a gradient for input 0 on cpu; expected on cuda:0"));
}

TEST_CASE("random draws have the same bits on every device", "[device_test][device_only]") {
  const auto same = [](const std::function<Tensor(Generator&, Device)>& draw) {
    Generator a(11, 3);
    Generator b(11, 3);
    const Tensor there = draw(a, test_device());
    const Tensor here = draw(b, Device::cpu());
    CHECK(there.device() == test_device());
    CHECK(digest({there}) == digest({here}));
    CHECK(a.stream() == b.stream());
  };
  for (DType d : kDTypes) {
    for (const Shape& s : {Shape{}, Shape{7}, Shape{33, 5}, Shape{1025}}) {
      same([&](Generator& g, Device at) { return rand(s, g, d, -1, 3, at); });
      same([&](Generator& g, Device at) { return randn(s, g, d, at); });
      same([&](Generator& g, Device at) { return bernoulli(s, 0.3, g, d, at); });
      same([&](Generator& g, Device at) { return rademacher(s, g, d, at); });
      same([&](Generator& g, Device at) { return randint(-5, 99, s, g, at); });
      same([&](Generator& g, Device at) { return dropout(ones(s, d, at), 0.4, g); });
    }
  }
  same([](Generator& g, Device at) { return randperm(100, g, at); });
}

TEST_CASE("copy_ goes between devices and dtypes", "[device_test][device_only]") {
  const Tensor there = three();
  const Tensor here = Tensor::from<float>({1, 2, 3}, {3});
  copy_(there, here);
  CHECK(there.to_vector<double>() == std::vector<double>{1, 2, 3});
  fill_(there, 7);
  copy_(here, there);
  CHECK(here.to_vector<float>() == std::vector<float>{7, 7, 7});
}
