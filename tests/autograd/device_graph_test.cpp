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

Tensor normals_on_device(const Shape& shape, uint64_t seed, DType dtype = DType::float32) {
  Generator generator(seed);
  return to(randn(shape, generator, dtype), test_device());
}

/// A chain of every kind of kernel that a training has: products (their chunks in scratch memory),
/// rows, reductions, random draws, copies, and the same backwards.
struct Chain {
  Tensor x = normals_on_device({6, 300}, 1), w = normals_on_device({300, 5}, 2).requires_grad_();
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
  DeviceGraph graph(test_device(), [&] { b(captured); }, {&captured});
  CHECK(captured.stream() == plain.stream());  // capturing draws nothing
  CHECK(graph.memory_bytes() > 0);
  for (int run = 0; run < 4; ++run) {
    // What changes is written in place; others draw from the generator between two runs.
    const Tensor fresh = normals_on_device({6, 300}, 10 + static_cast<uint64_t>(run));
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
  const Tensor x = normals_on_device({8}, 1), y = zeros({8}, DType::float32, test_device());
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
    Tensor outside = normals_on_device({6, 5}, 5);
    Tensor sum_of;
    auto graph = std::make_unique<DeviceGraph>(
        device,
        [&] {
          chain(draws);
          sum_of = chain.value + sum(outside);
          outside = {};  // its storage is the caller's no more, and the graph reads it all the same
        },
        std::vector<Generator*>{&draws});
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
  const Tensor x = normals_on_device({4}, 1), y = zeros({4}, DType::float32, device);
  Generator draws(1), other(2);
  const auto refusal = [&](const std::function<void()>& work) {
    const std::string text = error_of<DeviceError>([&] {
      DeviceGraph(device,
                  [&] {
                    copy_(y, x);
                    randn({4}, draws, DType::float32, device);
                    work();
                  },
                  {&draws});
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
  const Tensor scores = normals_on_device({4, 3}, 1), classes = cast(zeros_like(x), DType::int64);
  CHECK_THAT(refusal([&] { cross_entropy(scores, classes); }), Contains("copy_to_host"));
  CHECK_THAT(refusal([&] { draws.set_state(2, 0); }), Contains("set the state of a generator"));
  // Errors of the work itself come through.
  CHECK_THAT(
      error_of<ShapeError>([&] { DeviceGraph(device, [&] { matmul(x, slice(x, 0, 0, 3)); }); }),
      Contains("matmul"));
  CHECK_FALSE(is_capturing());
  // An empty one, and one whose generator was seeded anew.
  DeviceGraph(device, [] {}).launch();
  DeviceGraph drawing(device, [&] { randn({4}, draws, DType::float32, device); }, {&draws});
  draws.set_state(9, 0);
  CHECK_THAT(error_of<ValueError>([&] { drawing.launch(); }), Contains("has seed 9"));
}

TEST_CASE("two generators of a graph go on by themselves", "[device_graph_test][device_only]") {
  if (!device_records()) return;
  const Device device = test_device();
  // One seed, and streams that the other does not come to.
  Generator plain_a(7), plain_b(7, 1000), a(7), b(7, 1000), close(7, 1);
  Tensor from_a, from_b;
  const auto draw = [&](Generator& first, Generator& second) {
    from_b = randn({9}, second, DType::float32, device);
    from_a = randn({9}, first, DType::float32, device);
    from_b = from_b + randn({9}, second, DType::float32, device);
  };
  DeviceGraph graph(device, [&] { draw(a, b); }, {&a, &b});
  const Tensor of_graph[] = {from_a, from_b};
  for (int run = 0; run < 4; ++run) {
    if (run == 2) {  // each is somewhere else now
      for (Generator* g : {&plain_a, &a}) g->set_state(7, 40);
      for (Generator* g : {&plain_b, &b}) g->set_state(7, 500);
    }
    graph.launch();
    draw(plain_a, plain_b);
    CHECK(of(of_graph[0]) == of(from_a));
    CHECK(of(of_graph[1]) == of(from_b));
    CHECK(a.stream() == plain_a.stream());
    CHECK(b.stream() == plain_b.stream());
  }
  // Where two gave a stream, nobody can say how far it is.
  a.set_state(7, 0);
  CHECK_THAT(error_of<DeviceError>([&] {
               DeviceGraph(device,
                           [&] {
                             randn({2}, a, DType::float32, device);
                             randn({2}, a, DType::float32, device);
                             randn({2}, close, DType::float32, device);
                           },
                           {&a, &close});
             }),
             Contains("several"));
}

namespace {

Tensor places(const std::vector<int64_t>& v) {
  return to(Tensor::from(v, {static_cast<int64_t>(v.size())}, DType::int64), test_device());
}

/// Every operation that takes indices, and the gradient by what they read and write.
struct Lookups {
  Tensor x = normals_on_device({5, 3}, 1).requires_grad_(),
         source = normals_on_device({4, 3}, 2).requires_grad_();
  Tensor index = places({4, 0, 3, 0});
  std::vector<Tensor> results;
  void operator()() {
    const Tensor columns = expand(unsqueeze(index, 1), {4, 3});
    const std::vector<Tensor> out = {index_select(x, 0, index),
                                     embedding(x, index, 3),
                                     gather(x, 0, columns),
                                     scatter_add(x, 0, columns, source),
                                     scatter_max(x, 0, columns, source),
                                     index_add(x, 0, index, source),
                                     cast(one_hot(index, 5), DType::float32)};
    Tensor total;
    for (const Tensor& t : out) total = total.defined() ? total + sum(square(t)) : sum(square(t));
    results = grad(total, {x, source});
    for (const Tensor& t : out) results.push_back(t.detach());
  }
};

}  // namespace

TEST_CASE("lookups of a graph have the bits of the plain ones",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;
  Lookups plain, captured;
  DeviceGraph graph(test_device(), [&] { captured(); });
  for (const auto& v :
       std::vector<std::vector<int64_t>>{{4, 0, 3, 0}, {1, 1, 1, 1}, {0, 4, 2, 3}}) {
    copy_(plain.index, places(v));
    copy_(captured.index, places(v));
    plain();
    graph.launch();
    graph.check();
    for (size_t i = 0; i < plain.results.size(); ++i) {
      INFO(i);
      CHECK(of(captured.results[i]) == of(plain.results[i]));
    }
  }
}

TEST_CASE("an index out of range is told of after the launch, by the words of the plain check",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;
  const auto at = [](const std::vector<int64_t>& v) {
    Lookups plain;
    plain.index = places(v);
    return error_of<ValueError>([&] { plain(); });
  };
  Lookups captured;
  DeviceGraph graph(test_device(), [&] { captured(); });
  graph.check();  // nothing has run
  for (const auto& v : std::vector<std::vector<int64_t>>{
           {4, 5, -1, 0}, {4, 0, -1, 5}, {4, 0, 1, int64_t{1} << 62}, {INT64_MIN, 0, 1, 2}}) {
    copy_(captured.index, places(v));
    graph.launch();
    CHECK(error_of<ValueError>([&] { graph.check(); }) == at(v));
    // Said once, and the next launch is judged by itself.
    graph.check();
    copy_(captured.index, places({4, 0, 3, 0}));
    graph.launch();
    graph.check();
  }
  // The first of several launches is not forgotten.
  copy_(captured.index, places({0, 7, 0, 8}));
  graph.launch();
  copy_(captured.index, places({9, 0, 3, 0}));
  graph.launch();
  copy_(captured.index, places({4, 0, 3, 0}));
  graph.launch();
  CHECK_THAT(error_of<ValueError>([&] { graph.check(); }), Contains("index 7 given at element 1"));
  // The first check of the work speaks, whatever finds its index first on the device.
  const Tensor first = places({0, 1}), second = places({0, 1});
  Tensor picked;
  DeviceGraph two(test_device(), [&] {
    picked = index_select(captured.x, 0, first);
    picked = picked + index_select(captured.x, 0, second);
  });
  copy_(second, places({6, 0}));
  two.launch();
  CHECK_THAT(error_of<ValueError>([&] { two.check(); }), Contains("index 6 given at element 0"));
  copy_(first, places({0, 8}));
  two.launch();
  CHECK_THAT(error_of<ValueError>([&] { two.check(); }), Contains("index 8 given at element 1"));
}

TEST_CASE("the first of very many indices is found, and all others are used",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;
  std::vector<int64_t> v(10000);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i % 7);
  const Tensor x = normals_on_device({7}, 1), index = places(v);
  Tensor picked;
  DeviceGraph graph(test_device(), [&] { picked = index_select(x, 0, index); });
  for (const size_t bad : {9999, 9500, 5000, 4999, 0}) {
    v[bad] = 7 + static_cast<int64_t>(bad);
    copy_(index, places(v));
    graph.launch();
    CHECK_THAT(error_of<ValueError>([&] { graph.check(); }),
               Contains("index " + std::to_string(v[bad]) + " given at element " +
                        std::to_string(bad) + " of index (10000,); 0 to 6 are accepted"));
    const auto got = of(picked), table = of(x);
    for (size_t i = 0; i < v.size(); ++i)
      REQUIRE(got[i] == table[v[i] < 7 ? static_cast<size_t>(v[i]) : 0]);
  }
}

TEST_CASE("what a graph keeps of its checks is no temporary's memory",
          "[device_graph_test][device_only]") {
  if (!device_records()) return;
  const Tensor x = normals_on_device({7}, 1), small = normals_on_device({2}, 2),
               index = places({3, 9});
  Tensor picked;
  DeviceGraph graph(test_device(), [&] {
    // Written at each run, and free before the check.
    for (int i = 0; i < 8; ++i) square(small) + 1.0;
    picked = index_select(x, 0, index);
  });
  for (int run = 0; run < 2; ++run) {
    graph.launch();
    CHECK_THAT(error_of<ValueError>([&] { graph.check(); }),
               Contains("index 9 given at element 1"));
  }
}

TEST_CASE("the CPU has no graphs", "[device_graph_test]") {
  CHECK_THAT(error_of<DeviceError>([] { DeviceGraph(Device::cpu(), [] {}); }),
             Contains("cpu given"));
  CHECK_FALSE(is_capturing());
}
