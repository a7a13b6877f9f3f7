#include <thread>

#include "autograd/conformance.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/graph.h"
#include "flowgrad/core/allocator.h"

/// Conformance C42 to C47: checkpointing, the checker, memory, threads, parameter trees, growth.
namespace flowgrad::conformance {
namespace {

Tensor fifty_sines(const Tensor& x, int block) {
  Tensor y = x;
  for (int i = 0; i < 50; i += block) {
    const int n = std::min(block, 50 - i);
    const Function run = [n](const Tensor& at) {
      Tensor t = at;
      for (int k = 0; k < n; ++k) t = sin(t);
      return t;
    };
    y = block > 1 ? checkpoint(run, y) : run(y);
  }
  return y;
}

TEST_CASE("C42 checkpoints: equal bits, replayed dropout, less than half the bytes",
          "[conformance_system][conformance_total][device]") {
  const Case c("C42");
  const PinnedLine row = pinned("C42")[0];
  const Tensor x = fill({8}).requires_grad_();
  for (int block : {1, 2, 7, 50}) {
    const Tensor y = fifty_sines(x, block);
    CHECK(differs(y, row.at("y").numbers()) == "");
    CHECK(differs(grad(sum(y), x), row.at("dx").numbers()) == "");
    CHECK(differs(grad(sum(fifty_sines(x, block)), x), grad(sum(fifty_sines(x, 1)), x), 0) == "");
  }
  Generator generator(7);
  const Function drop = [&](const Tensor& t) { return dropout(sin(t), .5, generator); };
  const Tensor wide = fill({1000}).requires_grad_();
  const auto masked = [&](bool kept) {
    generator.set_state(7, 0);
    const Tensor y = kept ? drop(drop(wide)) : checkpoint(drop, checkpoint(drop, wide));
    generator.next_stream();  // something else draws before the backward pass
    const uint64_t stream = generator.stream();
    const Tensor g = grad(sum(y * y), wide);
    CHECK(generator.stream() == stream);
    return g;
  };
  CHECK(differs(masked(false), masked(true), 0) == "");
  const auto peak = [&](int block) {
    const Tensor big = full({100000}, .5, DType::float64, test_device()).requires_grad_();
    reset_peak_memory(test_device());
    const int64_t before = memory_stats(test_device()).live_bytes;
    backward(sum(fifty_sines(big, block)));
    return memory_stats(test_device()).peak_bytes - before;
  };
  const int64_t whole = peak(1);
  const int64_t less = peak(7);
  INFO(less << " of " << whole << " bytes");
  CHECK(2 * less < whole);
}

/// x^2 whose rule multiplies the gradient by first, whose own derivative is multiplied by second,
/// and which adds noise.
Function wrong_square(double first, double second, double noise) {
  return [=](const Tensor& x) {
    const MultiFunction value = [](std::span<const Tensor> in) {
      return std::vector<Tensor>{in[0] * in[0]};
    };
    const VjpRule rule = [=](std::span<const Tensor> g, std::span<const Tensor> in,
                             std::span<const Tensor>) {
      const MultiFunction same = [](std::span<const Tensor> v) {
        return std::vector<Tensor>{v[0] * 1};
      };
      const VjpRule scaled = [=](std::span<const Tensor> h, std::span<const Tensor>,
                                 std::span<const Tensor>) {
        return std::vector<Tensor>{h[0] * second};
      };
      static int calls = 0;
      const double jitter = noise * (calls++ % 2);
      return std::vector<Tensor>{
          g[0] * custom_vjp("same", same, scaled, in.first(1))[0] * (2 * first) + jitter};
    };
    return custom_vjp("wrong_square", value, rule, std::span(&x, 1))[0];
  };
}

TEST_CASE("C43 the checker rejects small errors",
          "[conformance_system][conformance_total][device]") {
  const Case c("C43");
  const Tensor at = values({.3, -1.2, 2});
  CHECK(gradcheck(wrong_square(1, 1, 0), at, {.order = 2}).passed);
  const auto first = gradcheck(wrong_square(2.001 / 2, 1, 0), at);
  CHECK_FALSE(first.passed);
  CHECK(first.message.find("order 1") != std::string::npos);
  CHECK(gradcheck(wrong_square(1, 1.001, 0), at).passed);
  const auto second = gradcheck(wrong_square(1, 1.001, 0), at, {.order = 2});
  CHECK_FALSE(second.passed);
  CHECK(second.message.find("order 2") != std::string::npos);
  const auto jitter = gradcheck(wrong_square(1, 1, 1e-6), at);
  CHECK_FALSE(jitter.passed);
  CHECK(jitter.message.find("not deterministic") != std::string::npos);
  Generator generator(1);
  const auto random = gradcheck(
      [&](const Tensor& x) {
        return x + 1e-6 * randn({3}, generator, DType::float64, test_device());
      },
      at);
  CHECK(random.message.find("not deterministic") != std::string::npos);
}

TEST_CASE("C44 a saved output or a retained gradient makes no cycle",
          "[conformance_system][conformance_total][device]") {
  const Case c("C44");
  const Tensor x = fill({1000}).requires_grad_();
  const int64_t before = memory_stats(test_device()).live_bytes;
  for (const bool run : {false, true}) {
    Tensor y = exp(tanh(x));
    retain_grad(y);
    if (run) backward(sum(y));
    CHECK(memory_stats(test_device()).live_bytes > before);
    y = Tensor();
    x.zero_grad();
    CHECK(memory_stats(test_device()).live_bytes == before);
  }
  Tensor z = exp(x);
  z = grad(sum(z * z), x, {.create_graph = true});
  z = Tensor();
  CHECK(memory_stats(test_device()).live_bytes == before);
}

TEST_CASE("C45 ten threads, private leaves and one shared leaf",
          "[conformance_system][conformance_total][device]") {
  const Case c("C45");
  const auto loss = [](const Tensor& x) { return sum((x + 3) * (x + 4) * .5); };
  const Tensor shared = ones64({5, 5}).requires_grad_();
  std::vector<Tensor> own;
  for (int i = 0; i < 10; ++i) own.push_back(ones64({5, 5}).requires_grad_());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 10; ++i) {
    threads.emplace_back([&, i] {
      backward(loss(own[i]));
      backward(loss(shared));
    });
  }
  for (auto& t : threads) t.join();
  CHECK(not_all(shared.grad(), 45) == "");
  for (const Tensor& x : own) CHECK(not_all(x.grad(), 4.5) == "");
}

using Tree = NamedTensors;

Tensor flat(const Tree& tree) {
  std::vector<Tensor> parts;
  for (const auto& [name, t] : tree) parts.push_back(reshape(t, {t.numel()}));
  return parts.empty() ? zeros({0}, DType::float64, test_device()) : concat(parts);
}

Tree unflat(const Tensor& v, const Tree& like) {
  std::vector<int64_t> sizes;
  for (const auto& [name, t] : like) sizes.push_back(t.numel());
  const auto parts = split(v, sizes);
  Tree out;
  for (size_t i = 0; i < like.size(); ++i)
    out.emplace_back(like[i].first, reshape(parts[i], like[i].second.shape()));
  return out;
}

TEST_CASE("C46 named tensors flatten and come back; inner products",
          "[conformance_system][conformance_total][device]") {
  const Case c("C46");
  Tree tree{{"a", number(1)},
            {"b", fill({2, 3})},
            {"c.0", fill({1, 4}, 1)},
            {"c.1.x", number(2)},
            {"c.1.y", fill({4, 2}, 2)}};
  for (const bool with_empty : {false, true}) {
    if (with_empty)
      tree.insert(tree.begin() + 2, {"nothing", zeros({0, 3}, DType::float64, test_device())});
    const Tensor v = flat(tree);
    CHECK(v.numel() == 20);
    CHECK(v.at({0}) == 1);
    CHECK(differs(slice(v, 0, 1, 7), fill({6})) == "");
    const Tree back = unflat(v, tree);
    for (size_t i = 0; i < tree.size(); ++i) {
      CHECK(back[i].first == tree[i].first);
      CHECK(differs(back[i].second, tree[i].second, 0) == "");
    }
    const Tensor x = v.detach().requires_grad_();
    CHECK(not_all(grad(sum(flat(unflat(x, tree))), x), 1) == "");
  }
  CHECK(flat({}).numel() == 0);
  const PinnedLine row = pinned("C46")[0];
  const Tensor a = fill({3, 2});
  const Tensor b = fill({3, 2}, 1);
  const Tensor d = fill({3, 2}, 2);
  const auto inner = [](const Tensor& u, const Tensor& w) { return sum(u * w).item(); };
  CHECK(differs({inner(a, b)}, row.at("inner").numbers()) == "");
  CHECK(differs({inner(1.5 * a, b)}, row.at("inner_scaled").numbers()) == "");
  CHECK(inner(a, b) == inner(b, a));
  CHECK(differs({weigh(flat({{"a", a}, {"b", b}}))}, {7.5}) == "");
  CHECK(differs(a + (b + d), (a + b) + d, 0) == "");
  CHECK(differs(1.5 * (a + b), 1.5 * a + 1.5 * b, 0) == "");
  CHECK(
      differs(matmul(eye(5, DType::float64, test_device()), eye(5, DType::float64, test_device())),
              eye(5, DType::float64, test_device()), 0) == "");
}

TEST_CASE("C47 picking elements one by one grows linearly",
          "[conformance_system][conformance_total][device]") {
  const Case c("C47");
  // Counted, not timed: nodes of the graph and blocks of memory asked for by both passes.
  const auto cost = [](int64_t n, bool at_once) {
    const Tensor x = fill({n}).requires_grad_();
    const int64_t before = memory_stats(test_device()).allocations;
    const auto parts = at_once ? unbind(x) : std::vector<Tensor>();
    Tensor total = number(0);
    for (int64_t i = 0; i < n; ++i)
      total = total + (at_once ? parts[static_cast<size_t>(i)] : select(x, 0, i));
    const auto nodes = static_cast<int64_t>(graph_of(total).size());
    CHECK(not_all(grad(total, x), 1) == "");
    return std::pair(nodes, memory_stats(test_device()).allocations - before);
  };
  for (const bool at_once : {false, true}) {
    const auto small = cost(200, at_once);
    const auto large = cost(2000, at_once);
    CHECK(large.first <= 10 * small.first);
    CHECK(large.second <= 10 * small.second);
    CHECK(large.first >= 5 * small.first);
  }
}

}  // namespace
}  // namespace flowgrad::conformance
