#include "autograd/conformance.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/core/allocator.h"

/// checkpoint(): the same bits with less memory, whatever surrounds it.
namespace flowgrad::conformance {
namespace {

using Many = std::vector<Tensor>;

struct Layer {
  Tensor w = fill({4, 4}, 1).requires_grad_();
  Tensor b = fill({4}, 2).requires_grad_();
  Tensor operator()(const Tensor& x) const { return tanh(linear(x, w, b)) + x; }
};

TEST_CASE("gradients of captured parameters have the same bits", "[transforms_checkpoint]") {
  const Layer layer;
  const Tensor x = fill({3, 4}).requires_grad_();
  const Function f = [&](const Tensor& t) { return layer(layer(t)); };
  const auto run = [&](const Tensor& y) { return grad(sum(y * y), {x, layer.w, layer.b}); };
  const auto plain = run(f(x));
  const auto kept = run(checkpoint(f, x));
  for (size_t i = 0; i < 3; ++i) CHECK(differs(kept[i], plain[i], 0) == "");
  // An input that asks for nothing: the parameters still get theirs.
  const Tensor constant = fill({3, 4});
  CHECK(differs(grad(sum(checkpoint(f, constant)), layer.w), grad(sum(f(constant)), layer.w), 0) ==
        "");
  // backward() into the leaves.
  backward(sum(checkpoint(f, x)));
  const Tensor stored = clone(layer.w.grad());
  layer.w.zero_grad();
  backward(sum(f(x)));
  CHECK(differs(stored, layer.w.grad(), 0) == "");
}

TEST_CASE("several inputs and outputs, some unused", "[transforms_checkpoint]") {
  const Many in{fill({2, 3}).requires_grad_(), fill({2, 3}, 1).requires_grad_(), fill({2, 3}, 2)};
  const MultiFunction f = [](std::span<const Tensor> v) {
    return Many{v[0] * v[1], exp(v[1] * v[2]), v[0] + 1};
  };
  const auto run = [&](const Many& y) {
    return grad(sum(y[0] * y[2]) + sum(y[1]), {in[0], in[1]});
  };
  const auto plain = run(f(in));
  const auto kept = run(checkpoint(f, in));
  for (size_t i = 0; i < 2; ++i) CHECK(differs(kept[i], plain[i], 0) == "");
  const auto only = checkpoint(f, in);
  CHECK(differs(grad(sum(only[1]), in[1]), grad(sum(f(in)[1]), in[1]), 0) == "");
}

TEST_CASE("higher orders, twice over one graph, and as an intermediate",
          "[transforms_checkpoint]") {
  const Function f = [](const Tensor& t) { return sin(t) * exp(t) / (t * t + 1); };
  const auto orders = [&](const Function& g, int n) { return derivatives(g, .7, n); };
  const Function kept = [&](const Tensor& t) { return checkpoint(f, t); };
  CHECK(differs(orders(kept, 4), orders(f, 4)) == "");
  const Function nested = [&](const Tensor& t) {
    return checkpoint([&](const Tensor& u) { return checkpoint(f, checkpoint(f, u) * 2); }, t);
  };
  const Function flat = [&](const Tensor& t) { return f(f(t) * 2); };
  CHECK(differs(orders(nested, 3), orders(flat, 3)) == "");
  const Tensor x = leaf({.1, .2});
  const Tensor y = sum(checkpoint(f, x));
  const Tensor first = grad(y, x, {.retain_graph = true});
  CHECK(differs(grad(y, x, {.retain_graph = true}), first, 0) == "");
  CHECK(differs(grad(y, x), first, 0) == "");
  CHECK(not_raised<GradError>([&] { grad(y, x); }, "were freed by an earlier pass") == "");
  const Tensor h = x * 3;
  const Tensor z = sum(checkpoint(f, h) * h);
  CHECK(differs(grad(z, h), grad(sum(f(h) * h), h), 0) == "");
}

TEST_CASE("a transform inside, and inside a transform", "[transforms_checkpoint]") {
  const Function energy = [](const Tensor& t) { return sum(pow(t, 3) + sin(t)); };
  const Function force = [&](const Tensor& t) {
    return value_and_grad(energy, t, true).derivative;
  };
  const Tensor x = leaf({.3, -.6});
  CHECK(differs(grad(sum(checkpoint(force, x)), x), grad(sum(force(x)), x)) == "");
  const Function kept = [&](const Tensor& t) { return checkpoint(energy, t); };
  const Tensor at = values({.3, -.6});
  CHECK(differs(hessian(kept, at), hessian(energy, at)) == "");
  CHECK(differs(jvp(kept, at, at).derivative, jvp(energy, at, at).derivative) == "");
}

TEST_CASE("dropout is replayed, and the generator goes on where it was",
          "[transforms_checkpoint]") {
  const Tensor x = fill({50}).requires_grad_();
  const auto run = [&](bool keep) {
    Generator g(5), other(6);
    const Function noisy = [&](const Tensor& t) {
      return dropout(sin(t), .5, g) + t * rand({50}, g, DType::float64);
    };
    const Function inner = [&](const Tensor& t) { return keep ? checkpoint(noisy, t) : noisy(t); };
    const Function outer = [&](const Tensor& t) {
      return inner(inner(t) + 1) * rand({50}, other, DType::float64);
    };
    const Tensor y = keep ? checkpoint(outer, x) : outer(x);
    rand({3}, g);
    const auto s = std::pair(g.stream(), other.stream());
    const Tensor d = grad(sum(y * y), x);
    CHECK(std::pair(g.stream(), other.stream()) == s);
    return d.to_vector<double>();
  };
  CHECK(differs(run(true), run(false), 0) == "");
}

TEST_CASE("a second run that draws more than the first is refused", "[transforms_checkpoint]") {
  Generator g(5);
  bool again = false;
  const Tensor x = fill({4}).requires_grad_();
  const Function f = [&](const Tensor& t) {
    Tensor y = sin(t) * rand({4}, g, DType::float64);
    return again ? y * rand({4}, g, DType::float64) : y;
  };
  const Tensor y = sum(checkpoint(f, x));
  again = true;
  CHECK(not_raised<GradError>([&] { grad(y, x); }, "drew more when it was run again, by rand") ==
        "");
}

TEST_CASE("less than half the bytes, and no more than before afterwards",
          "[transforms_checkpoint]") {
  const Tensor x = full({20000}, .5, DType::float64).requires_grad_();
  const auto peak = [&](int block) {
    const int64_t before = memory_stats().live_bytes;
    reset_peak_memory();
    {
      Tensor y = x;
      for (int i = 0; i < 50; i += block) {
        const Function f = [block](const Tensor& t) {
          Tensor u = t;
          for (int k = 0; k < block; ++k) u = sin(u);
          return u;
        };
        y = block > 1 ? checkpoint(f, y) : f(y);
      }
      grad(sum(y), x);
    }
    CHECK(memory_stats().live_bytes == before);
    return memory_stats().peak_bytes - before;
  };
  const int64_t plain = peak(1);
  CHECK(2 * peak(5) < plain);
  CHECK(2 * peak(10) < plain);
}

TEST_CASE("nothing is recorded, nothing is kept, nothing is called twice",
          "[transforms_checkpoint]") {
  int calls = 0;
  const Function f = [&](const Tensor& t) {
    ++calls;
    return sin(t);
  };
  const Tensor x = leaf({1, 2});
  {
    const NoGrad off;
    CHECK_FALSE(checkpoint(f, x).requires_grad());
  }
  CHECK(calls == 1);
  const Tensor y = checkpoint(f, x);
  CHECK(calls == 2);
  grad(sum(y), x);
  CHECK(calls == 3);
  CHECK_FALSE(checkpoint(f, x.detach()).requires_grad());
}

TEST_CASE("what has changed since is an error, not a wrong number", "[transforms_checkpoint]") {
  const Layer layer;
  const Tensor x = fill({3, 4}).requires_grad_();
  const Function f = [&](const Tensor& t) { return layer(t); };
  Tensor y = sum(checkpoint(f, x));
  fill_(x.detach(), 1);
  CHECK(not_raised<GradError>(
            [&] { backward(y); },
            "checkpoint: input 0 of shape (3, 4) was modified in place since by fill_") == "");
  // A captured parameter.
  y = sum(checkpoint(f, x));
  fill_(layer.w.detach(), 1);
  CHECK(not_raised<GradError>([&] { backward(y); },
                              "saved (4, 4) float64; modified in place since by fill_") == "");
  CHECK_FALSE(layer.b.grad().defined());
  // One that no rule saves.
  y = sum(checkpoint(f, x));
  fill_(layer.b.detach(), 1);
  CHECK(not_raised<GradError>([&] { backward(y); }, "modified in place since by fill_") == "");
  // Other work the second time.
  int calls = 0;
  const Function moody = [&](const Tensor& t) { return ++calls == 1 ? sin(sin(t)) : sin(t); };
  y = sum(checkpoint(moody, x));
  CHECK(not_raised<GradError>([&] { backward(y); },
                              "kept 1 values when it was run again, 2 before") == "");
}

TEST_CASE("a draw after a gradient that the function takes itself", "[transforms_checkpoint]") {
  const Tensor x = fill({20}).requires_grad_();
  const auto gradient = [&](bool saved) {
    Generator draws(3), others(4);
    const Function f = [&](const Tensor& t) {
      const Tensor h = dropout(t, .2, draws);
      const Tensor g = grad(sum(h * h * h), h, {.create_graph = true});
      return dropout(dropout(g, .5, draws), .5, draws) * dropout(t, .5, others);
    };
    const Tensor y = saved ? checkpoint(f, x) : f(x);
    return std::pair{grad(sum(y * y), x), y};
  };
  const auto [got, value] = gradient(true);
  const auto [want, plain] = gradient(false);
  CHECK(differs(value, plain, 0) == "");
  CHECK(differs(got, want, 0) == "");
}

TEST_CASE("an exception in the second run leaves everything as it was", "[transforms_checkpoint]") {
  Generator g(9);
  int calls = 0;
  bool fail = true;
  const Tensor x = fill({20}).requires_grad_();
  const Function f = [&](const Tensor& t) {
    const Tensor h = dropout(sin(t), .5, g);
    if (++calls > 1 && fail) throw std::runtime_error("planned");
    return h * h;
  };
  const Tensor y = sum(checkpoint(f, x));
  const uint64_t stream = g.stream();
  CHECK(not_raised<std::runtime_error>([&] { grad(y, x, {.retain_graph = true}); }, "planned") ==
        "");
  CHECK(g.stream() == stream);
  CHECK(checkpoint_scope() == nullptr);
  CHECK(mode().recording);
  // The second attempt sees the same masks.
  fail = false;
  const Tensor got = grad(y, x);
  Generator again(9);
  const Tensor h = dropout(sin(x), .5, again);
  CHECK(differs(got, grad(sum(h * h), x), 0) == "");
}

}  // namespace
}  // namespace flowgrad::conformance
