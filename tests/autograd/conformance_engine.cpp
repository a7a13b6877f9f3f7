#include "autograd/conformance.h"

/// Conformance C24 to C41: hooks, freed values, modes, writes, errors.
namespace flowgrad::conformance {
namespace {

TEST_CASE("C24 retain_grad is idempotent and accumulates",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C24");
  const Tensor x = leaf({.1, .2, .3}, {1, 3});
  const Tensor h = x * 3;
  retain_grad(h);
  retain_grad(h);
  const Tensor out = sum(h * h);
  backward(out, {}, true);
  CHECK(differs(h.grad(), {.6, 1.2, 1.8}) == "");
  backward(out, {}, true);
  CHECK(differs(h.grad(), {1.2, 2.4, 3.6}) == "");
  x.zero_grad();
  backward(out);
  CHECK(differs(x.grad(), {1.8, 3.6, 5.4}) == "");
}

TEST_CASE("C25 hooks are called once a pass, and may replace the gradient",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C25");
  const Tensor x = ones64({5, 5}).requires_grad_();
  const Tensor y = full({5, 5}, 4, DType::float64, test_device()).requires_grad_();
  const Tensor cotangent = ones64({5, 5});
  const auto value = [](const Tensor& a, const Tensor& b) { return pow(a, 2) + a * 2 + a * b + b; };
  int calls = 0;
  bool second_is_there = false;
  const Tensor one = tap(value(x, y), [&](const Tensor&) {
    calls += 1;
    return Tensor();
  });
  const Tensor z = tap(one, [&](const Tensor&) {
    if (second_is_there) calls += 2;
    return Tensor();
  });
  backward(z, cotangent, true);
  CHECK(calls == 1);
  second_is_there = true;
  backward(z, cotangent, true);
  CHECK(calls == 4);
  second_is_there = false;
  backward(z, cotangent);
  CHECK(calls == 5);
  const auto doubled = [](const Tensor& g) { return g * 2; };
  y.zero_grad();
  backward(tap(value(x, y), doubled), cotangent);
  CHECK(not_all(y.grad(), 4) == "");
  y.zero_grad();
  backward(tap(value(x, tap(y, doubled)), doubled), cotangent);
  CHECK(not_all(y.grad(), 8) == "");
}

TEST_CASE("C26 one output of many", "[conformance_engine][conformance_total][device]") {
  const Case c("C26");
  const Tensor x = fill({10, 10}).requires_grad_();
  const Tensor g = grad(sum(chunk(x, 5)[2] * 4 + 2), x);
  CHECK(not_all(slice(g, 0, 4, 6), 4) == "");
  CHECK(not_all(slice(g, 0, 0, 4), 0) == "");
  CHECK(not_all(slice(g, 0, 6, 10), 0) == "");
  const Tensor v = fill({5}).requires_grad_();
  CHECK(differs(grad(unbind(v)[2], v), {0, 0, 1, 0, 0}) == "");
}

TEST_CASE("C27 freed values, retained values, nothing to free",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C27");
  const Tensor x = leaf({1, 2, 3});
  const Tensor y = sum(x * x);
  backward(y);
  CHECK(not_raised<GradError>([&] { backward(y); }, "retain_graph") == "");
  CHECK(not_raised<GradError>([&] { grad(y, x); }, "saved values of mul #") == "");
  x.zero_grad();
  const Tensor free_of_saved = x + 1;
  backward(free_of_saved, ones64({3}));
  backward(free_of_saved, ones64({3}));
  const Tensor z = sum(x * x);
  backward(z, {}, true);
  backward(z);
  CHECK(differs(x.grad(), {6, 10, 14}) == "");
}

TEST_CASE("C28 recording is switched by scope", "[conformance_engine][conformance_total][device]") {
  const Case c("C28");
  const Tensor x = leaf({1, 2});
  {
    const NoGrad off;
    const Tensor y = x * x;
    CHECK_FALSE(y.requires_grad());
    CHECK(not_raised<GradError>([&] { backward(sum(y)); }, "does not depend on anything") == "");
    {
      const EnableGrad on;
      CHECK((x * x).requires_grad());
      const NoGrad off_again;
      CHECK_FALSE((x * x).requires_grad());
    }
    CHECK_FALSE((x * x).requires_grad());
  }
  CHECK((x * x).requires_grad());
  try {
    const NoGrad off;
    matmul(x, values({1, 2, 3}));
  } catch (const ShapeError&) {
    CHECK(mode().recording);
  }
  CHECK((x * x).requires_grad());
}

TEST_CASE("C29 a leaf written after it was saved",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C29");
  const Tensor x = leaf({1, 2});
  const Tensor y = leaf({3, 4});
  const Tensor z = sum(x * y);
  CHECK(not_raised<GradError>([&] { copy_(x, x.detach() * 2); }, "in place") == "");
  {
    const NoGrad off;
    copy_(x, x * 2);
  }
  CHECK(differs(x, {2, 4}) == "");
  CHECK(not_raised<GradError>([&] { backward(z); }, "modified in place since by copy_") == "");
  CHECK_FALSE(x.grad().defined());
  CHECK_FALSE(y.grad().defined());
}

TEST_CASE("C30 a saved operand written is an error, another is not",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C30");
  const Tensor x = ones64({5, 5}).requires_grad_();
  const Tensor y = full({5, 5}, 4, DType::float64, test_device()).requires_grad_();
  const Tensor z = x * y;
  const Tensor q = z + y;
  const Tensor w = z * y;
  CHECK(not_raised<GradError>([&] { fill_(z, 2); }, "on the tape") == "");
  fill_(select(z.detach(), 0, 1), 2);  // through a view: the version is the storage's
  backward(q, ones64({5, 5}), true);
  CHECK(not_all(x.grad(), 4) == "");
  CHECK(not_all(y.grad(), 2) == "");
  CHECK(not_raised<GradError>(
            [&] {
              backward(w, ones64({5, 5}));
            },
            "modified in place since by fill_") == "");
  CHECK(not_raised<GradError>([&] { backward(w, ones64({5, 5})); }, "mul #") == "");
  CHECK(not_all(x.grad(), 4) == "");
}

TEST_CASE("C31 a detached branch counts for nothing",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C31");
  const Tensor x = leaf(3);
  const Tensor y = x + detach(2 * x);
  CHECK(differs(y, {9}) == "");
  CHECK(differs(grad(y, x), {1}) == "");
  // There is no detaching in place: the one way to it is refused.
  const Tensor rows = fill({2, 2}).requires_grad_() * 1;
  CHECK(not_raised<GradError>([&] { select(rows, 0, 0).requires_grad_(false); }, "use detach()") ==
        "");
}

TEST_CASE("C32 orders through a stopped gradient",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C32");
  const auto f = [](const Tensor& x) { return sin(x) * cos(detach(x)); };
  CHECK(differs(derivatives(f, 3.14, 2), {0.9999974634566875, 0.0015926508965689952}) == "");
}

TEST_CASE("C33 writing through views becomes slice_scatter",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C33");
  const auto doubled_row = [](const Tensor& x) {
    return slice_scatter(x, slice(x, 0, 0, 1) * 2, 0, 0, 1);
  };
  const auto doubled_element = [](const Tensor& x) {
    const Tensor row = slice(x, 0, 0, 1);
    return slice_scatter(x, slice_scatter(row, slice(row, 1, 1, 2) * 2, 1, 1, 2), 0, 0, 1);
  };
  const Tensor base = fill({2, 2}).requires_grad_();
  CHECK(differs(grad(sum(doubled_row(base)), base), values({2, 2, 1, 1}, {2, 2})) == "");
  CHECK(differs(grad(sum(doubled_element(base)), base), values({1, 2, 1, 1}, {2, 2})) == "");
  const Tensor wide = fill({2, 3});
  const Tensor tall = transpose(wide).detach().requires_grad_();
  REQUIRE_FALSE(tall.is_contiguous());
  CHECK(differs(grad(sum(doubled_element(tall)), tall), values({1, 2, 1, 1, 1, 1}, {3, 2})) == "");
  // The in-place form is refused, on the base and on its views.
  const Tensor x = base * 1;
  CHECK(not_raised<GradError>(
            [&] {
              copy_(slice(x, 0, 0, 1), values({1, 2}, {1, 2}));
            },
            "slice_scatter") == "");
}

TEST_CASE("C34 writes into leaves and into one output of many are refused",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C34");
  const Tensor x = fill({2, 3}).requires_grad_();
  CHECK(not_raised<GradError>([&] { fill_(x, 5); }, "fill_: the tensor of shape (2, 3)") == "");
  CHECK(not_raised<GradError>(
            [&] {
              copy_(x, fill({2, 3}, 1));
            },
            "copy_: the tensor of shape (2, 3)") == "");
  CHECK(not_raised<GradError>([&] { fill_(unbind(x * 1)[0], 2); }, "on the tape") == "");
  CHECK(differs(x, fill({2, 3})) == "");
}

TEST_CASE("C35 assignment to elements becomes scatter and where",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C35");
  const auto rows = pinned("C35");
  const auto check = [&](size_t i, const Shape& shape, const Shape& part, auto&& put) {
    for (const bool tracked : {false, true}) {
      const Tensor x = fill(shape).requires_grad_();
      const Tensor value =
          full(part, tracked ? 7 : 2, DType::float64, test_device()).requires_grad_(tracked);
      const Tensor y = sum(put(x + 2, value));
      CHECK(differs(grad(y, x, {.retain_graph = true}), rows[i].at("dx").numbers()) == "");
      if (tracked) CHECK(not_all(grad(y, value), 1) == "");
    }
  };
  check(0, {5, 5}, {1, 5},
        [](const Tensor& y, const Tensor& v) { return slice_scatter(y, v, 0, 1, 2); });
  check(1, {1}, {1}, [](const Tensor& y, const Tensor& v) { return slice_scatter(y, v, 0, 0, 1); });
  // y[[0, 4, 2]] = v: where the index points, v; else y.
  const auto put_flat = [](const Tensor& index) {
    return [index](const Tensor& y, const Tensor& v) {
      const Tensor flat = reshape(y, {y.numel()});
      const Tensor there = index_add(zeros_like(flat.detach()), 0, index, v);
      const Tensor mask = index_add(zeros_like(flat.detach()), 0, index, ones_like(v.detach()));
      return reshape(where(greater(mask, 0), there, flat), y.shape());
    };
  };
  check(2, {10}, {3}, put_flat(indices({0, 4, 2})));
  check(3, {5, 5}, {2}, put_flat(indices({2, 22})));
  const Tensor x = fill({4}).requires_grad_();
  const Tensor y =
      slice_scatter(zeros({2, 3, 4}, DType::float64, test_device()), expand(x, {1, 3, 4}), 0, 1, 2);
  CHECK(differs(grads(y, {x}, fill({2, 3, 4}, 1))[0], rows[4].at("dx").numbers()) == "");
}

TEST_CASE("C36 rows assigned from tracked tensors",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C36");
  const Tensor y = fill({5}).requires_grad_();
  const Tensor z = fill({5}, 1).requires_grad_();
  const Tensor x = fill({5, 5}, 2);
  Tensor out = slice_scatter(x, reshape(y, {1, 5}), 0, 0, 1);
  out = slice_scatter(out, reshape(2 * z, {1, 5}), 0, 1, 2);
  const auto g = grad(sum(out), {y, z});
  CHECK(not_all(g[0], 1) == "");
  CHECK(not_all(g[1], 2) == "");
  // A write from a tracked tensor would lose its gradient: refused, and nothing is written.
  CHECK(not_raised<GradError>([&] { copy_(select(x, 0, 0), y); }, "its gradient would be lost") ==
        "");
  CHECK(differs(x, fill({5, 5}, 2)) == "");
}

TEST_CASE("C37 a deep chain (a thousand here; a million in engine_scale)",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C37");
  const Tensor x = leaf(1);
  Tensor y = clone(x);
  for (int i = 0; i < 1000; ++i) y = y + y * 0.000001;
  CHECK(differs(y, {1.0010004996662079}) == "");
  CHECK(differs(grad(y, x), {1.0010004996662079}) == "");
}

/// x * 2 whose rule misbehaves as asked.
Tensor broken(const Tensor& x, const std::string& kind) {
  return custom_vjp(
      "broken", [](std::span<const Tensor> in) { return std::vector<Tensor>{in[0] * 2}; },
      [kind](std::span<const Tensor> g, std::span<const Tensor>,
             std::span<const Tensor>) -> std::vector<Tensor> {
        if (kind == "raise") throw std::runtime_error("Simulate error on backward pass");
        if (kind == "count") return {};
        if (kind == "dtype")
          return {Tensor::from(std::vector<int64_t>(25, 1), {5, 5}, DType::int64, test_device())};
        return {kind == "nan" ? g[0] * std::nan("") : ones64({10})};
      },
      std::span(&x, 1))[0];
}

TEST_CASE("C38 anomaly mode names the operation and the place",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C38");
  const Tensor x = ones64({5, 5}).requires_grad_();
  const Anomaly on;
  CHECK(not_raised<GradError>([&] { backward(sum(broken(x, "nan"))); },
                              "the gradient that broken #") == "");
  CHECK(not_raised<GradError>([&] { backward(sum(broken(x, "nan"))); },
                              "gave its input 0 has nan at element 0") == "");
  CHECK(not_raised<GradError>([&] { sqrt(x - 2); }, "the value of sqrt #") == "");
  CHECK(not_raised<GradError>([&] { sqrt(x - 2); }, "(output 0) has") == "");
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("C39 errors of a rule, and gradients of a wrong shape",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C39");
  const Tensor x = ones64({5, 5}).requires_grad_();
  const auto run = [&](const char* kind) { return [&x, kind] { backward(sum(broken(x, kind))); }; };
  CHECK(not_raised<std::runtime_error>(run("raise"), "Simulate error on backward pass") == "");
  CHECK(not_raised<GradError>(run("shape"), "expected shape (5, 5) float64") == "");
  CHECK(not_raised<GradError>(run("shape"), "broken #") == "");
  CHECK(not_raised<GradError>(run("dtype"), "int64; expected shape (5, 5) float64") == "");
  CHECK(not_raised<GradError>(run("count"), "broken: the rule returned 0 gradients for 1 inputs") ==
        "");
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("C40 comparisons, positions and integers have no gradient",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C40");
  const Tensor x = leaf({-1, 2, 3});
  CHECK_FALSE(greater(x, 0).requires_grad());
  CHECK_FALSE(argmax(x, 0).requires_grad());
  CHECK_FALSE(max_with_index(x, 0).second.requires_grad());
  CHECK_FALSE(sort(x).second.requires_grad());
  CHECK_FALSE(cast(x, DType::int64).requires_grad());
  CHECK(max_with_index(x, 0).first.requires_grad());
  CHECK(not_raised<DTypeError>([] { indices({1, 2}).requires_grad_(); }, "int64") == "");
  CHECK(not_raised<DTypeError>([&] { greater(x, 0).detach().requires_grad_(); }, "bool") == "");
  // The comparison adds nothing to the gradient of what it selects.
  CHECK(differs(grad(sum(where(greater(x, 0), x, zeros_like(x))), x), {0, 1, 1}) == "");
  CHECK(differs(grad(sum(cast(greater(x, 0), DType::float64) * x), x), {0, 1, 1}) == "");
  CHECK(differs(grad(sum(floor(x) * x), x), {-1, 2, 3}) == "");
}

TEST_CASE("C41 a rule for one order refuses the second by every way",
          "[conformance_engine][conformance_total][device]") {
  const Case c("C41");
  const Function once = [](const Tensor& x) {
    return sum(custom_vjp(
        "once_square",
        [](std::span<const Tensor> in) { return std::vector<Tensor>{in[0] * in[0]}; },
        [](std::span<const Tensor> g, std::span<const Tensor> in, std::span<const Tensor>) {
          return std::vector<Tensor>{g[0] * in[0] * 2};
        },
        std::span(&x, 1), true)[0]);
  };
  const Tensor at = values({3, 4});
  CHECK(differs(value_and_grad(once, at).derivative, {6, 8}) == "");
  const std::string words = "once_square: this operation can be differentiated once only";
  const Tensor x = leaf({3, 4});
  CHECK(not_raised<GradError>([&] { grad(sum(grad(once(x), x, {.create_graph = true})), x); },
                              words) == "");
  CHECK(not_raised<GradError>([&] { backward(sum(grad(once(x), x, {.create_graph = true}))); },
                              words) == "");
  CHECK(not_raised<GradError>([&] { hessian(once, at); }, words) == "");
  CHECK(not_raised<GradError>([&] { hvp(once, at, at); }, words) == "");
  CHECK(not_raised<GradError>([&] { jvp(once, at, at); }, words) == "");
}

}  // namespace
}  // namespace flowgrad::conformance
