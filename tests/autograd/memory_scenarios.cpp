#include <cstdio>

#include "autograd/conformance.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/core/allocator.h"

/// What is in use returns to where it was, whatever happens on the way.
namespace flowgrad::conformance {
namespace {

using Numbers = std::vector<double>;

/// Tensors that live through all scenarios.
struct World {
  World() {
    for (const Shape& s : {Shape{4, 3}, Shape{4}, Shape{2, 4}, Shape{2}}) {
      start.push_back(fill(s, static_cast<int64_t>(start.size())));
      parameters.push_back(clone(start.back()).requires_grad_());
    }
  }
  std::vector<Tensor> start, parameters;
  Tensor x = fill({5, 3}, 7);
  Tensor square = fill({3, 3}, 2);
  Tensor image = fill({1, 2, 4, 4}, 1);
  Tensor kernel = fill({2, 2, 3, 3}, 3);
  Generator generator{3};
};

Tensor network(World& w, const Tensor& x) {
  const auto& p = w.parameters;
  return linear(tanh(linear(x, p[0], p[1])), p[2], p[3]);
}

void add_numbers(Numbers& out, const Tensor& t) {
  for (double v : t.to_vector<double>()) out.push_back(v);
}

/// Takes the gradients out of the parameters.
Numbers gradients(World& w) {
  Numbers out;
  for (const Tensor& p : w.parameters) {
    if (p.grad().defined()) add_numbers(out, p.grad());
    p.zero_grad();
  }
  return out;
}

Numbers training_step(World& w) {
  for (size_t i = 0; i < w.start.size(); ++i) copy_(w.parameters[i].detach(), w.start[i]);
  Numbers out;
  for (int step = 0; step < 8; ++step) {
    backward(mse_loss(network(w, w.x), zeros({5, 2}, DType::float64)));
    const NoGrad off;
    std::vector<Tensor> next;
    for (const Tensor& p : w.parameters) next.push_back(p - p.grad() * .1);
    for (size_t i = 0; i < next.size(); ++i) copy_(w.parameters[i], next[i]);
    out = gradients(w);
  }
  for (size_t i = 0; i < w.start.size(); ++i) copy_(w.parameters[i].detach(), w.start[i]);
  return out;
}

Numbers second_order(World& w) {
  const Tensor y = sum(square(network(w, w.x)));
  const auto g = grad(y, {w.parameters[0], w.parameters[2]}, {.create_graph = true});
  backward(sum(g[0] * g[0]) + sum(g[1]));
  return gradients(w);
}

Numbers checkpointed(World& w) {
  w.generator.set_state(3, 0);
  const Function f = [&](const Tensor& t) { return dropout(network(w, t), .3, w.generator); };
  const Tensor y = checkpoint(f, w.x);
  backward(sum(y * y));
  return gradients(w);
}

Numbers nested_checkpoints(World& w) {
  const Function inner = [](const Tensor& t) { return sin(t) * t; };
  const Function outer = [&](const Tensor& t) {
    return checkpoint(inner, checkpoint(inner, t) + 1);
  };
  const Tensor x = w.x.detach().requires_grad_();
  const Tensor g = grad(sum(checkpoint(outer, x)), x, {.create_graph = true});
  Numbers out;
  add_numbers(out, grad(sum(g * g), x));
  return out;
}

Numbers exception_inside(World& w) {
  const Tensor h = tap(network(w, w.x), [](const Tensor&) -> Tensor { throw Planned("planned"); });
  const Tensor kept = h * 2;
  retain_grad(kept);
  try {
    backward(sum(kept * kept));
  } catch (const Planned&) {
    return gradients(w);
  }
  return {-1};
}

Numbers unused_outputs(World& w) {
  const Tensor x = w.x.detach().requires_grad_();
  const auto parts = split(x, {1, 2}, 1);
  const auto best = topk(x, 2);
  const auto order = sort(parts[1]);
  Numbers out;
  add_numbers(out, grad(sum(best.first * best.first) + sum(parts[0]), x));
  return out;
}

Numbers views(World& w) {
  const Tensor x = w.x.detach().requires_grad_();
  const Tensor y = transpose(slice(x, 0, 1, 5, 2));
  const Tensor z = slice_scatter(expand(y, {2, 3, 2}), reshape(y, {1, 3, 2}) * 2, 0, 1, 2);
  Numbers out;
  add_numbers(out, grad(sum(z * z) + sum(as_strided(x, {3, 3}, {1, 1}, 2)), x));
  return out;
}

Numbers matrices_of_derivatives(World& w) {
  const Function f = [&](const Tensor& t) { return sum(network(w, reshape(t, {1, 3})) * 2); };
  const Tensor at = values({.1, .2, .3});
  const Function g = [](const Tensor& t) { return prod(sin(t) + 2) + logsumexp(outer(t, t)); };
  Numbers out;
  add_numbers(out, hessian(g, values({.1, .2, .3, .4, .5})));
  add_numbers(out, hessian(f, at));
  add_numbers(out, jacobian([](const Tensor& t) { return softmax(t); }, at));
  add_numbers(out, jvp(f, at, at).derivative);
  add_numbers(out, hvp(f, at, at));
  return out;
}

Numbers own_rule(World& w) {
  const MultiFunction value = [](std::span<const Tensor> in) {
    return std::vector<Tensor>{in[0] * in[1], exp(in[0])};
  };
  const VjpRule rule = [](auto g, auto in, auto out) {
    return std::vector<Tensor>{g[0] * in[1] + g[1] * out[1], g[0] * in[0]};
  };
  const std::vector<Tensor> in{w.x.detach().requires_grad_(), fill({5, 3}, 4).requires_grad_()};
  const auto y = custom_vjp("own", value, rule, in);
  const Tensor t = tap(y[0] + y[1], [](const Tensor& g) { return g * 2; });
  Numbers out;
  for (const Tensor& g : grad(sum(t * t), {in[0], in[1]})) add_numbers(out, g);
  return out;
}

Numbers retained(World& w) {
  const Tensor h = network(w, w.x);
  retain_grad(h);
  const Tensor y = sum(h * h);
  backward(y, {}, true);
  backward(y, {}, true);
  backward(y);
  Numbers out = gradients(w);
  add_numbers(out, h.grad());
  return out;
}

Numbers dropped(World& w) {
  const Tensor y = network(w, w.x);
  const Tensor g = grad(sum(y * y), w.parameters[0], {.create_graph = true});
  Numbers out;
  add_numbers(out, y);
  return out;
}

Numbers layers(World& w) {
  const Tensor k = w.kernel.detach().requires_grad_();
  const Tensor y = avg_pool2d(conv2d(w.image, k, {}, {.padding = 1}), 2);
  const Tensor n = layer_norm(reshape(y, {2, 4}), {4});
  const Tensor q = matmul(softmax(matmul(n, transpose(n))), n);
  Numbers out;
  add_numbers(out, grad(cross_entropy(q, indices({1, 3})), k));
  return out;
}

Numbers linear_algebra(World& w) {
  const Tensor a = (w.square + 4 * eye(3, DType::float64)).requires_grad_();
  const Tensor s = matmul(a, transpose(a));
  const Tensor y = sum(solve(a, w.square)) + slogdet(a).second + det(s) * 1e-3 + sum(cholesky(s)) +
                   sum(inverse(a));
  Numbers out;
  add_numbers(out, grad(y, a));
  return out;
}

Numbers indexing(World& w) {
  const Tensor x = w.x.detach().requires_grad_();
  const Tensor rows = embedding(x, indices({0, 4, 4, 2}), 2);
  const Tensor y =
      scatter_max(rows, 0, Tensor::from(std::vector<int64_t>{0, 1, 1}, {1, 3}), slice(x, 0, 0, 1));
  Numbers out;
  add_numbers(
      out,
      grad(sum(cumprod(y, 0)) + sum(index_add(x, 0, indices({1, 1}), slice(x, 0, 0, 2)) * x), x));
  return out;
}

Numbers tower(World& w) {
  Tensor h = w.x.detach().requires_grad_();
  const Tensor x = h;
  for (int i = 0; i < 16; ++i) {
    h = h + silu(layer_norm(matmul(h, w.square), {3})) * .1;
    if (i % 3 == 0) h = concat({slice(h, 0, 2, 5), flip(slice(h, 0, 0, 2), {1})});
    if (i % 4 == 1) h = where(greater(h, 0), log1p(abs(h)), cumsum(h, 1));
  }
  const Tensor g = grad(logsumexp(h), x, {.create_graph = true});
  Numbers out;
  add_numbers(out, grad(sum(g * g), x));
  return out;
}

Numbers traces(World& w) {
  const Function f = [&](const Tensor& t) { return tanh(matmul(softplus(t), w.square)) * t; };
  const Tensor x = w.x.detach().requires_grad_();
  const Tensor exact = sum(square(divergence(f, x, true).derivative));
  const Tensor probe = sum(hutchinson_divergence(f, x, ones64({5, 3}), true).derivative);
  Numbers out;
  add_numbers(out, grad(exact + probe, x));
  return out;
}

Numbers overwritten(World& w) {
  const Tensor h = tanh(network(w, w.x));
  const Tensor y = sum(h * h);
  fill_(h.detach(), 1);
  try {
    backward(y);
  } catch (const GradError&) {
    return gradients(w);
  }
  return {-1};
}

const std::vector<std::pair<const char*, Numbers (*)(World&)>> kScenarios{
    {"training step", training_step},
    {"second order", second_order},
    {"checkpoint with dropout", checkpointed},
    {"nested checkpoints, second order", nested_checkpoints},
    {"exception inside backward", exception_inside},
    {"unused outputs", unused_outputs},
    {"views", views},
    {"Jacobian and Hessian", matrices_of_derivatives},
    {"own rule and tap", own_rule},
    {"retained graph and gradient", retained},
    {"graph dropped", dropped},
    {"convolution, norm, attention, loss", layers},
    {"linear algebra", linear_algebra},
    {"indexing", indexing},
    {"tower of layers, second order", tower},
    {"divergences, differentiated", traces},
    {"overwritten value", overwritten},
};

TEST_CASE("live bytes return to the baseline after every scenario", "[memory_scenarios]") {
  World w;
  CHECK(kScenarios.size() >= 12);
  for (const auto& [name, run] : kScenarios) {
    INFO(name);
    const Numbers first = run(w);
    const int64_t before = memory_stats().live_bytes;
    for (int i = 0; i < 5; ++i) {
      CHECK(differs(run(w), first, 0) == "");
      CHECK(memory_stats().live_bytes == before);
    }
  }
}

TEST_CASE("the k-th allocation fails, for every k", "[memory_scenarios]") {
  World w;
  int points = 0;
  for (const auto& [name, run] : kScenarios) {
    const Numbers want = run(w);
    const int64_t before = memory_stats().live_bytes;
    bool failed = true;
    int64_t last = 0;
    for (int64_t k = 1; failed; ++k) {
      failed = false;
      std::string what;
      fail_allocation_after(k);
      try {
        run(w);
      } catch (const Error& e) {
        failed = true;
        what = e.what();
      }
      fail_allocation_after(0);
      if (!failed) break;
      ++points;
      INFO(name << ", allocation " << k << ": " << what);
      last = k;
      const bool typed = what.find("out of memory on cpu") != std::string::npos;
      gradients(w);  // of a pass that had ended before
      const bool clean = memory_stats().live_bytes == before;
      bool unchanged = true;
      for (size_t i = 0; i < w.start.size(); ++i) {
        unchanged =
            unchanged && (run == training_step || differs(w.parameters[i], w.start[i], 0).empty());
      }
      const bool works = differs(run(w), want, 0).empty() && memory_stats().live_bytes == before;
      if (typed && clean && unchanged && works && mode().recording && !checkpoint_scope()) continue;
      FAIL(name << ", allocation " << k << ": typed " << typed << ", no leak " << clean
                << ", parameters unchanged " << unchanged << ", next step works " << works << ": "
                << what);
    }
    std::printf("%6lld %s\n", static_cast<long long>(last), name);
  }
  std::printf("failed allocations: %d points in %zu scenarios\n", points, kScenarios.size());
  CHECK(points >= 2000);
}

TEST_CASE("an allocation that fails in the backward pass changes no gradient",
          "[memory_scenarios]") {
  World w;
  int points = 0;
  for (const bool accumulate : {false, true}) {
    for (int64_t k = 1;; ++k) {
      gradients(w);
      if (accumulate) backward(sum(network(w, w.x)));
      Numbers want;
      for (const Tensor& p : w.parameters) {
        if (p.grad().defined()) add_numbers(want, p.grad());
      }
      // The bias is a leaf that many cotangents reach without a copy.
      const Tensor h = network(w, w.x) + w.parameters[3];
      retain_grad(h);
      const Tensor y = sum(h + w.parameters[3]);
      fail_allocation_after(k);
      bool failed = false;
      try {
        backward(y);
      } catch (const Error&) {
        failed = true;
      }
      fail_allocation_after(0);
      if (!failed) break;
      ++points;
      Numbers got;
      for (const Tensor& p : w.parameters) {
        if (p.grad().defined()) add_numbers(got, p.grad());
      }
      CHECK(differs(got, want, 0) == "");
      CHECK_FALSE(h.grad().defined());
    }
  }
  CHECK(points >= 12);
}

}  // namespace
}  // namespace flowgrad::conformance
