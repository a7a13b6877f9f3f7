#include "autograd/conformance.h"
#include "kernels/special_values.h"

/// Conformance C48 to C69: values and gradients at edges.
namespace flowgrad::conformance {
namespace {

using testing::kInf;
using testing::kNan;

/// Gradients of f at two numbers.
std::vector<double> slopes(Tensor (*f)(const Tensor&, const Tensor&), double a, double b) {
  const Tensor x = leaf(a);
  const Tensor y = leaf(b);
  const auto g = grad(f(x, y), {x, y});
  return {g[0].item(), g[1].item()};
}
std::vector<double> slopes(const Function& f, const std::vector<double>& at) {
  std::vector<double> out;
  for (double a : at) out.push_back(slope(f, a));
  return out;
}
Tensor tensor_pow(const Tensor& a, const Tensor& b) { return pow(a, b); }

TEST_CASE("C48 powers at zero and below, by the base",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C48");
  const std::vector<std::array<double, 3>> rows{{0, 2, 0},      {0, 1.5, 0}, {0, 0, 0},
                                                {0, -1, -kInf}, {-2, 3, 12}, {-1, .5, kNan}};
  for (const auto& [x, exponent, want] : rows) {
    const double p = exponent;
    INFO("x = " << x << ", exponent = " << p);
    CHECK(differs({slope([p](const Tensor& t) { return pow(t, p); }, x)}, {want}) == "");
    CHECK(differs({slopes(tensor_pow, x, p)[0]}, {want}) == "");
  }
}

TEST_CASE("C49 powers of zero, by the exponent", "[conformance_edges][conformance_total][device]") {
  const Case c("C49");
  CHECK(differs({slopes(tensor_pow, 0, 2)[1]}, {0}) == "");
  CHECK(differs({slopes(tensor_pow, 0, 0)[1]}, {0}) == "");
  CHECK(differs({slopes(tensor_pow, 0, -1)[1]}, {-kInf}) == "");
}

TEST_CASE("C50 the Hessian of x^y at exponent zero",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C50");
  const auto f = [](const Tensor& v) { return pow(select(v, 0, 0), select(v, 0, 1)); };
  const Tensor at = values({4, 0});
  CHECK(differs(value_and_grad(f, at).derivative, {0, 1.3862943611198906}) == "");
  CHECK(differs(hessian(f, at), values({0, .25, .25, 1.9218120556728056}, {2, 2})) == "");
}

TEST_CASE("C51 (x - y)^x where the base is zero",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C51");
  const Tensor x = leaf(1);
  const Tensor y = leaf(1);
  const auto g = grad(pow(x - y, x), {x, y});
  CHECK(differs(g[0], {1}) == "");
  CHECK(differs(g[1], {-1}) == "");
}

TEST_CASE("C52 ties share over all elements, the first wins along an axis",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C52");
  const Tensor x = leaf({1, 0, 1, 0, 1, 0});
  const double third = 1.0 / 3;
  CHECK(differs(grad(max(x), x), {third, 0, third, 0, third, 0}) == "");
  CHECK(differs(grad(max(x, {0}), x), {third, 0, third, 0, third, 0}) == "");
  CHECK(differs(grad(min(x), x), {0, third, 0, third, 0, third}) == "");
  CHECK(differs(grad(median(x), x), {0, third, 0, third, 0, third}) == "");
  CHECK(differs(grad(max_with_index(x, 0).first, x), {1, 0, 0, 0, 0, 0}) == "");
  CHECK(differs(grad(min_with_index(x, 0).first, x), {0, 1, 0, 0, 0, 0}) == "");
}

TEST_CASE("C53 ties of a minimum over two axes", "[conformance_edges][conformance_total][device]") {
  const Case c("C53");
  const Tensor x = leaf({1, 0, 0, 1, -1, -1, 1, 0}, {2, 2, 2});
  CHECK(differs(grads(min(x, {0, 2}), {x}, values({3, 7}))[0], {0, 0, 3.5, 0, 1.5, 1.5, 0, 3.5}) ==
        "");
}

TEST_CASE("C54 ties between two operands", "[conformance_edges][conformance_total][device]") {
  const Case c("C54");
  CHECK(slope([](const Tensor& x) { return minimum(x, x); }, 2) == 1);
  CHECK(slope([](const Tensor& x) { return maximum(x, x); }, 2) == 1);
  CHECK(differs(slopes(maximum, 2, 2), {.5, .5}) == "");
  // Where one is NaN, so is the value, and neither argument is hidden.
  const double nan = std::nan("");
  CHECK(differs(slopes(maximum, nan, 2), {1, 1}) == "");
  CHECK(differs(slopes(minimum, 2, nan), {1, 1}) == "");
  CHECK(differs(slopes(minimum, 2, 2), {.5, .5}) == "");
}

TEST_CASE("C55 kinks", "[conformance_edges][conformance_total][device]") {
  const Case c("C55");
  const std::vector<double> at{-1, 0, 1};
  CHECK(differs(slopes([](const Tensor& x) { return abs(x); }, at), {-1, 0, 1}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return sign(x); }, at), {0, 0, 0}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return relu(x); }, at), {0, 0, 1}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return clamp(x, -1, 1); }, at), {1, 1, 1}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return hardtanh(x); }, at), {0, 1, 0}) == "");
  CHECK(differs(slopes([](const Tensor& x) { return leaky_relu(x, .1); }, at), {.1, .1, 1}) == "");
}

