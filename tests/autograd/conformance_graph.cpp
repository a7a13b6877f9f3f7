#include "autograd/conformance.h"

/// Conformance C01 to C23: expressions, fan-out, several roots, higher orders.
namespace flowgrad::conformance {
namespace {

const std::vector<double> kFirst{0.1, -0.2, 0.3, 0.4, -0.5};

TEST_CASE("C01 the expression of micrograd's sanity check",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C01");
  const Tensor x = leaf(-4);
  const Tensor z = 2 * x + 2 + x;
  const Tensor q = relu(z) + z * x;
  const Tensor h = relu(z * z);
  const Tensor y = h + q + q * x;
  CHECK(differs(y, {-20}) == "");
  CHECK(differs(grad(y, x), {46}) == "");
}

TEST_CASE("C02 micrograd's longer expression", "[conformance_graph][conformance_total][device]") {
  const Case pass("C02");
  const Tensor a = leaf(-4);
  const Tensor b = leaf(2);
  Tensor c = a + b;
  Tensor d = a * b + pow(b, 3);
  c = c + c + 1;
  c = c + 1 + c - a;
  d = d + d * 2 + relu(b + a);
  d = d + 3 * d + relu(b - a);
  const Tensor e = c - d;
  const Tensor f = pow(e, 2);
  const Tensor g = f / 2 + 10 / f;
  CHECK(differs(g, {24.70408163265306}) == "");
  const auto got = grad(g, {a, b});
  CHECK(differs(got[0], {138.83381924198252}) == "");
  CHECK(differs(got[1], {645.5772594752186}) == "");
}

TEST_CASE("C03 a product with a sine of a square",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C03");
  const Tensor x = leaf(1.3);
  const Tensor y = (x + sin(pow(x, 2))) * x;
  CHECK(differs(y, {2.9807747464223544}) == "");
  CHECK(differs(grad(y, x), {3.1909487468715687}) == "");
}

TEST_CASE("C04 four orders of sin(sin x + sin x)",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C04");
  const auto f = [](const Tensor& x) { return sin(sin(x) + sin(x)); };
  CHECK(differs(derivatives(f, 0.7, 4), {0.4262065991457747, -2.606262451288969, 4.255055252163501,
                                         14.863635035426968}) == "");
}

TEST_CASE("C05 six orders of the reciprocal", "[conformance_graph][conformance_total][device]") {
  const Case c("C05");
  const std::vector<double> want{-.0625, .03125, -.0234375, .0234375, -.029296875, .0439453125};
  CHECK(differs(derivatives([](const Tensor& x) { return 1 / x; }, 4, 6), want) == "");
  CHECK(differs(derivatives([](const Tensor& x) { return reciprocal(x); }, 4, 6), want) == "");
  CHECK(differs(derivatives([](const Tensor& x) { return pow(x, -1); }, 4, 6), want) == "");
}

TEST_CASE("C06 three orders of exp", "[conformance_graph][conformance_total][device]") {
  const Case c("C06");
  const double e = 2.718281828459045;
  CHECK(differs(derivatives([](const Tensor& x) { return exp(x); }, 1, 3), {e, e, e}) == "");
}

TEST_CASE("C07 identity and constant functions", "[conformance_graph][conformance_total][device]") {
  const Case c("C07");
  const auto identity = [](const Tensor& x) { return x; };
  const auto constant = [](const Tensor&) { return number(1); };
  CHECK(differs(value_and_grad(identity, number(2)).derivative, {1}) == "");
  CHECK(differs(hessian(identity, number(2)), {0}) == "");
  CHECK(differs(value_and_grad(constant, number(2)).derivative, {0}) == "");
  CHECK(differs(hessian(constant, number(2)), {0}) == "");
  // The tape itself: the gradient of a leaf with respect to itself.
  const Tensor x = leaf(2);
  CHECK(differs(grad(x, x), {1}) == "");
}

TEST_CASE("C08 a cotangent used in two places is not overwritten",
          "[conformance_graph][conformance_total][device]") {
  const Case pass("C08");
  const Tensor a = leaf(kFirst);
  const Tensor b = a + 1;
  const Tensor c = b + 1.5;
  const Tensor d = a + b;
  CHECK(not_all(grad(sum(d + c), a), 3) == "");
}

TEST_CASE("C09 the same through an index", "[conformance_graph][conformance_total][device]") {
  const Case pass("C09");
  const Tensor a = leaf(kFirst);
  const Tensor b = a + 1;
  const Tensor c = select(b, 0, 0) + 1.5;
  CHECK(differs(grad(sum(a + b + c), a), {7, 2, 2, 2, 2}) == "");
}

TEST_CASE("C10 one cotangent shared by three chains",
          "[conformance_graph][conformance_total][device]") {
  const Case pass("C10");
  const Tensor x = ones64({5, 5}).requires_grad_();
  const Tensor y = ones64({5, 5}).requires_grad_();
  Tensor a = x + 2, b = y + 2, c = x + 2;
  const Tensor s = a + b + c;
  for (int i = 0; i < 4; ++i) {
    a = a * 2;
    b = b * 2;
    c = c * 2;
  }
  const Tensor cotangent = ones64({5, 5});
  const auto g = grads(s + a + b + c, {x, y}, cotangent);
  CHECK(not_all(g[0], 34) == "");
  CHECK(not_all(g[1], 17) == "");
  CHECK(not_all(cotangent, 1) == "");
}

TEST_CASE("C11 a gradient inside a gradient, through an enclosing variable",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C11");
  const Tensor x = leaf(2);
  const auto inner = [&](const Tensor& y) { return x * y; };
  const Tensor y = x * value_and_grad(inner, number(2), true).derivative;
  CHECK(differs(y, {4}) == "");
  CHECK(differs(grad(y, x), {4}) == "");
}

TEST_CASE("C12 a captured tensor equal to the argument is not the argument",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C12");
  for (const Tensor& a : {number(5), leaf(5)}) {
    const Function both = [&](const Tensor&) { return a + a; };
    const Function one = [&](const Tensor& x) { return a + x; };
    const Function none = [&](const Tensor& x) { return x + x; };
    CHECK(differs(value_and_grad(both, a).derivative, {0}) == "");
    CHECK(differs(value_and_grad(one, a).derivative, {1}) == "");
    CHECK(differs(value_and_grad(none, a).derivative, {2}) == "");
    for (const Function& f : {both, one, none}) CHECK(differs(hessian(f, a), {0}) == "");
  }
}

TEST_CASE("C13 several roots add; a root given twice counts twice",
          "[conformance_graph][conformance_total][device]") {
  const Case pass("C13");
  const auto rows = pinned("C13");
  std::vector<Tensor> in;
  for (int k = 0; k < 4; ++k) in.push_back(fill({2, 2}, k).requires_grad_());
  const Tensor q2 = in[1] * 2;
  const std::vector<Tensor> roots{in[0] + q2, in[2] * in[3] + q2};
  const std::vector<Tensor> cotangents{fill({2, 2}, 4), fill({2, 2}, 5)};
  const auto g = grad(roots, in, cotangents);
  const char* names[] = {"dx", "dq", "da", "db"};
  for (size_t i = 0; i < 4; ++i) CHECK(differs(g[i], rows[0].at(names[i]).numbers()) == "");
  const Tensor y = in[2] * in[3];
  const std::vector<Tensor> twice{y, y};
  const std::vector<Tensor> same{cotangents[0], cotangents[0]};
  const std::vector<Tensor> factors{in[2], in[3]};
  const auto h = grad(twice, factors, same);
  CHECK(differs(h[0], rows[1].at("da_twice").numbers()) == "");
  CHECK(differs(h[1], rows[1].at("db_twice").numbers()) == "");
  CHECK(differs(cotangents[0], fill({2, 2}, 4)) == "");
}

TEST_CASE("C14 roots of which one depends on the other",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C14");
  const Tensor x = leaf({1, 2});
  const Tensor y = pow(x, 2);
  const std::vector<Tensor> roots{y, pow(y, 3)};
  const std::vector<Tensor> cotangents{values({1, 1}), values({.5, .5})};
  CHECK(differs(grad(roots, std::span(&x, 1), cotangents)[0], {5, 100}) == "");
}

TEST_CASE("C15 gradients of non-leaves that are outputs of one node",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C15");
  const Tensor x = fill({4, 2}).requires_grad_();
  const Tensor cotangent = fill({2, 2}, 1);
  const auto parts = chunk(x, 2);
  const auto g = grads(parts[0] + 2 * parts[1], {parts[0], parts[1]}, cotangent);
  CHECK(differs(g[0], {.25, -.75, 1, 0}) == "");
  CHECK(differs(g[1], {.5, -1.5, 2, 0}) == "");
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("C16 a loss differentiated in shards", "[conformance_graph][conformance_total][device]") {
  const Case c("C16");
  for (const PinnedLine& row : pinned("C16")) {
    const double start = row.at("l").number();
    std::vector<Tensor> leaves, v;
    Tensor loss;
    for (int i = 0; i < 10; ++i) {
      leaves.push_back(full({5, 5}, start, DType::float64, test_device()).requires_grad_());
      v.push_back(leaves.back() * i + leaves.back() * leaves.back());
      const Tensor term = sum(v.back() * i);
      loss = loss.defined() ? loss + term : term;
    }
    std::vector<Tensor> shards;
    for (size_t i = 0; i < 10; i += 2) {
      for (const Tensor& g : grad(loss, {v[i], v[i + 1]}, {.retain_graph = true}))
        shards.push_back(g);
    }
    backward(v, shards);
    const auto want = row.at("leaf_grads").numbers();
    for (size_t i = 0; i < 10; ++i) CHECK(not_all(leaves[i].grad(), want[i]) == "");
  }
}

TEST_CASE("C17 an input that the output does not reach",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C17");
  const Tensor x = leaf({3});
  const Tensor y = leaf({1});
  const Tensor out = x * 2;
  const auto g = grad(out, {x, y}, {.allow_unused = true});
  CHECK(differs(g[0], {2}) == "");
  CHECK_FALSE(g[1].defined());
  CHECK(not_raised<GradError>([&] { grad(out, {x, y}); }, "do not depend on input 1") == "");
  CHECK(not_raised<GradError>([&] { grad(out, {x, y}); }, "allow_unused") == "");
}

TEST_CASE("C18 gradients accumulate in the leaf's own buffer",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C18");
  const Tensor x = fill({5, 5}).requires_grad_();
  const Tensor y = x + 2;
  backward(y, ones64({5, 5}), true);
  const Tensor first = x.grad();
  CHECK(not_all(first, 1) == "");
  // grad() with create_graph leaves the stored gradient alone; backward() has no such option.
  const Tensor recorded = grads(x * x, {x}, ones64({5, 5}))[0];
  CHECK(differs(recorded, 2 * fill({5, 5})) == "");
  CHECK(not_all(x.grad(), 1) == "");
  backward(y, ones64({5, 5}));
  CHECK(not_all(x.grad(), 2) == "");
  CHECK(x.grad().raw() == first.raw());
  CHECK_FALSE(x.grad().requires_grad());
}

TEST_CASE("C19 a Hessian times a vector by two gradients",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C19");
  const Tensor x = fill({2, 2}).requires_grad_();
  const Tensor y = fill({2, 2}, 1).requires_grad_();
  const auto g = grad(sum(pow(x, 2) + y * x + pow(y, 2)), {x, y}, {.create_graph = true});
  const auto h = grad(sum(2 * g[0] + g[1]), {x, y});
  CHECK(not_all(h[0], 5) == "");
  CHECK(not_all(h[1], 4) == "");
}

TEST_CASE("C20 the Hessian of a quadratic form", "[conformance_graph][conformance_total][device]") {
  const Case c("C20");
  const Tensor h = values({1, 2, 3, 4}, {2, 2});
  const auto form = [&](const Tensor& x) { return matmul(x, matmul(h, x)); };
  CHECK(differs(hessian(form, values({.5, -1})), values({2, 5, 5, 8}, {2, 2})) == "");
}

TEST_CASE("C21 a Jacobian, and by vjp and jvp", "[conformance_graph][conformance_total][device]") {
  const Case c("C21");
  const auto f = [](const Tensor& x) { return pow(x, 3) + sum(x); };
  const Tensor at = values({1, 2, 3});
  const std::vector<double> want{4, 1, 1, 1, 13, 1, 1, 1, 28};
  CHECK(differs(jacobian(f, at), want) == "");
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor unit = select(eye(3, DType::float64, test_device()), 0, i);
    const std::vector<double> line(want.begin() + 3 * i, want.begin() + 3 * i + 3);
    CHECK(differs(vjp(f, at, unit).derivative, line) == "");
    CHECK(differs(jvp(f, at, unit).derivative, line) == "");  // symmetric
  }
}

TEST_CASE("C22 a Hessian with an input that does not matter",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C22");
  const auto f = [](const Tensor& x) { return 3 * sum(exp(slice(x, 0, 0, 3))); };
  const Tensor at = values({.1, .2, .3, .4});
  const Tensor want = diag(values({3.315512754226943, 3.66420827448051, 4.049576422728009, 0}));
  CHECK(differs(hessian(f, at), want) == "");
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(differs(hvp(f, at, select(eye(4, DType::float64, test_device()), 0, i)),
                  select(want, 0, i)) == "");
  }
}

TEST_CASE("C23 a Jacobian of a Jacobian, differentiated",
          "[conformance_graph][conformance_total][device]") {
  const Case c("C23");
  const PinnedLine row = pinned("C23")[0];
  const Function f = [](const Tensor& x) { return sin(outer(x, x)) + cos(sum(x * x)); };
  const Function first = [&](const Tensor& x) { return jacobian(f, x, true); };
  const Function second = [&](const Tensor& x) { return jacobian(first, x, true); };
  const Tensor x = leaf({.3, -.7});
  CHECK(differs(f(x), row.at("f").numbers()) == "");
  CHECK(first(x).shape() == Shape{2, 2, 2});
  CHECK(second(x).shape() == Shape{2, 2, 2, 2});
  CHECK(differs(first(x), row.at("jacobian").numbers()) == "");
  CHECK(differs(second(x), row.at("second").numbers()) == "");
  CHECK(differs(grad(sum(sin(first(x))), x), row.at("grad_sum_sin_jacobian").numbers()) == "");
  CHECK(differs(grad(sum(sin(second(x))), x), row.at("grad_sum_sin_second").numbers(), 1e-11) ==
        "");
}

}  // namespace
}  // namespace flowgrad::conformance
