// The rational-quadratic spline by itself and in a coupling.
#include "flowgrad/models/spline.h"
#include "flowgrad/autograd/transforms.h"

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/models/checks.h"
#include "golden.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::both;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::Golden;
using flowgrad::testing::on_device;
using flowgrad::testing::raised;
using flowgrad::testing::shake;
using flowgrad::testing::test_device;

namespace {

constexpr double kTail = 2.5;

SplineKnots random_knots(const Shape& leading, int64_t bins, double size, DType dtype) {
  Generator generator(3);
  Shape shape = leading;
  shape.push_back(3 * bins - 1);
  return spline_knots(randn(shape, generator, dtype) * size, bins, kTail);
}

Tensor of(const std::vector<double>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

}  // namespace

TEST_CASE("a spline agrees with zuko's at equal knots", "[spline_test][device]") {
  for (const auto& name : both({"spline_knots"})) {
    INFO(name);
    const Golden g(name);
    const Tensor at = g["input"].requires_grad_();
    const SplineKnots knots{g["x"].requires_grad_(), g["y"].requires_grad_(),
                            g["slope"].requires_grad_()};
    for (const std::string direction : {"forward", "inverse"}) {
      INFO(direction);
      const SplineValue v = direction == "forward" ? spline(at, knots) : spline_inverse(at, knots);
      g.check(direction, v.value);
      g.check(direction + ".log_slope", v.log_slope);
      const Tensor objective =
          sum(v.value * g["cotangent"]) + sum(v.log_slope * g["log_cotangent"]);
      const std::vector<Tensor> leaves{at, knots.x, knots.y, knots.slope};
      const auto grads = grad(std::span(&objective, 1), leaves);
      const char* names[] = {"input", "x", "y", "slope"};
      for (size_t i = 0; i < 4; ++i) g.check_gradient(direction + ".grad_" + names[i], grads[i]);
    }
    const SplineValue v = spline(transpose(knots.x), knots);
    g.check("at_knots", v.value);
    g.check("at_knots.log_slope", v.log_slope);
    g.check("at_knots.inverse", spline_inverse(transpose(knots.y), knots).value);
  }
}

TEST_CASE("knots fill the range, and zeros give the identity", "[spline_test]") {
  for (const DType dtype : {DType::float64, DType::float32}) {
    for (const int64_t bins : {1, 2, 8, 50}) {
      INFO(bins);
      const SplineKnots knots = random_knots({4}, bins, 30, dtype);
      const double m = 1e-3;
      for (const Tensor& t : {knots.x, knots.y}) {
        CHECK(t.shape() == Shape{4, bins + 1});
        for (int64_t row = 0; row < 4; ++row) {
          CHECK(t.at({row, 0}) == -kTail);
          CHECK(t.at({row, bins}) == kTail);
          for (int64_t k = 0; k < bins; ++k)
            CHECK(t.at({row, k + 1}) - t.at({row, k}) > 2 * kTail * m * 0.99);
        }
      }
      CHECK(min(knots.slope).item() > m * 0.99);
      CHECK(knots.slope.at({1, 0}) == 1);
      CHECK(knots.slope.at({1, bins}) == 1);
      const SplineKnots zero = spline_knots(zeros({3 * bins - 1}, dtype), bins, kTail);
      const Tensor x = linspace(-4, 4, 1001, dtype);
      const double limit = dtype == DType::float64 ? 1e-14 : 1e-5;
      for (const auto& f : {spline, spline_inverse}) {
        CHECK(distance(f(x, zero).value, x) < limit);
        CHECK(distance(f(x, zero).log_slope, zeros({1001}, dtype)) < limit);
      }
    }
  }
}

TEST_CASE("a spline at its knots and beyond its ends", "[spline_test]") {
  const SplineKnots knots = random_knots({}, 6, 1.5, DType::float64);
  // At a knot the spline has the knot's value and slope, from both sides.
  CHECK(distance(spline(knots.x, knots).value, knots.y) < 1e-15);
  CHECK(distance(spline_inverse(knots.y, knots).value, knots.x) < 1e-15);
  CHECK(distance(spline(knots.x, knots).log_slope, log(knots.slope)) < 1e-14);
  CHECK(distance(spline_inverse(knots.y, knots).log_slope, -log(knots.slope)) < 1e-14);
  for (const double side : {-1e-13, 1e-13}) {
    CHECK(distance(spline(knots.x + side, knots).value, knots.y) < 1e-11);
    CHECK(distance(spline(knots.x + side, knots).log_slope, log(knots.slope)) < 1e-10);
  }
  const double infinity = HUGE_VAL;
  const Tensor x = of({-kTail, kTail, -kTail - 1e-9, kTail + 1e-9, 7, -infinity, infinity});
  for (const auto& f : {spline, spline_inverse}) {
    const SplineValue v = f(x, knots);
    CHECK(v.value.to_vector<double>() == x.to_vector<double>());
    CHECK(v.log_slope.to_vector<double>() == std::vector<double>(7, 0));
  }
  // What is not a number stays so, and leaves the knots' gradients alone.
  const Tensor raw = (zeros({17}, DType::float64) + 0.3).requires_grad_();
  for (const auto& f : {spline, spline_inverse}) {
    const SplineValue v = f(of({NAN, 0.4}), spline_knots(raw, 6, kTail));
    CHECK(std::isnan(v.value.at({0})));
    CHECK(std::isfinite(v.value.at({1})));
    CHECK(all(isfinite(grad(sum(select(v.value, 0, 1) + v.log_slope), raw))).item() == 1);
  }
}

TEST_CASE("a spline and its inverse undo each other", "[spline_test]") {
  Generator generator(5);
  for (const double size : {0.3, 1.5, 6.0}) {
    for (const DType dtype : {DType::float64, DType::float32}) {
      INFO("raw numbers of size " << size << " " << name_of(dtype));
      const SplineKnots knots = random_knots({20}, 8, size, dtype);
      const Tensor y = rand({500, 20}, generator, dtype, -3, 3);
      const SplineValue x = spline_inverse(y, knots);
      const SplineValue back = spline(x.value, knots);
      // In the direction that flattens a rounding of x is multiplied by the slope, up to 1e3 here.
      const double limit = dtype == DType::float64 ? 1e-12 : 1e-3;
      CHECK(distance(back.value, y) < limit);
      CHECK(distance(back.log_slope, -x.log_slope) < (size > 2 ? 1e3 : 10) * limit);
    }
  }
}

TEST_CASE("the root keeps its digits where the textbook's cancels", "[spline_test]") {
  // One bin of width 1 and height 1e-3 between slopes 1000: the quadratic's b is near -1 and its
  // discriminant far below b^2 at the upper end.
  const SplineKnots knots{of({0, 1}), of({0, 1e-3}), of({1000, 1000})};
  const Tensor y = linspace(0, 1e-3, 1001, DType::float64);
  const SplineValue x = spline_inverse(y, knots);
  CHECK(distance(spline(x.value, knots).value, y) < 1e-13);
  CHECK(distance(spline(x.value, knots).log_slope, -x.log_slope) < 1e-9);
  const SplineKnots narrow{cast(knots.x, DType::float32), cast(knots.y, DType::float32),
                           cast(knots.slope, DType::float32)};
  CHECK(distance(spline_inverse(cast(y, DType::float32), narrow).value, x.value) < 1e-2);
}

TEST_CASE("a spline's derivatives to order 3", "[spline_test]") {
  Generator generator(9);
  const Tensor raw = randn({2, 11}, generator, DType::float64);
  const Tensor x = of({0.31, -1.7});
  for (const auto& f : {spline, spline_inverse}) {
    const auto of_raw = [&](const Tensor& r) {
      const SplineValue v = f(x, spline_knots(r, 4, kTail));
      return v.value + v.log_slope;
    };
    const auto of_x = [&](const Tensor& at) {
      const SplineValue v = f(at, spline_knots(raw, 4, kTail));
      return v.value * v.log_slope;
    };
    const auto a = gradcheck(of_raw, raw, {.order = 2});
    INFO(a.message);
    CHECK(a.passed);
    const auto b = gradcheck(of_x, x, {.order = 3});
    INFO(b.message);
    CHECK(b.passed);
  }
  // The middle of the identity is where the two forms of the root meet.
  const auto at_half = [&](const Tensor& y) {
    const SplineValue v = spline_inverse(y, spline_knots(zeros({2}, DType::float64), 1, kTail));
    return v.value + v.log_slope;
  };
  const auto c = gradcheck(at_half, of({0}), {.order = 2});
  INFO(c.message);
  CHECK(c.passed);
}

TEST_CASE("a spline coupling moves each half as it should", "[spline_test]") {
  Generator generator(2);
  SplineFlowOptions o;
  o.dim = 5;
  o.bins = 4;
  o.hidden = 8;
  const bool keep_even = GENERATE(true, false);
  SplineCoupling layer(o, keep_even, generator, DType::float64);
  shake(layer, 4, 0.7);
  const Tensor x = randn({3, 5}, generator, DType::float64);
  for (const bool inverse : {false, true}) {
    const Tensor j = batch_jacobian(
        [&](const Tensor& at) {
          return inverse ? layer.inverse(at).value : layer.forward(at).value;
        },
        x);
    for (int64_t n = 0; n < 3; ++n) {
      for (int64_t row = 0; row < 5; ++row) {
        for (int64_t column = 0; column < 5; ++column) {
          const double v = j.at({n, row, column});
          const bool kept = (row % 2 == 0) == keep_even;
          const bool of_kept = (column % 2 == 0) == keep_even;
          if (row == column) CHECK(v > 0);
          if (row != column && (kept || !of_kept)) CHECK(v == 0);
          if (!kept && of_kept) CHECK(v != 0);
        }
      }
    }
  }
}

TEST_CASE("splines and their flows refuse what does not fit", "[spline_test]") {
  Generator generator(0);
  CHECK(contains(raised<ShapeError>([] {
                   spline_knots(zeros({2, 9}), 3, 1);
                 }),
                 {"(2, 9)", "(..., 8)", "3 bins"}));
  for (const auto& [bins, tail] : std::vector<std::pair<int64_t, double>>{
           {0, 1}, {1000, 1}, {3, 0}, {3, -1}, {3, NAN}, {3, HUGE_VAL}}) {
    SplineFlowOptions o;
    o.bins = bins;
    o.tail = tail;
    CHECK(contains(raised<ValueError>([&] { SplineFlow(o, generator); }),
                   {"SplineFlow", "bins", "tail", "1 to 999"}));
  }
  SplineFlowOptions o;
  o.hidden = 0;
  CHECK(contains(raised<ValueError>([&] { SplineFlow(o, generator); }), {"hidden = 0"}));
  o.hidden = 8;
  o.dim = 1;
  CHECK(contains(raised<ValueError>([&] { SplineFlow(o, generator); }),
                 {"dim = 1", "at least 2", "because"}));
  o.dim = 2;
  o.base_components = -1;
  CHECK(contains(raised<ValueError>([&] { SplineFlow(o, generator); }), {"base_components = -1"}));
}