TEST_CASE("C56 elu with alpha 2", "[conformance_edges][conformance_total][device]") {
  const Case c("C56");
  CHECK(differs(slopes([](const Tensor& x) { return elu(x, 2); }, {-1, 0, -2, 3}),
                {.7357588823428847, 2, .2706705664732254, 1}) == "");
}

TEST_CASE("C57 roots and norms at zero: a zero cotangent wins",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C57");
  const Tensor n = leaf({0, 0, 0});
  CHECK(differs(grad(norm(n), n), {0, 0, 0}) == "");
  CHECK(differs({slope([](const Tensor& x) { return sqrt(x); }, 0)}, {kInf}) == "");
  const Tensor x = leaf({0, 1});
  CHECK(differs(grad(sum(where(greater(x, 0), sqrt(x), zeros_like(x))), x), {0, .5}) == "");
  CHECK(differs(grad(sum(where(greater(x, 0), log(x), zeros_like(x))), x), {0, 1}) == "");
}

TEST_CASE("C58 distances of zero", "[conformance_edges][conformance_total][device]") {
  const Case c("C58");
  const PinnedLine row = pinned("C58")[0];
  const Tensor x = leaf({0, 0, 1, 1}, {2, 2});
  const Tensor y = leaf({0, 0, 1, 1}, {2, 2});
  const Tensor d = cdist(x, y);
  CHECK(differs(d, row.at("d").numbers()) == "");
  const auto g = grad(sum(d), {x, y});
  CHECK(differs(g[0], row.at("dx").numbers()) == "");
  CHECK(differs(g[1], row.at("dy").numbers()) == "");
}

TEST_CASE("C59 logaddexp at infinities", "[conformance_edges][conformance_total][device]") {
  const Case c("C59");
  for (const PinnedLine& row : pinned("C59")) {
    const auto at = row.at("at").numbers();
    INFO(at[0] << ", " << at[1]);
    CHECK(differs(logaddexp(number(at[0]), number(at[1])), row.at("y").numbers()) == "");
    CHECK(differs(slopes(logaddexp, at[0], at[1]), row.at("g").numbers()) == "");
  }
}

TEST_CASE("C60 logsumexp and softmax of infinities, and a masked row",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C60");
  const Tensor x = leaf({-kInf, 1});
  CHECK(differs(logsumexp(x), {1}) == "");
  CHECK(differs(grad(logsumexp(x), x), {0, 1}) == "");
  const Tensor none = leaf({-kInf, -kInf});
  CHECK(differs(logsumexp(none), {-kInf}) == "");
  CHECK(differs(grad(logsumexp(none), none), {kNan, kNan}) == "");
  CHECK(differs(softmax(none), {kNan, kNan}) == "");
  // Attention with masked keys; the second query may look at none of them.
  const Tensor scores = leaf({1, 2, 3, 4}, {2, 2});
  const Tensor allowed = greater(values({1, 0, 0, 0}, {2, 2}), 0);
  const Tensor weights = softmax(where(allowed, scores, number(-kInf)), 1);
  const Tensor p = where(any(allowed, {1}, true), where(allowed, weights, number(0)), number(0));
  CHECK(differs(p, {1, 0, 0, 0}) == "");
  CHECK(differs(grads(slice(p, 0, 0, 1), {scores}, values({2, 3}, {1, 2}))[0], {0, 0, 0, 0}) == "");
}

