// The planar layer's root and its constraint.
#include "flowgrad/models/planar.h"

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/models/checks.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

TEST_CASE("roots of the planar inverse", "[planar_test]") {
  std::vector<double> targets;
  for (double c : {-700.0, -30.0, -2.0, -0.3, -1e-9, 0.0, 1e-9, 0.1, 1.0, 29.9, 700.0})
    targets.push_back(c);
  const Tensor c = Tensor::from(targets, {static_cast<int64_t>(targets.size())});
  for (const double k : {-0.999999, -0.99, -0.5, 0.0, 0.3, 4.0, 30.0, 300.0}) {
    INFO("k = " << k);
    const Tensor s = planar_root(c, scalar(k, DType::float64));
    CHECK(distance(s + tanh(s) * k, c) < 1e-15);
    for (size_t i = 0; i < targets.size(); ++i) {
      const double h = s.at({static_cast<int64_t>(i)});
      CHECK(std::abs(h + k * std::tanh(h) - targets[i]) <=
            1e-15 * (std::abs(targets[i]) + std::abs(k) + std::abs(h)));
    }
  }
  for (const double k : {-0.9, -0.2, 0.7, 5.0}) {
    const std::vector<Tensor> in{Tensor::from(std::vector<double>{-1.5, -0.2, 0.4, 2.0}, {4}),
                                 scalar(k, DType::float64)};
    const auto result = gradcheck(
        [](std::span<const Tensor> t) { return std::vector<Tensor>{planar_root(t[0], t[1])}; }, in,
        {.order = 3});
    INFO("k = " << k << ": " << result.message);
    CHECK(result.passed);
  }
  CHECK(contains(raised<ShapeError>([&] { planar_root(c, c); }), {"planar_root", "one element"}));
}

TEST_CASE("a planar layer is invertible whatever its parameters", "[planar_test]") {
  Generator generator(1);
  PlanarFlow flow(2, generator, DType::float64);
  const auto set = [&](std::vector<double> w, std::vector<double> u) {
    flow.load_state_dict({{"weight", Tensor::from(w, {2})},
                          {"bias", Tensor::from(std::vector<double>{0.3}, {1})},
                          {"scale", Tensor::from(u, {2})}});
  };
  const Tensor x = randn({50, 2}, generator, DType::float64) * 3.0;
  for (const double lean : {-30.0, -3.0, -1.0, 0.0, 2.0, 40.0}) {
    INFO("w.u = " << lean * 1.25);
    set({1, 0.5}, {lean, lean * 0.5});
    const Tensor log_det = flow.forward(x).log_det;
    for (double v : log_det.to_vector<double>()) CHECK(std::isfinite(v));
    // At w.u = -37.5 the layer is singular to 1e-16 around one line: what is lost there cannot come
    // back.
    CHECK(reconstruction_error(flow, x).max < (lean == -30 ? 1e-4 : 1e-12));
  }
  // u_hat is exact however short w is: w.u_hat = softplus(w.u) - 1.
  for (const double size : {1e-2, 1e-5, 1e-9}) {
    set({size, 0}, {-1, 2});
    const Tensor zero = zeros({1, 2}, DType::float64);
    const double k = std::log1p(std::exp(-size)) - 1;
    const double h = std::tanh(0.3);
    CHECK(flow.forward(zero).value.at({0, 0}) == Catch::Approx(h * k / size).epsilon(1e-13));
    CHECK(flow.forward(zero).log_det.at({0}) ==
          Catch::Approx(std::log1p((1 - h * h) * k)).epsilon(1e-13));
  }
  // So is the determinant in float32 where w.u_hat rounds to -1: log(1 + w.u_hat) at w.x + b = 0.
  PlanarFlow single(2, generator);
  for (const double wu : {-5.0, -20.0, -80.0}) {
    const auto at = [](std::vector<double> v, const Shape& shape) {
      return Tensor::from(v, shape, DType::float32);
    };
    single.load_state_dict(
        {{"weight", at({1, 0}, {2})}, {"bias", at({0}, {1})}, {"scale", at({wu, 1}, {2})}});
    for (const bool fused : {false, true}) {
      INFO("w.u = " << wu << ", fused " << fused);
      const FusedKernels on(fused);
      const Tensor zero = zeros({1, 2}, DType::float32);
      const double want = std::log(std::log1p(std::exp(wu)));
      const Transformed there = single.forward(zero), back = single.inverse(zero);
      CHECK(there.log_det.at({0}) == Catch::Approx(want).epsilon(1e-6));
      CHECK(back.log_det.at({0}) == Catch::Approx(-want).epsilon(1e-6));
      // By u_0: sigmoid(w.u) / softplus(w.u).
      const Tensor slope = grad(there.log_det, single.scale());
      CHECK(slope.at({0}) == Catch::Approx(1 / (1 + std::exp(-wu)) / std::exp(want)).epsilon(1e-5));
    }
  }
  set({0, 0}, {1, 2});
  CHECK(distance(flow.forward(x).log_det, zeros({50}, DType::float64)) == 0);
  CHECK(reconstruction_error(flow, x).max < 1e-12);
}
