#include "flowgrad/optim/ema.h"

#include <cmath>

#include "catch.hpp"
#include "core/io_support.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

using namespace flowgrad;
using io_test::Contains;
using io_test::error_of;
using io_test::same_bits;

namespace {

void write(const Tensor& w, double value) {
  NoGrad off;
  fill_(w, value);
}

NamedTensors copies(const NamedTensors& state) {
  NamedTensors out;
  for (const auto& [name, value] : state) out.emplace_back(name, clone(value.detach()));
  return out;
}

}  // namespace

TEST_CASE("a moving average by hand", "[ema_test]") {
  const Tensor w = full({2}, 1, DType::float64).requires_grad_();
  for (const bool warm_up : {false, true}) {
    write(w, 1);
    Ema ema({{"w", w}}, 0.5, warm_up);
    double expected = 1;
    for (int step = 0; step < 12; ++step) {
      write(w, step * step);
      ema.update();
      const double d = warm_up ? std::min(0.5, (1.0 + step) / (10.0 + step)) : 0.5;
      expected = d * expected + (1 - d) * step * step;
      CHECK(ema.state_dict()[1].second.at({1}) == Catch::Approx(expected).epsilon(1e-14));
    }
    CHECK(ema.state_dict()[0].second.item() == 12);
  }
}

TEST_CASE("swapping twice restores both sides bit for bit", "[ema_test]") {
  Generator generator(5);
  const Tensor w = randn({33}, generator).requires_grad_();
  Ema ema({{"w", w}}, 0.9);
  const Tensor average = clone(w.detach());
  {
    NoGrad off;
    copy_(w, randn({33}, generator));
  }
  const Tensor value = clone(w.detach());
  {
    const EmaScope scope(&ema);
    CHECK(ema.swapped());
    CHECK(same_bits(w.detach(), average));
    CHECK_THAT(error_of<ValueError>([&] { ema.update(); }), Contains("Ema: update while"));
    CHECK_THAT(error_of<ValueError>([&] { ema.state_dict(); }), Contains("Ema: state_dict while"));
  }
  CHECK_FALSE(ema.swapped());
  CHECK(same_bits(w.detach(), value));
  CHECK(same_bits(ema.state_dict()[1].second, average));
  const EmaScope nothing(nullptr);
}

TEST_CASE("a moving average goes on from its state bit for bit", "[ema_test]") {
  const Tensor w = full({2}, 1).requires_grad_();
  Ema one({{"w", w}}, 0.99);
  write(w, 0.3);
  one.update();
  write(w, 7);
  Ema two({{"w", w}}, 0.99);
  two.load_state_dict(copies(one.state_dict()));
  write(w, -0.7);
  one.update();
  two.update();
  CHECK(same_bits(one.state_dict()[1].second, two.state_dict()[1].second));
  CHECK(two.state_dict()[0].second.item() == 2);
}

TEST_CASE("a moving average refuses bad settings and states", "[ema_test]") {
  const Tensor w = full({2}, 1).requires_grad_();
  CHECK_THAT(error_of<ValueError>([&] { Ema({{"w", w}}, 1); }), Contains("decay = 1"));
  CHECK_THAT(error_of<ValueError>([&] { Ema({{"w", w}}, -0.1); }), Contains("decay = -0.1"));
  CHECK_THAT(error_of<ValueError>([&] { Ema({{"w", w}}, std::nan("")); }), Contains("decay = nan"));
  Ema ema({{"w", w}}, 0.9);
  NamedTensors state = copies(ema.state_dict());
  state[0].second = Tensor::from(std::vector<int64_t>{-3}, {1});
  CHECK_THAT(error_of([&] { ema.load_state_dict(state); }), Contains("\"updates\" is -3"));
  state[0].first = "update";
  CHECK_THAT(error_of([&] { ema.load_state_dict(state); }), Contains("\"updates\" is missing"));
  state = copies(ema.state_dict());
  state[1].second = zeros({2}, DType::float64);
  CHECK_THAT(error_of([&] { ema.load_state_dict(state); }),
             Contains("\"averages.w\" is (2,) float64"));
}
