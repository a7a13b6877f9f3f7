// Layer normalisation of the fast backend against the reference loops, and those against formulas.
#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/reference/reference.h"
#include "kernels/cpu_support.h"
#include "kernels/layer_norm_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

/// {out, statistics, g_x, g_weight, g_bias} of seeded values.
std::vector<Tensor> layer_norm_results(Backend& on, const LayerNormCase& c, DType dtype) {
  const Tensor x = c.x(dtype), g = values(c.shape(), dtype, 2), weight = values({c.n}, dtype, 3),
               bias = values({c.n}, dtype, 4);
  const LayerNorm norm{c.weight ? View(weight) : View(), c.bias ? View(bias) : View(), 1e-5};
  std::vector<Tensor> r = {nothing(c.shape(), dtype), nothing({c.rows, 2}, DType::float64)};
  for (const Shape& s : {c.shape(), Shape{c.n}, Shape{c.n}}) r.push_back(nothing(s, dtype));
  on.layer_norm(norm, x, r[0], r[1]);
  on.layer_norm_grad(norm, x, r[1], g, r[2], r[3], r[4]);
  return r;
}

}  // namespace

TEST_CASE("the fast layer norm equals the reference loops", "[layer_norm_test]") {
  fast_equals_reference(layer_norm_cases(), layer_norm_results, relative_error, {4e-6, 2e-11});
}

TEST_CASE("a layer norm's bits do not depend on the number of threads", "[layer_norm_test]") {
  for (const LayerNormCase& c : {LayerNormCase{5000, 20}, {600, 512}, {3, 40000}})
    same_at_any_threads(c.text(),
                        [&] { return layer_norm_results(fast_cpu_backend(), c, DType::float32); });
}

TEST_CASE("only the gradients that are asked for are written", "[layer_norm_test]") {
  const LayerNormCase c{9, 37};
  const DType f = DType::float32;
  for (Backend* on : {&reference_backend(), &fast_cpu_backend()}) {
    const std::vector<Tensor> all = layer_norm_results(*on, c, f);
    const Tensor x = c.x(f), g = values(c.shape(), f, 2), weight = values({c.n}, f, 3);
    for (int which = 0; which < 3; ++which) {
      CAPTURE(on->name(), which);
      const Tensor one = nothing(all[2 + static_cast<size_t>(which)].shape(), f);
      const auto if_it_is = [&](int i) { return which == i ? View(one) : View(); };
      on->layer_norm_grad({weight, {}, 1e-5}, x, all[1], g, if_it_is(0), if_it_is(1), if_it_is(2));
      CHECK(bytes_of(one) == bytes_of(all[2 + static_cast<size_t>(which)]));
    }
  }
}

TEST_CASE("a layer norm of float32 far from zero keeps its digits", "[layer_norm_test]") {
  // The mean of 0, 1 and 1 above 2^23 lies between two float32; rounded, it would cost 1/3.
  CpuSettings restore;
  const Tensor x =
      Tensor::from(std::vector<double>{8388608, 8388609, 8388609}, {1, 3}, DType::float32);
  const Tensor out = Tensor::empty({1, 3}), statistics = Tensor::empty({1, 2}, DType::float64);
  for (const std::string& isa : instruction_sets()) {
    cpu::set_isa(isa.c_str());
    fast_cpu_backend().layer_norm({{}, {}, 0}, x, out, statistics);
    const std::vector<double> y = out.to_vector<double>();
    CHECK(y[0] == Catch::Approx(-std::sqrt(2)).epsilon(1e-6));
    CHECK(y[1] == Catch::Approx(std::sqrt(.5)).epsilon(1e-6));
    CHECK(y[2] == Catch::Approx(std::sqrt(.5)).epsilon(1e-6));
  }
}

TEST_CASE("a layer norm of float32 whose squares are beyond the type", "[layer_norm_test]") {
  CpuSettings restore;
  const DType f = DType::float32;
  for (const double size : {1e-25, 1e-18, 1e18, 1e20, 1e30, 2e38}) {
    for (const int64_t n : {4, 37}) {
      CAPTURE(size, n);
      Tensor x = values({3, n}, f, 1, -1, 1);
      float* const at = x.data<float>();
      for (int64_t i = 0; i < n; ++i) at[n + i] *= static_cast<float>(size);  // between two others
      const Tensor weight = values({n}, f, 3), bias = values({n}, f, 4);
      const Tensor g = values({3, n}, f, 2, -1e12, 1e12);
      const auto result = [&](Backend& on) {
        const Tensor out = nothing({3, n}, f), statistics = nothing({3, 2}, DType::float64);
        on.layer_norm({weight, bias, 0}, x, out, statistics);
        const Tensor g_x = nothing({3, n}, f);
        on.layer_norm_grad({weight, {}, 0}, x, statistics, g, g_x, {}, {});
        auto all = out.to_vector<double>();
        for (int64_t row = 0; row < 3; ++row) {
          const double scale = statistics.data<double>()[2 * row + 1];
          all.push_back(std::log(scale));
          for (int64_t i = 0; i < n; ++i)
            all.push_back(static_cast<double>(g_x.data<float>()[row * n + i]) / scale / 1e12);
        }
        return all;
      };
      const std::vector<double> want = result(reference_backend());
      for (const std::string& isa : instruction_sets()) {
        cpu::set_isa(isa.c_str());
        const std::vector<double> got = result(fast_cpu_backend());
        for (std::size_t i = 0; i < got.size(); ++i)
          REQUIRE(got[i] == Catch::Approx(want[i]).epsilon(1e-5).margin(1e-5));
      }
    }
  }
}

TEST_CASE("the reference layer norm is its definition", "[layer_norm_test]") {
  const auto array = [](std::vector<double> v, const Shape& s) {
    return Tensor::from(v, s, DType::float64);
  };
  // Mean 2, variance 2/3.
  const Tensor x = array({1, 2, 3}, {1, 3}), weight = array({2, 1, -1}, {3}),
               bias = array({0, 5, 1}, {3});
  const Tensor out = nothing({1, 3}, DType::float64), statistics = nothing({1, 2}, DType::float64);
  reference_backend().layer_norm({weight, bias, 1.0 / 3}, x, out, statistics);
  CHECK(statistics.to_vector<double>() == std::vector<double>{2, 1});
  CHECK(out.to_vector<double>() == std::vector<double>{-2, 5, 0});
}
