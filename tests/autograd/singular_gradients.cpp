// Derivatives where a formula divides by zero, meets an infinity or steps over an integer.
#include <limits>
#include <numeric>

#include "autograd/conformance.h"
#include "flowgrad/autograd/gradcheck.h"

namespace flowgrad::conformance {
namespace {

constexpr double kFar = std::numeric_limits<double>::infinity();

TEST_CASE("the slope of a remainder in its divisor is the quotient that the value belongs to",
          "[singular_gradients][device]") {
  // 1 / 0.1 and 6 / 0.2 round up to the next integer; the remainder knows better.
  const std::vector<double> a{1, 6, -7, 7, 2, -2, 2, -1e-20, 0};
  const std::vector<double> b{.1, .2, 3, -3, -kFar, kFar, kFar, 1, 3};
  const std::vector<double> wanted{-9, -29, 3, 3, 1, 1, 0, 1, 0};
  for (const DType dtype : {DType::float64, DType::float32}) {
    const Tensor divisor = cast(values(b), dtype).requires_grad_();
    const Tensor y = remainder(cast(values(a), dtype), divisor);
    CHECK(differs(cast(grad(sum(y), divisor), DType::float64), wanted) == "");
  }
}

TEST_CASE("a zero cotangent wins over an infinite derivative, of the first and the second order",
          "[singular_gradients][device]") {
  using Function = std::function<Tensor(const Tensor&)>;
  const std::vector<std::pair<const char*, Function>> functions{
      {"sqrt", [](const Tensor& t) { return sqrt(t); }},
      {"rsqrt", [](const Tensor& t) { return rsqrt(t); }},
      {"log", [](const Tensor& t) { return log(t); }},
      {"log1p", [](const Tensor& t) { return log1p(t - 1.0); }},
      {"asin", [](const Tensor& t) { return asin(1.0 - t); }},
      {"acos", [](const Tensor& t) { return acos(1.0 - t); }},
      {"acosh", [](const Tensor& t) { return acosh(t + 1.0); }},
      {"atanh", [](const Tensor& t) { return atanh(1.0 - t); }},
      {"pow", [](const Tensor& t) { return pow(t, 0.5); }},
      {"reciprocal", [](const Tensor& t) { return reciprocal(t); }},
      {"2 / x", [](const Tensor& t) { return 2.0 / t; }},
      {"1 / x", [](const Tensor& t) { return number(1) / t; }},
      {"x / x", [](const Tensor& t) { return t / t; }}};
  for (const auto& [name, f] : functions) {
    const Tensor x = leaf({0, 1}), at_one = leaf({1, 1});
    Tensor y = where(greater(x, 0.0), f(x), number(0)), wanted = f(at_one);
    for (int order = 1; order <= 2; ++order) {
      INFO(name << ", order " << order);
      y = grad(sum(y), x, {.create_graph = true});
      wanted = grad(sum(wanted), at_one, {.create_graph = true});
      CHECK(y.at({0}) == 0);
      CHECK(y.at({1}) == wanted.at({1}));
    }
  }
  // What is linear in a cotangent has its slope at a cotangent of 0 too.
  const Tensor x = leaf({1, 2}), g = leaf({0, 0}), y = 1.0 / x;
  const auto slopes = grad({&y, 1}, {&x, 1}, {&g, 1}, {.create_graph = true});
  CHECK(differs(grad(sum(slopes[0]), g), {-1, -.25}) == "");
}

TEST_CASE("a flat part wins over an infinite cotangent, of the first and the second order",
          "[singular_gradients][device]") {
  const auto slopes = [](const std::function<Tensor(const Tensor&)>& f, std::vector<double> at) {
    const Tensor x = leaf(at);
    const Tensor first = grad(sum(f(x)), x, {.create_graph = true});
    CHECK(grad(sum(first), x).at({0}) == 0);
    return first;
  };
  CHECK(differs(slopes([](const Tensor& x) { return sqrt(relu(x)); }, {-1, 0, 4}), {0, 0, .25}) ==
        "");
  CHECK(differs(slopes([](const Tensor& x) { return 1.0 / relu(x); }, {-1, 4}), {0, -.0625}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return sqrt(clamp(x, 0, 1e9)); }, {-1, 0, 4}),
                {0, kFar, .25}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return acos(clamp(2 * x, -1, 1)); }, {-1, 4}),
                {0, 0}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return atanh(hardtanh(x)); }, {-1, 0, 4}),
                {0, 1, 0}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return sqrt(norm(x, {}, 3)); }, {0, 0}), {0, 0}) ==
        "");
  const Tensor factor = leaf({2, 0});
  const Tensor states = linear_scan(factor, values({1, 0}), 0);
  CHECK(grad(sum(sqrt(states)), factor).at({0}) == 0);
}