TEST_CASE("C61 log_softmax of large numbers", "[conformance_edges][conformance_total][device]") {
  const Case c("C61");
  const Tensor x = leaf({1e4, 0, -1e4});
  const Tensor y = log_softmax(x);
  CHECK(differs(y, {0, -1e4, -2e4}) == "");
  CHECK(differs(grad(select(y, 0, 1), x), {-1, 1, 0}) == "");
}

TEST_CASE("C62 logcumsumexp of large numbers", "[conformance_edges][conformance_total][device]") {
  const Case c("C62");
  const Tensor x = leaf({2, 3});
  CHECK(differs(logcumsumexp(x, 0), {2, 3.313261687518223}) == "");
  CHECK(differs(grad(sum(logcumsumexp(x, 0)), x), {1.2689414213699952, .7310585786300048}) == "");
  const Tensor big = leaf({1e4, 1e4});
  CHECK(differs(logcumsumexp(big, 0), {10000, 10000.69314718056}) == "");
  CHECK(differs(grad(sum(logcumsumexp(big, 0)), big), {1.5, .5}, 1e-11) == "");
}

TEST_CASE("C63 activations far out", "[conformance_edges][conformance_total][device]") {
  const Case c("C63");
  const std::map<std::string, Tensor (*)(const Tensor&)> functions{{"sigmoid", sigmoid},
                                                                   {"softplus", softplus},
                                                                   {"logsigmoid", logsigmoid},
                                                                   {"silu", silu},
                                                                   {"gelu", gelu},
                                                                   {"tanh", tanh},
                                                                   {"mish", mish},
                                                                   {"erf", erf}};
  int seen = 0;
  for (const PinnedLine& row : pinned("C63")) {
    if (!row.count("name")) continue;
    INFO(row.at("name").word);
    const auto f = functions.at(row.at("name").word);
    const auto at = row.at("at").numbers();
    CHECK(differs(f(values(at)), row.at("value").numbers()) == "");
    CHECK(differs(slopes(f, at), row.at("slope").numbers()) == "");
    for (double s :
         slopes([f](const Tensor& x) { return grad(f(x), x, {.create_graph = true}); }, at)) {
      CHECK(std::isfinite(s));
    }
    ++seen;
  }
  CHECK(seen == 8);
  // Beyond the absolute part of the tolerance above.
  CHECK(sigmoid(number(-300)).item() == Catch::Approx(5.148200222412014e-131).epsilon(1e-12));
  CHECK(softplus(number(-300)).item() == Catch::Approx(5.148200222412013e-131).epsilon(1e-12));
  CHECK(slope(silu, -300) == Catch::Approx(-1.5393118665011924e-128).epsilon(1e-12));
  CHECK(slope(mish, -300) == Catch::Approx(-1.5393118665011924e-128).epsilon(1e-12));
}

TEST_CASE("C64 products with zeros", "[conformance_edges][conformance_total][device]") {
  const Case c("C64");
  const auto f = [](const Tensor& x) { return prod(x); };
  CHECK(differs(value_and_grad(f, values({3, 0, 2})).derivative, {0, 6, 0}) == "");
  CHECK(differs(hessian_row_sums(f, values({3, 0, 2})), {2, 5, 3}) == "");
  CHECK(differs(value_and_grad(f, values({3, 0, 0})).derivative, {0, 0, 0}) == "");
}

TEST_CASE("C65 cumulative products with zeros", "[conformance_edges][conformance_total][device]") {
  const Case c("C65");
  for (const PinnedLine& row : pinned("C65")) {
    const Tensor at = values(row.at("x").numbers());
    const bool weighted = row.count("weights") != 0;
    const Tensor w = weighted ? values(row.at("weights").numbers()) : ones_like(at);
    const auto f = [&](const Tensor& x) { return sum(cumprod(x, 0) * w); };
    CHECK(differs(value_and_grad(f, at).derivative,
                  row.at(weighted ? "dx_weighted" : "dx").numbers()) == "");
    if (!weighted)
      CHECK(differs(hessian_row_sums(f, at), row.at("second_row_sums").numbers()) == "");
  }
}

