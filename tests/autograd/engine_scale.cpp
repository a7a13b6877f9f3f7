#include <pthread.h>

#include <atomic>
#include <exception>
#include <thread>

#include "autograd/conformance.h"
#include "flowgrad/autograd/graph.h"
#include "flowgrad/core/allocator.h"

/// Size: deep graphs on small stacks, growth in proportion, many threads.
namespace flowgrad::conformance {
namespace {

/// Runs f on a thread with a stack of 256 kB and hands its exception on.
void on_small_stack(std::function<void()> f) {
  struct Job {
    std::function<void()> f;
    std::exception_ptr error;
  } job{std::move(f), nullptr};
  pthread_attr_t attributes;
  REQUIRE(pthread_attr_init(&attributes) == 0);
  REQUIRE(pthread_attr_setstacksize(&attributes, 256 * 1024) == 0);
  pthread_t thread{};
  const auto run = [](void* p) -> void* {
    auto& j = *static_cast<Job*>(p);
    try {
      j.f();
    } catch (...) {
      j.error = std::current_exception();
    }
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, run, &job) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  if (job.error) std::rethrow_exception(job.error);
}

Tensor chain(const Tensor& x, int64_t n) {
  Tensor y = x;
  for (int64_t i = 0; i < n; ++i) y = y * 1.0000001;
  return y;
}

TEST_CASE("a million nodes forward, backward and released on a stack of 256 kB",
          "[engine_scale][slow]") {
  const int64_t before = memory_stats().live_bytes;
  double slope_of_chain = 0;
  double other = 0;
  on_small_stack([&] {
    const Tensor x = leaf(1);
    Tensor y = chain(x, 1000000);
    backward(y);
    slope_of_chain = x.grad().item();
    y = Tensor();
    // Released without a pass, its saved values too.
    Tensor z = x;
    for (int i = 0; i < 200000; ++i) z = sin(z);
    z = Tensor();
    // Two edges from each node, a second derivative, and the text of the graph.
    Tensor w = x;
    for (int i = 0; i < 50000; ++i) w = w + w * 1e-6;
    other = grad(w, x).item();
    Tensor u = x;
    for (int i = 0; i < 20000; ++i) u = u * x;
    const Tensor first = grad(u, x, {.create_graph = true});
    grad(first, x);
    if (graph_of(chain(x, 100000)).size() != 100001) other = 0;
  });
  CHECK(slope_of_chain == Catch::Approx(std::exp(1000000 * std::log1p(1e-7))).epsilon(1e-9));
  CHECK(other == Catch::Approx(std::exp(50000 * std::log1p(1e-6))).epsilon(1e-9));
  CHECK(memory_stats().live_bytes == before);
}

TEST_CASE("a deep chain of checkpoints on a small stack", "[engine_scale]") {
  const int64_t before = memory_stats().live_bytes;
  std::vector<double> got, want;
  on_small_stack([&] {
    const Tensor x = leaf(.5);
    Tensor y = x;
    Tensor plain = x;
    const Function f = [](const Tensor& t) { return sin(t) + t * 1e-3; };
    for (int i = 0; i < 5000; ++i) {
      y = checkpoint(f, y);
      plain = f(plain);
    }
    got = {grad(y, x).item()};
    want = {grad(plain, x).item()};
    Tensor dropped = x;
    for (int i = 0; i < 5000; ++i) dropped = checkpoint(f, dropped);
  });
  CHECK(differs(got, want, 0) == "");
  CHECK(memory_stats().live_bytes == before);
}

TEST_CASE("work grows in proportion to the graph", "[engine_scale]") {
  // A diamond at each step: paths double, nodes and memory must not.
  const auto cost = [](int n) {
    const Tensor x = leaf({1, 2});
    const int64_t before = memory_stats().allocations;
    Tensor y = x;
    int64_t calls = 0;
    for (int i = 0; i < n; ++i) {
      const Tensor t = tap(y, [&calls](const Tensor&) {
        ++calls;
        return Tensor();
      });
      y = (t + t) * .5;
    }
    const auto nodes = static_cast<int64_t>(graph_of(y).size());
    CHECK(not_all(grads(y, {x}, ones64({2}))[0], 1) == "");
    CHECK(calls == n);
    return std::pair(nodes, memory_stats().allocations - before);
  };
  const auto one = cost(100);
  const auto ten = cost(1000);
  CHECK(one.first == 3 * 100 + 1);
  CHECK(ten.first == 3 * 1000 + 1);
  CHECK(ten.second <= 10 * one.second);
}

TEST_CASE("an input in the middle stops the pass there", "[engine_scale]") {
  int below = 0;
  const Tensor x = leaf(1);
  Tensor y = x;
  for (int i = 0; i < 100; ++i) {
    y = tap(y, [&](const Tensor&) {
      ++below;
      return Tensor();
    });
  }
  const Tensor middle = y * 2;
  CHECK(grad(middle * middle, middle).item() == 4);
  CHECK(below == 0);
}

TEST_CASE("ten threads on graphs of their own, ten on one leaf, one of them failing",
          "[engine_scale]") {
  constexpr int kRounds = 20;
  const Tensor shared = fill({8, 8}).requires_grad_();
  std::vector<Tensor> own;
  for (int i = 0; i < 10; ++i) own.push_back(fill({8, 8}, i).requires_grad_());
  const auto loss = [](const Tensor& x) { return sum(matmul(x, x) * tanh(x)); };
  std::atomic<int> failures{0};
  std::vector<std::string> wrong(20);
  std::vector<std::thread> threads;
  for (int i = 0; i < 20; ++i) {
    threads.emplace_back([&, i] {
      const auto at = static_cast<size_t>(i);
      try {
        for (int round = 0; round < kRounds; ++round) {
          if (i < 10) {
            own[at].zero_grad();
            backward(loss(own[at]));
          } else {
            backward(sum(shared * (i - 9)));
            const Tensor bad = tap(sum(shared * 100), [](const Tensor&) -> Tensor {
              throw std::runtime_error("planned");
            });
            try {
              backward(bad);
            } catch (const std::runtime_error&) {
              ++failures;
            }
          }
        }
      } catch (const std::exception& e) {
        wrong[at] = e.what();
      }
    });
  }
  for (auto& t : threads) t.join();
  for (const std::string& w : wrong) CHECK(w == "");
  CHECK(failures == 10 * kRounds);
  CHECK(not_all(shared.grad(), 55 * kRounds) == "");
  for (const Tensor& x : own) CHECK(differs(x.grad(), grad(loss(x), x), 0) == "");
}

TEST_CASE("modes belong to their thread", "[engine_scale]") {
  const Tensor x = leaf({1, -1});
  const NoGrad off;
  bool recorded = false;
  std::string raised = "nothing";
  std::thread([&] {
    recorded = (x * x).requires_grad();
    const Anomaly on;
    try {
      log(x);
    } catch (const GradError& e) {
      raised = e.what();
    }
  }).join();
  CHECK(recorded);
  CHECK(raised.find("log #") != std::string::npos);
  CHECK_FALSE((x * x).requires_grad());
  // Forward here, backward there.
  Tensor y;
  {
    const EnableGrad on;
    y = sum(checkpoint([](const Tensor& t) { return sin(t) * t; }, x));
  }
  std::thread([&] { backward(y); }).join();
  CHECK(differs(x.grad(), sin(x) + x * cos(x)) == "");
}

}  // namespace
}  // namespace flowgrad::conformance