TEST_CASE("a power of a subnormal number with exponent 0 has no slope",
          "[singular_gradients][device]") {
  const Tensor x = leaf({1e-310, 2});
  CHECK(differs(grad(sum(pow(x, values({0, 0}))), x), {0, 0}) == "");
}

TEST_CASE("small determinants do not overflow or cancel on the way", "[singular_gradients]") {
  const auto of = [](std::vector<double> v, int64_t n, DType dtype) {
    return det(Tensor::from(v, {n, n}, dtype)).item();
  };
  CHECK(of({1e200, 2e200, 3e200, 4e200}, 2, DType::float64) == -kFar);
  CHECK(of({1e20, 2e20, 3e20, 4e20}, 2, DType::float32) == -kFar);
  CHECK(of({1e150, 2, 3, 4e-150}, 2, DType::float64) == Catch::Approx(-2).epsilon(1e-14));
  // Entries beside 1e6 whose minors cancel: the same matrix scaled down by elimination.
  const double big = 1 << 20;
  CHECK(of({big + 1, big, big, big, big + 1, big, big, big, big + 1}, 3, DType::float64) ==
        Catch::Approx(3 * big + 1).epsilon(1e-9));
  const Tensor singular = leaf({1, 2, 2, 4}, {2, 2});
  CHECK(det(singular).item() == 0);
  CHECK(differs(reshape(grad(det(singular), singular), {4}), {4, -2, -2, 1}) == "");
}

/// (n, n) of rank `rank`.
Tensor of_rank(int64_t n, int64_t rank, Generator& g) {
  const Tensor left = randn({n, rank}, g, DType::float64, test_device());
  return matmul(left, randn({rank, n}, g, DType::float64, test_device())) / static_cast<double>(n);
}

TEST_CASE("derivatives of the determinant of a singular matrix of many rows",
          "[singular_gradients]") {
  Generator g(1);
  constexpr int64_t n = 12;
  // Of a batch whose ranks differ, the cofactors are determinants of minors.
  const Tensor a = stack({of_rank(n, n, g), of_rank(n, n - 1, g), of_rank(n, n - 3, g)}, 0);
  std::vector<int64_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  const auto without = [&](const Tensor& t, int axis, int64_t i) {
    std::vector<int64_t> others = all;
    others.erase(others.begin() + i);
    return index_select(t, axis, indices(others));
  };
  std::vector<Tensor> cofactors;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      cofactors.push_back(det(without(without(a, 1, i), 2, j)) * ((i + j) % 2 == 0 ? 1.0 : -1.0));
  }
  const Tensor x = a.detach().requires_grad_();
  const Tensor error = grad(sum(det(x)), x) - reshape(stack(cofactors, 1), {3, n, n});
  CHECK(max(abs(error)).item() < 1e-13);
  // One and two ranks less: all slopes of the gradient, and of its gradient.
  for (const int64_t rank : {n - 1, n - 2}) {
    const GradcheckResult r =
        gradcheck([](const Tensor& t) { return det(t); }, of_rank(n, rank, g), {.order = 3});
    INFO(r.message);
    CHECK(r);
  }
  // Not singular, only small in one place.
  std::vector<double> graded(n * n), wanted(n * n);
  for (size_t i = 0; i < n; ++i) {
    graded[i * (n + 1)] = i == 0 ? 1e-9 : 1;
    wanted[i * (n + 1)] = i == 0 ? 1 : 1e-9;
  }
  const Tensor d = leaf(graded, {n, n});
  CHECK(differs(grad(det(d), d), values(wanted, {n, n})) == "");
  const Tensor nothing = leaf(std::vector<double>(n * n), {n, n});
  CHECK(max(abs(grad(det(nothing), nothing))).item() == 0);
}