TEST_CASE("C66 deviation of equal numbers", "[conformance_edges][conformance_total][device]") {
  const Case c("C66");
  const Tensor x = leaf({2, 2, 2});
  CHECK(differs(flowgrad::std(x), {0}) == "");
  CHECK(differs(grad(flowgrad::std(x), x), {0, 0, 0}) == "");
  CHECK(differs(var(values({1})), {kNan}) == "");
  // Their mean may be another number.
  for (DType dtype : {DType::float32, DType::float64}) {
    for (int64_t n : {2, 3, 7, 10, 16, 100}) {
      for (double each : {.1, -1.0 / 3, 1e-3, 123.456}) {
        INFO(name_of(dtype) << ", " << n << " times " << each);
        const Tensor y = full({2, n}, each, dtype, test_device()).requires_grad_();
        CHECK(differs(flowgrad::std(y, {1}), {0, 0}) == "");
        CHECK(differs(sum(abs(grad(sum(flowgrad::std(y, {1})), y))), {0}) == "");
      }
    }
  }
  // Squares beyond float32, and below it.
  for (double size : {1e-23, 1e-30, 1e20, 1e30}) {
    const Tensor y =
        Tensor::from(std::vector<double>{size, 3 * size}, {2}, DType::float32, test_device())
            .requires_grad_();
    CHECK(differs(flowgrad::std(y) / size, {std::sqrt(2)}, 1e-5) == "");
    CHECK(differs(grad(flowgrad::std(y), y), {-std::sqrt(.5), std::sqrt(.5)}, 1e-5) == "");
  }
  // Far from zero, and over an axis that is not the last.
  const Tensor far = values({1e15 + 1, 1e15, 1e15 + 3, 1e15}, {2, 2});
  CHECK(differs(var(far, {0}), {2, 0}) == "");
  CHECK(differs(var(far, {1}), {.5, 4.5}) == "");
  CHECK(differs(var(far, {}, 0), {1.5}) == "");
}

TEST_CASE("C67 reductions of nothing", "[conformance_edges][conformance_total][device]") {
  const Case c("C67");
  // Views whose first element would lie beyond the memory.
  const Tensor none = zeros({64, 0}, DType::float64, test_device());
  CHECK(differs(sum(chunk(none, 2)[1], {1}), std::vector<double>(32, 0)) == "");
  CHECK(differs(prod(slice(none, 0, 60, 62), {1}), {1, 1}) == "");
  CHECK(differs(det(slice(zeros({300, 0, 0}, DType::float64, test_device()), 0, 100, 102)),
                {1, 1}) == "");
  const Tensor x = leaf({}, {0});
  CHECK(differs(sum(x), {0}) == "");
  CHECK(differs(prod(x), {1}) == "");
  CHECK(differs(mean(x), {kNan}) == "");
  CHECK(differs(logsumexp(x), {-kInf}) == "");
  CHECK(grad(sum(x), x).shape() == Shape{0});
  CHECK(not_raised<ShapeError>([&] { max(x); }, "max: ") == "");
  CHECK(not_raised<ShapeError>([&] { min(x, {0}); }, "min: ") == "");
  CHECK(not_raised<ShapeError>([&] { argmax(x, 0); }, "argmax: ") == "");
}

TEST_CASE("C68 broadcasting against a size of zero",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C68");
  const Tensor a = leaf({}, {4, 0});
  const Tensor b = fill({4, 1}).requires_grad_();
  const Tensor y = a + b;
  CHECK(y.shape() == Shape{4, 0});
  const auto g = grad(sum(y), {a, b});
  CHECK(g[0].shape() == Shape{4, 0});
  CHECK(differs(g[1], values({0, 0, 0, 0}, {4, 1})) == "");
}

TEST_CASE("C69 matrix products with sizes of zero",
          "[conformance_edges][conformance_total][device]") {
  const Case c("C69");
  const auto rows = pinned("C69");
  CHECK(rows.size() == 5);
  for (const PinnedLine& row : rows) {
    const Tensor a = fill(row.at("a").dims()).requires_grad_();
    const Tensor b = fill(row.at("b").dims()).requires_grad_();
    const Tensor y = matmul(a, b);
    CHECK(y.shape() == row.at("y").dims());
    CHECK(not_all(y, 0) == "");
    const auto g = grad(sum(y), {a, b});
    CHECK(differs(g[0], zeros(a.shape(), DType::float64, test_device())) == "");
    CHECK(differs(g[1], zeros(b.shape(), DType::float64, test_device())) == "");
  }
}

TEST_CASE("a Cholesky factor of numbers near the largest", "[conformance_edges][device]") {
  const Tensor a = Tensor::from(std::vector<double>{2e38, 1.9e38, 1.9e38, 2e38}, {2, 2},
                                DType::float32, test_device());
  CHECK(differs(cholesky(a), {1.4142136e19, 0, 1.3435029e19, 4.4158804e18}, 1e-6) == "");
}

}  // namespace
}  // namespace flowgrad::conformance
