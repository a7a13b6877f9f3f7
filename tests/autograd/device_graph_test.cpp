// Work captured once and run again: its values, its draws, its memory, and what is refused.
#include "flowgrad/core/device_graph.h"

#include <cmath>

#include "catch.hpp"
#include "core/io_support.h"
#include "device/device.h"
#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/device_memory.h"

using namespace flowgrad;
using namespace flowgrad::testing;
using io_test::Contains;
using io_test::error_of;

namespace {

std::vector<double> of(const Tensor& t) { return t.to_vector<double>(); }

Tensor values(const Shape& shape, uint64_t seed, DType dtype = DType::float32) {
  Generator generator(seed);
  return to(randn(shape, generator, dtype), test_device());
}

/// A chain of every kind of kernel that a training has: products (their chunks in scratch memory),
/// rows, reductions, random draws, copies, and the same backwards.
struct Chain {
  Tensor x = values({6, 300}, 1), w = values({300, 5}, 2).requires_grad_();
  Tensor value, gradient;
  void operator()(Generator& draws) {
    const Tensor h = tanh(matmul(dropout(x, 0.25, draws), w));
    const Tensor noise = randn(h.shape(), draws, h.dtype(), h.device());
    const Tensor loss = mean(square(softmax(h + 0.1 * noise, 1) - slice(x, 1, 0, 5))) +
                        sum(cumsum(contiguous(transpose(h)), 1)) * 1e-3;
    value = loss.detach();
    gradient = grad(loss, w);
  }
};

}  // namespace

TEST_CASE("a captured chain has the bits of the plain one, draws included",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;  // it records nothing
  Generator plain(7), captured(7);
  Chain a, b;
  a(plain);
  b(captured);
  DeviceGraph graph(
      test_device(), [&] { b(captured); }, &captured);
  CHECK(captured.stream() == plain.stream());  // capturing draws nothing
  CHECK(graph.memory_bytes() > 0);
  for (int run = 0; run < 4; ++run) {
    // What changes is written in place; others draw from the generator between two runs.
    const Tensor fresh = values({6, 300}, 10 + static_cast<uint64_t>(run));
    copy_(a.x, fresh);
    copy_(b.x, fresh);
    if (run == 2) CHECK(of(rand({3}, plain)) == of(rand({3}, captured)));
    a(plain);
    graph.launch();
    CHECK(of(b.value) == of(a.value));
    CHECK(of(b.gradient) == of(a.gradient));
    CHECK(captured.stream() == plain.stream());
  }
}

TEST_CASE("nothing runs before the launch, and nobody waits for one",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;
  const Tensor x = values({8}, 1), y = zeros({8}, DType::float32, test_device());
  DeviceGraph graph(test_device(), [&] { copy_(y, x * 2.0); });
  CHECK(of(y) == std::vector<double>(8, 0.0));
  graph.launch();
  copy_(x, x * 3.0);  // after the first run, before the second
  graph.launch();
  CHECK(of(y) == of(x * 2.0));
}

TEST_CASE("a graph's memory outlives the trimming of the pool and is nobody else's",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;
  const Device device = test_device();
  empty_cache(device);
  const int64_t live = memory_stats(device).live_bytes;
  {
    Generator draws(3);
    Chain chain;
    Tensor outside = values({6, 5}, 5);
    Tensor sum_of;
    auto graph = std::make_unique<DeviceGraph>(
        device,
        [&] {
          chain(draws);
          sum_of = chain.value + sum(outside);
          outside = {};  // its storage is the caller's no more, and the graph reads it all the same
        },
        &draws);
    CHECK(memory_stats(device).live_bytes - live >= graph->memory_bytes());
    draws.set_state(3, 0);
    graph->launch();
    const auto value = of(chain.value), gradient = of(chain.gradient), total = of(sum_of);
    // Trim, then fill whatever the pool would give to others with something else.
    empty_cache(device);
    std::vector<Tensor> others;
    for (int i = 0; i < 200; ++i) {
      for (const int64_t n : {1, 30, 300, 1500, 1800})
        others.push_back(full({n}, 1e30, DType::float32, device));
    }
    others.clear();
    empty_cache(device);
    draws.set_state(3, 0);
    graph->launch();
    CHECK(of(chain.value) == value);
    CHECK(of(chain.gradient) == gradient);
    CHECK(of(sum_of) == total);
    // What the graph made and somebody holds stays when the graph goes.
    graph.reset();
    CHECK(of(chain.gradient) == gradient);
  }
  empty_cache(device);
  CHECK(memory_stats(device).live_bytes == live);
}

TEST_CASE("what a graph cannot hold is refused by name, and nothing has run",
          "[device_graph_test][device_only]") {
  if (!device_records()) {
    CHECK_THAT(error_of<DeviceError>([] { DeviceGraph(test_device(), [] {}); }),
               Contains("cannot record"));
    return;
  }
  const Device device = test_device();
  const Tensor x = values({4}, 1), y = zeros({4}, DType::float32, device);
  Generator draws(1), other(2);
  const auto refusal = [&](const std::function<void()>& work) {
    const std::string text = error_of<DeviceError>([&] {
      DeviceGraph(
          device,
          [&] {
            copy_(y, x);
            randn({4}, draws, DType::float32, device);
            work();
          },
          &draws);
    });
    CHECK(draws.stream() == 0);
    CHECK_FALSE(is_capturing());
    CHECK(of(y) == std::vector<double>(4, 0.0));
    return text;
  };
  CHECK_THAT(refusal([&] { sum(x).item(); }), Contains("copy_to_host: asked for while"));
  CHECK_THAT(refusal([&] { x.to_vector<double>(); }), Contains("copy_to_host"));
  CHECK_THAT(refusal([&] { Tensor::from(std::vector<double>{1}, {1}, DType::float32, device); }),
             Contains("copy_to_device"));
  CHECK_THAT(refusal([&] { synchronize(device); }), Contains("synchronize"));
  CHECK_THAT(refusal([&] { randn({2}, other, DType::float32, device); }),
             Contains("randn: a draw"));
  CHECK_THAT(refusal([&] { dropout(x, 0.5, other); }), Contains("dropout"));
  CHECK_THAT(refusal([&] { DeviceGraph(device, [] {}); }), Contains("captures a graph already"));
  // Indices are checked on the host, so those on the device cannot be part of a graph.
  const Tensor index = to(Tensor::from(std::vector<int64_t>{0}, {1}, DType::int64), device);
  CHECK_THAT(refusal([&] { index_select(x, 0, index); }), Contains("copy_to_host"));
  // Errors of the work itself come through.
  CHECK_THAT(
      error_of<ShapeError>([&] { DeviceGraph(device, [&] { matmul(x, slice(x, 0, 0, 3)); }); }),
      Contains("matmul"));
  CHECK_FALSE(is_capturing());
  // An empty one, and one whose generator was seeded anew.
  DeviceGraph(device, [] {}).launch();
  DeviceGraph drawing(
      device, [&] { randn({4}, draws, DType::float32, device); }, &draws);
  draws.set_state(9, 0);
  CHECK_THAT(error_of<ValueError>([&] { drawing.launch(); }), Contains("has seed 9"));
}

TEST_CASE("the CPU has no graphs", "[device_graph_test]") {
  CHECK_THAT(error_of<DeviceError>([] { DeviceGraph(Device::cpu(), [] {}); }),
             Contains("cpu given"));
  CHECK_FALSE(is_capturing());
}