TEST_CASE("second derivatives are infinite where the first are, at the ends of a domain",
          "[singular_gradients][device]") {
  const auto bend = [](auto f) {
    const Tensor x = leaf({-1, 1});
    return grad(sum(grad(sum(f(x)), x, {.create_graph = true})), x);
  };
  CHECK(differs(bend([](const Tensor& t) { return asin(t); }), {-kFar, kFar}) == "");
  CHECK(differs(bend([](const Tensor& t) { return acos(t); }), {kFar, -kFar}) == "");
  CHECK(differs(bend([](const Tensor& t) { return atanh(t); }), {-kFar, kFar}) == "");
  const Tensor end = leaf(1.0);
  CHECK(grad(grad(acosh(end), end, {.create_graph = true}), end).item() == -kFar);
}

TEST_CASE("atan2 has no slope at the origin, and none that is not finite behind a where",
          "[singular_gradients][device]") {
  const Tensor x = leaf({0, 1});
  CHECK(differs(grad(sum(atan2(x, x)), x), {0, 0}) == "");
  const auto angle = [](const Tensor& t) { return atan2(select(t, 0, 0), select(t, 0, 1)); };
  CHECK(differs(reshape(hessian(angle, values({0, 0})), {4}), {0, 0, 0, 0}) == "");
  const Tensor y = where(equal(x, 0.0), number(0), atan2(x, x * 2.0));
  CHECK(differs(grad(sum(y), x), {0, 0}) == "");
}

TEST_CASE("an infinity in logcumsumexp does not spoil the slopes before it",
          "[singular_gradients][device]") {
  const Tensor x = leaf({1, kFar, 0});
  CHECK(differs(grad(sum(slice(logcumsumexp(x, 0), 0, 0, 1)), x), {1, 0, 0}) == "");
  CHECK(differs(grad(sum(logcumsumexp(x, 0)), x), {1, 2, 0}) == "");
}

TEST_CASE("the Hessian of x^y at x = 0", "[singular_gradients][device]") {
  const auto power = [](const Tensor& t) { return pow(select(t, 0, 0), select(t, 0, 1)); };
  CHECK(differs(reshape(hessian(power, values({0, 2})), {4}), {2, 0, 0, 0}) == "");
  const Tensor exponent = leaf({-1, 0, 2});
  CHECK(differs(grad(sum(pow(values({0, 0, 0}), exponent)), exponent), {-kFar, 0, 0}) == "");
}

TEST_CASE("scatter_max gives a NaN that nothing replaces its slope",
          "[singular_gradients][device]") {
  const Tensor x = leaf({std::nan(""), 1, 2});
  const Tensor source = leaf({5, std::nan("")});
  const Tensor y = scatter_max(x, 0, indices({1, 2}), source);
  const std::vector<Tensor> g = grad(sum(y), {x, source});
  CHECK(differs(g[0], {1, 0, 0}) == "");
  CHECK(differs(g[1], {1, 1}) == "");
}

TEST_CASE("the mean of nothing has no slope that is not a number", "[singular_gradients][device]") {
  const Tensor x = leaf({}, {0}), g = leaf(1.0), y = mean(x);
  const auto slopes = grad({&y, 1}, {&x, 1}, {&g, 1}, {.create_graph = true});
  CHECK(differs(grad(sum(slopes[0]), g), {0}) == "");
}

TEST_CASE("copy_ reads parts of the same storage before it writes them",
          "[singular_gradients][device]") {
  const Tensor square = values({1, 2, 3, 4}, {2, 2});
  copy_(square, transpose(square));
  CHECK(differs(reshape(square, {4}), {1, 3, 2, 4}) == "");
  const Tensor row = values({1, 2, 3, 4});
  copy_(slice(row, 0, 1, 4), slice(row, 0, 0, 3));
  CHECK(differs(row, {1, 1, 2, 3}) == "");
  const Tensor shown = expand(values({1}), {3});
  CHECK_THROWS_AS(copy_(shown, values({1, 2, 3})), ValueError);
  CHECK_THROWS_AS(fill_(shown, 2), ValueError);
}

}  // namespace
}  // namespace flowgrad::conformance
