#include <limits>

#include "autograd/conformance.h"
#include "flowgrad/autograd/gradcheck.h"

/// Transforms, own rules and taps against numbers worked out by hand.
namespace flowgrad::conformance {
namespace {

using Many = std::vector<Tensor>;

TEST_CASE("vjp, jvp and value_and_grad", "[transforms_values]") {
  // f(a, b) = (a b, a^2, sin b): Jacobian (b, a), (2a, 0), (0, cos b).
  const Function f = [](const Tensor& x) {
    const Tensor a = select(x, 0, 0);
    const Tensor b = select(x, 0, 1);
    return stack({a * b, a * a, sin(b)});
  };
  const Tensor at = values({2, .5});
  const auto v = vjp(f, at, values({1, 10, 100}));
  CHECK(differs(v.value, {1, 4, std::sin(.5)}) == "");
  CHECK(differs(v.derivative, {.5 + 40, 2 + 100 * std::cos(.5)}) == "");
  const auto u = jvp(f, at, values({1, 10}));
  CHECK(differs(u.value, {1, 4, std::sin(.5)}) == "");
  CHECK(differs(u.derivative, {.5 + 20, 4, 10 * std::cos(.5)}) == "");
  CHECK(differs(jacobian(f, at), values({.5, 2, 4, 0, 0, std::cos(.5)}, {3, 2})) == "");
  const auto g = value_and_grad([&](const Tensor& x) { return sum(f(x)); }, at);
  CHECK(differs(g.value, {5 + std::sin(.5)}) == "");
  CHECK(differs(g.derivative, {.5 + 4, 2 + std::cos(.5)}) == "");
  for (const Tensor& t : {v.value, v.derivative, u.value, u.derivative, g.value, g.derivative})
    CHECK_FALSE(t.requires_grad());
}

TEST_CASE("hessian, hvp and their derivatives", "[transforms_values]") {
  // f = a^2 b + b^3: gradient (2ab, a^2 + 3b^2), Hessian ((2b, 2a), (2a, 6b)).
  const Function f = [](const Tensor& x) {
    const Tensor a = select(x, 0, 0);
    const Tensor b = select(x, 0, 1);
    return a * a * b + pow(b, 3);
  };
  const Tensor at = values({3, 5});
  CHECK(differs(hessian(f, at), values({10, 6, 6, 30}, {2, 2})) == "");
  CHECK(differs(hvp(f, at, values({1, 2})), {22, 66}) == "");
  // d/dx of the trace 2b + 6b, and of v^T H v, on the tape.
  const Tensor x = leaf({3, 5});
  CHECK(differs(grad(sum(diag(hessian(f, x, true))), x), {0, 8}) == "");
  const Tensor v = leaf({1, 2});
  const Tensor form = sum(v * hvp(f, x, v, true));
  const auto g = grad(form, {x, v});
  CHECK(differs(g[0], {8, 2 + 24}) == "");
  CHECK(differs(g[1], {44, 132}) == "");
  // Matrices: sizes twice.
  const Tensor m = fill({2, 3});
  const Tensor h = hessian([](const Tensor& t) { return sum(t * t * t) / 6; }, m);
  CHECK(h.shape() == Shape{2, 3, 2, 3});
  CHECK(differs(reshape(h, {6, 6}), diag(reshape(m, {6}))) == "");
}

TEST_CASE("jacobian of shapes, of constants, of nothing", "[transforms_values]") {
  const Function f = [](const Tensor& x) { return outer(x, x); };
  const Tensor j = jacobian(f, values({1, 2}));
  CHECK(j.shape() == Shape{2, 2, 2});
  CHECK(differs(j, {2, 0, 2, 1, 2, 1, 0, 4}) == "");
  CHECK(differs(jacobian([](const Tensor&) { return ones64({3}); }, values({1, 2})),
                zeros({3, 2}, DType::float64)) == "");
  CHECK(jacobian([](const Tensor& x) { return slice(x, 0, 0, 0); }, values({1, 2})).shape() ==
        Shape{0, 2});
  CHECK(differs(jacobian([](const Tensor& x) { return sum(x); }, number(2)), number(1)) == "");
  CHECK(
      differs(
          jvp([](const Tensor&) { return ones64({3}); }, values({1, 2}), values({1, 1})).derivative,
          {0, 0, 0}) == "");
  CHECK(differs(vjp([](const Tensor& x) { return x; }, values({1, 2}), values({3, 4})).derivative,
                {3, 4}) == "");
}

TEST_CASE("Jacobians of rows", "[transforms_values]") {
  const Tensor w = fill({3, 2});
  const Function f = [&](const Tensor& t) { return sin(matmul(t, transpose(w))); };
  const Tensor x = fill({4, 2}).requires_grad_();
  const Tensor j = batch_jacobian(f, x), whole = jacobian(f, x);  // (4, 3, 2), (4, 3, 4, 2)
  REQUIRE(j.shape() == Shape{4, 3, 2});
  CHECK_FALSE(j.requires_grad());
  for (int64_t n = 0; n < 4; ++n)
    CHECK(differs(select(j, 0, n), select(select(whole, 2, n), 0, n).to_vector<double>(), 0) == "");
  // On the tape: the gradient of sum J^2, J = cos(x w^T) w, in x.
  const Tensor a = matmul(x, transpose(w));
  const Tensor wanted = grad(sum(square(cos(a)) * sum(square(w), {1})), x);
  CHECK(differs(grad(sum(square(batch_jacobian(f, x, true))), x), wanted.to_vector<double>(),
                1e-12) == "");
  CHECK(batch_jacobian(f, fill({0, 2})).shape() == Shape{0, 3, 2});
  CHECK(not_raised<ShapeError>([&] { batch_jacobian([](const Tensor& t) { return sum(t); }, x); },
                               "(N, D) to (N, M)") == "");
}

TEST_CASE("transforms refuse what does not fit", "[transforms_values]") {
  const Function f = [](const Tensor& x) { return x * 2; };
  const Tensor x = fill({2, 3});
  CHECK(not_raised<ShapeError>(
            [&] {
              vjp(f, x, fill({3, 2}));
            },
            "vjp: the cotangent v is (3, 2) float64; it must be like f(x), (2, 3) float64") == "");
  CHECK(not_raised<ShapeError>(
            [&] { jvp(f, x, fill({2})); },
            "jvp: the direction u is (2,) float64; it must be like x, (2, 3) float64") == "");
  CHECK(not_raised<ShapeError>([&] { hvp(f, x, fill({2})); }, "hvp: v is (2,)") == "");
  CHECK(not_raised<ShapeError>(
            [&] { value_and_grad(f, x); },
            "value_and_grad: f returned shape (2, 3); a single element is accepted") == "");
  CHECK(not_raised<ShapeError>([&] { hessian(f, x); }, "a single element is accepted") == "");
  CHECK(not_raised<ShapeError>([&] { divergence(f, fill({3})); }, "both must be the same (N, D)") ==
        "");
  CHECK(not_raised<ShapeError>(
            [&] {
              hutchinson_divergence(f, x, fill({3, 2}));
            },
            "the probe is (3, 2)") == "");
  CHECK(not_raised<DTypeError>(
            [&] {
              jacobian(f, indices({1, 2}));
            },
            "jacobian: x is int64") == "");
}

TEST_CASE("divergence of rows, exact and estimated", "[transforms_values]") {
  // f(x) = x A^T + (x0 x1) e_0: divergence trace A + x1.
  const Tensor a = values({1, 2, 3, 4, 5, 6, 7, 8, 9}, {3, 3});
  const Function f = [&](const Tensor& x) {
    const Tensor product = unsqueeze(select(x, 1, 0) * select(x, 1, 1), 1);
    return matmul(x, transpose(a)) + pad(product, {{0, 0}, {0, 2}});
  };
  const Tensor x = leaf({1, 2, 3, -1, .5, 2}, {2, 3});
  const auto d = divergence(f, x, true);
  CHECK(differs(d.derivative, {17, 15.5}) == "");
  CHECK(differs(d.value, f(x)) == "");
  CHECK(differs(grad(sum(d.derivative), x), {0, 1, 0, 0, 1, 0}) == "");
  CHECK_FALSE(divergence(f, x).derivative.requires_grad());
  CHECK_FALSE(divergence(f, x).value.requires_grad());
  // e^T J e with e = (1, -1, 2): (sum of e_i A_ij e_j) + e0 (x1 e0 + x0 e1).
  const Tensor probe = values({1, -1, 2, 1, -1, 2}, {2, 3});
  const double form = 1 - 2 + 6 - 4 + 5 - 12 + 14 - 16 + 36;
  const auto h = hutchinson_divergence(f, x, probe, true);
  CHECK(differs(h.derivative, {form + 2 - 1, form + .5 + 1}) == "");
  CHECK(differs(grad(sum(h.derivative), x), {-1, 1, 0, -1, 1, 0}) == "");
  // Several probes share one evaluation.
  const Tensor other = values({0, 1, 0, 1, 0, 0}, {2, 3});
  const auto two = hutchinson_divergence(f, x, stack({probe, other}), true);
  CHECK(two.derivative.shape() == Shape{2, 2});
  CHECK(differs(select(two.derivative, 1, 0), h.derivative) == "");
  CHECK(differs(select(two.derivative, 1, 1), {5, 1.5}) == "");
  CHECK(differs(grad(sum(select(two.derivative, 1, 0)), x), {-1, 1, 0, -1, 1, 0}) == "");
  // All eight sign vectors average to the trace.
  double total = 0;
  for (int bits = 0; bits < 8; ++bits) {
    const auto sign_of = [bits](int i) { return bits >> i & 1 ? 1.0 : -1.0; };
    total += hutchinson_divergence(f, values({1, 2, 3}, {1, 3}),
                                   values({sign_of(0), sign_of(1), sign_of(2)}, {1, 3}))
                 .derivative.item();
  }
  CHECK(differs({total / 8}, {17}) == "");
}

TEST_CASE("an own rule: values, every order, parts left out", "[transforms_values]") {
  const MultiFunction value = [](std::span<const Tensor> in) {
    return Many{exp(in[0]) * in[1], in[1] * 3};
  };
  const VjpRule rule = [](auto g, auto in, auto out) {
    return Many{g[0] * out[0], g[0] * exp(in[0]) + g[1] * 3};
  };
  const MultiFunction own = [&](std::span<const Tensor> in) {
    return custom_vjp("own", value, rule, in);
  };
  const Many at{values({.2, -.4}), values({1.5, 2})};
  const auto checked = gradcheck(own, at, {.order = 3});
  INFO(checked.message);
  CHECK(checked.passed);
  // An unused output has the cotangent zero, an undefined answer is no gradient.
  const Many in{leaf({.2, -.4}), leaf({1.5, 2})};
  CHECK(differs(grad(sum(own(in)[1]), in[1]), {3, 3}) == "");
  const VjpRule first_only = [](auto g, auto, auto out) { return Many{g[0] * out[0], Tensor()}; };
  const Tensor y = custom_vjp("half", value, first_only, in)[0];
  const auto g = grad(sum(y), {in[0], in[1]}, {.allow_unused = true});
  CHECK(differs(g[0], exp(in[0]) * in[1]) == "");
  CHECK_FALSE(g[1].defined());
  // Off the tape the rule is not asked, and the forward function never records.
  bool recorded = true;
  const MultiFunction watching = [&](std::span<const Tensor> v) {
    recorded = mode().recording || v[0].requires_grad();
    return Many{v[0] * 2};
  };
  const VjpRule never = [](auto, auto, auto) -> Many { throw std::runtime_error("asked"); };
  CHECK_FALSE(custom_vjp("off", watching, never, at)[0].requires_grad());
  CHECK_FALSE(recorded);
  // The identity: a new tensor, not the input's own place on the tape.
  const VjpRule tripled = [](auto g2, auto, auto) { return Many{g2[0] * 3}; };
  const MultiFunction same = [](std::span<const Tensor> v) { return Many{v[0]}; };
  CHECK(differs(grad(sum(custom_vjp("same", same, tripled, std::span(in.data(), 1))[0]), in[0]),
                {3, 3}) == "");
}

TEST_CASE("an own rule for one order: every way to the second is refused", "[transforms_values]") {
  const MultiFunction value = [](std::span<const Tensor> in) { return Many{in[0] * in[1]}; };
  const VjpRule rule = [](auto g, auto in, auto) { return Many{g[0] * in[1], g[0] * in[0]}; };
  const Many in{leaf({1, 2}), leaf({3, 4})};
  const Tensor weight = leaf({5, 6});
  const Tensor y = sum(custom_vjp("once_product", value, rule, in, true)[0] * weight);
  const auto g = grad(y, {in[0], in[1]}, {.create_graph = true});
  CHECK(differs(g[0], {15, 24}) == "");
  CHECK(differs(g[1], {5, 12}) == "");
  const std::string words = "once_product: this operation can be differentiated once only";
  // The other input, the same input, and the cotangent.
  for (const Tensor& t : {in[1], in[0], weight}) {
    CHECK(not_raised<GradError>([&] { grad(sum(g[0]), t, {.retain_graph = true}); }, words) == "");
  }
  // Without a graph of the gradient nothing stands in the way.
  CHECK(differs(grad(sum(custom_vjp("once_product", value, rule, in, true)[0]), in[0]), {3, 4}) ==
        "");
}

TEST_CASE("a function with an integer result has no slope", "[transforms_values]") {
  const auto floor_of = [](const Tensor& t) { return cast(t, DType::int64); };
  const Tensor x = values({1, 2});
  const ValueAndDerivative r = jvp(floor_of, x, values({1, 1}));
  CHECK(r.value.to_vector<int64_t>() == std::vector<int64_t>{1, 2});
  CHECK(r.derivative.to_vector<int64_t>() == std::vector<int64_t>{0, 0});
}

TEST_CASE("gradcheck says what it was given", "[transforms_values]") {
  const MultiFunction root = [](std::span<const Tensor> in) {
    return std::vector<Tensor>{sqrt(in[0])};
  };
  const std::vector<Tensor> x{values({-1, 1})};
  for (const int order : {-1, 0, 4}) {
    CHECK(not_raised<ValueError>([&] { gradcheck(root, x, {.order = order}); },
                                 "gradcheck: order = " + std::to_string(order) + " given") == "");
  }
  CHECK(gradcheck(root, x).message.find("NaN") != std::string::npos);
}

TEST_CASE("taps see, replace and refuse gradients", "[transforms_values]") {
  const Tensor x = leaf({1, 2});
  Tensor seen;
  const auto watch = [&](const Tensor& g) {
    seen = g;
    return Tensor();
  };
  CHECK(differs(grad(sum(tap(x * 3, watch) * values({5, 7})), x), {15, 21}) == "");
  CHECK(differs(seen, {5, 7}) == "");
  CHECK(differs(grad(sum(tap(x, [](const Tensor& g) { return clamp(g * 10, -1, 15); })), x),
                {10, 10}) == "");
  CHECK(
      not_raised<GradError>([&] { grad(sum(tap(x, [](const Tensor&) { return number(2); })), x); },
                            "expected shape (2,)") == "");
  CHECK(not_raised<GradError>(
            [&] { grad(sum(tap(x, [](const Tensor&) { return ones64({3}); })), x); }, "tap #") ==
        "");
  CHECK(not_raised<GradError>(
            [&] {
              grad(sum(tap(x, [](const Tensor&) { return ones64({3, 2}); })), x);
            },
            "returned a gradient of shape (3, 2); expected shape (2,)") == "");
  // With a graph of the gradient, what the hook does is differentiated too.
  const auto cubic = [](const Tensor& t) {
    return sum(tap(t * t, [](const Tensor& g) { return g * g; }) * t.detach());
  };
  const Tensor g = grad(cubic(x), x, {.create_graph = true});
  CHECK(differs(g, {2, 16}) == "");  // 2x (c)^2 with c = x off the tape
  CHECK(differs(grad(sum(g), x), {2, 8}) == "");
  // Many taps on one tensor each run once a pass.
  int calls = 0;
  const auto count = [&](const Tensor&) {
    ++calls;
    return Tensor();
  };
  const Tensor t = tap(x, count);
  grad(sum(t * t + t), x);
  CHECK(calls == 1);
  CHECK_FALSE(tap(x.detach(), count).requires_grad());
}

TEST_CASE("transforms inside transforms keep their levels apart", "[transforms_values]") {
  // d/dx [x d/dy (x y^2)] at x = 3, y = x: d/dx (x 2 x x0) with the inner point x0 = x.
  const Function f = [](const Tensor& x) {
    const Function inner = [&](const Tensor& y) { return x * y * y; };
    return x * value_and_grad(inner, x, true).derivative;
  };
  CHECK(differs(value_and_grad(f, number(3)).derivative, {54}) == "");  // x * 2x * x = 2 x^3
  // Without create_graph the inner derivative is a number.
  const Function g = [](const Tensor& x) {
    return x * value_and_grad([&](const Tensor& y) { return x * y * y; }, x).derivative;
  };
  CHECK(differs(value_and_grad(g, number(3)).derivative, {18}) == "");
  // Three levels, and inside NoGrad.
  const Function cube = [](const Tensor& x) { return x * x * x; };
  const Function d1 = [&](const Tensor& x) { return value_and_grad(cube, x, true).derivative; };
  const Function d2 = [&](const Tensor& x) { return value_and_grad(d1, x, true).derivative; };
  const NoGrad off;
  CHECK(differs(value_and_grad(d2, number(2)).derivative, {6}) == "");
  CHECK(differs(hessian(cube, number(2)), {12}) == "");
  CHECK_FALSE(mode().recording);
}

}  // namespace
}  // namespace flowgrad::conformance
