#include <cmath>

#include "catch.hpp"
#include "kernels/reference_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;
using Catch::Matchers::WithinAbs;

namespace {

AdamParams adam(int step, double decay, bool decoupled) {
  return {0.1,      0.9, 0.999, 1e-8, decay, 1 - std::pow(0.9, step), 1 - std::pow(0.999, step),
          decoupled};
}

}  // namespace

TEST_CASE("adam: two steps by hand, both forms of decay", "[reference_optimizer_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    for (bool decoupled : {false, true}) {
      const Tensor w = vec({1, -2}, dtype);
      const Tensor m = vec({0, 0}, dtype);
      const Tensor v = vec({0, 0}, dtype);
      V x{1, -2};
      V first{0, 0};
      V second{0, 0};
      for (int step = 1; step <= 2; ++step) {
        const Tensor g = vec({0.5, 3.0 * step}, dtype);
        const std::vector<OptimizerSlot> slots{{w, g, m, v}};
        be.adam_step(slots, adam(step, 0.01, decoupled));
        for (size_t i = 0; i < 2; ++i) {
          double gradient = i == 0 ? 0.5 : 3.0 * step;
          if (decoupled) {
            x[i] -= 0.1 * 0.01 * x[i];
          } else {
            gradient += 0.01 * x[i];
          }
          first[i] += 0.1 * (gradient - first[i]);
          second[i] += 0.001 * (gradient * gradient - second[i]);
          const double unbiased1 = first[i] / (1 - std::pow(0.9, step));
          const double unbiased2 = second[i] / (1 - std::pow(0.999, step));
          x[i] -= 0.1 * unbiased1 / (std::sqrt(unbiased2) + 1e-8);
        }
      }
      const double tolerance = dtype == DType::float32 ? 1e-6 : 1e-14;
      for (int64_t i = 0; i < 2; ++i) {
        CHECK_THAT(w.at({i}), WithinAbs(x[static_cast<size_t>(i)], tolerance));
        CHECK_THAT(m.at({i}), WithinAbs(first[static_cast<size_t>(i)], tolerance));
        CHECK_THAT(v.at({i}), WithinAbs(second[static_cast<size_t>(i)], tolerance));
      }
    }
  }
}

TEST_CASE("sgd: plain, momentum, dampening, nesterov", "[reference_optimizer_test]") {
  const auto run = [](double momentum, double dampening, bool nesterov) {
    const Tensor w = vec({1});
    const Tensor buffer = vec({77});
    for (int step = 0; step < 2; ++step) {
      const Tensor g = vec({2.0 + step});
      const std::vector<OptimizerSlot> slots{{w, g, momentum == 0 ? View() : View(buffer), View()}};
      be.sgd_step(slots, {0.1, momentum, dampening, 0, nesterov, step == 0});
    }
    return w.item();
  };
  CHECK_THAT(run(0, 0, false), WithinAbs(1 - 0.2 - 0.3, 1e-15));
  CHECK_THAT(run(0.5, 0, false), WithinAbs(1 - 0.2 - 0.1 * (0.5 * 2 + 3), 1e-15));
  CHECK_THAT(run(0.5, 0.5, false), WithinAbs(1 - 0.2 - 0.1 * (0.5 * 2 + 0.5 * 3), 1e-15));
  CHECK_THAT(run(0.5, 0, true), WithinAbs(1 - 0.1 * (2 + 0.5 * 2) - 0.1 * (3 + 0.5 * 4), 1e-15));
  const Tensor w = vec({4}, DType::float32);
  const Tensor g = vec({1}, DType::float32);
  const Tensor none = vec({});
  const std::vector<OptimizerSlot> slots{{w, g, View(), View()}, {none, none, View(), View()}};
  be.sgd_step(slots, {0.5, 0, 0, 0.25, false, true});
  CHECK(w.item() == 3);
  SgdParams halved{0.5, 0, 0, 0, false, true};
  halved.gradient_factor = 0.5;
  be.sgd_step(slots, halved);
  CHECK(w.item() == 2.75);
  CHECK(g.item() == 1);
}

TEST_CASE("sums of squares, scaling, averaging", "[reference_optimizer_test]") {
  const Tensor a = strided(vec({1, 2, 3}), 1);
  const Tensor b = strided(Tensor::from(V{2, -1}, {2, 1}, DType::float32), 2);
  const Tensor none = vec({});
  const std::vector<View> views{a, b, none};
  CHECK(be.sum_of_squares(views) == 19);
  be.scale(a, -2);
  CHECK(a.to_vector<double>() == V{-2, -4, -6});
  be.lerp(a, vec({2, 0, 2}), 0.75);
  CHECK(a.to_vector<double>() == V{-1, -3, -4});
  const Tensor c = vec({8, 0, 4}), of_a = vec({3, 1, 0}), of_c = vec({0, 4, 4});
  const std::vector<AverageSlot> averages{{a, of_a}, {c, of_c}};
  be.average_step(averages, {0.5});
  CHECK(a.to_vector<double>() == V{1, -1, -2});
  CHECK(c.to_vector<double>() == V{4, 2, 4});
  // Squares that overflow float32 are carried in double.
  const Tensor large = vec({1e30, 1e30}, DType::float32);
  const std::vector<View> one{large};
  CHECK_THAT(be.sum_of_squares(one) / 2e60, WithinAbs(1, 1e-6));
  const Tensor ints = Tensor::from(std::vector<int64_t>{1}, {1});
  CHECK_THROWS_AS(be.scale(ints, 2), DTypeError);
  CHECK_THROWS_AS(be.lerp(a, ints, 0.5), DTypeError);
  CHECK_THROWS_AS(be.judge_step(a, one, 0, a, nullptr), DeviceError);
}
