// Convolutions of the fast backend against the reference loops, and those against a sum by hand.
#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/reference/reference.h"
#include "kernels/conv_support.h"
#include "kernels/cpu_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

/// {out, g_x, g_weight, g_bias} of seeded values.
std::vector<Tensor> convolved(Backend& on, const ConvCase& c, DType dtype, bool bias = true) {
  const Tensor x = values(c.x(), dtype, 1), weight = values(c.weight(), dtype, 2),
               b = values({c.outputs}, dtype, 3), g = values(c.out(), dtype, 4);
  std::vector<Tensor> r = {nothing(c.out(), dtype), nothing(c.x(), dtype),
                           nothing(c.weight(), dtype), nothing({c.outputs}, dtype)};
  on.conv2d(c.options, x, weight, bias ? View(b) : View(), r[0]);
  on.conv2d_grad(c.options, x, weight, g, r[1], r[2], r[3]);
  return r;
}

/// Norm of the difference over the norm; infinite for NaN.
double norm_error(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = got.to_vector<double>(), b = want.to_vector<double>();
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  if (std::isnan(error)) return HUGE_VAL;
  return error == 0 ? 0 : std::sqrt(error / size);
}

}  // namespace

TEST_CASE("fast convolutions equal the reference loops", "[conv_test]") {
  // In double the reference rounds as much: its sums run in one order, ours in blocks.
  fast_equals_reference(
      conv_cases(),
      [](Backend& on, const ConvCase& c, DType dtype) { return convolved(on, c, dtype); },
      norm_error, {1e-6, 1e-13});
}

TEST_CASE("the reference convolution is the sum of its definition", "[conv_test]") {
  const auto array = [](std::vector<double> v, const Shape& s) {
    return Tensor::from(v, s, DType::float64);
  };
  const Tensor x = array({1, 2, 3, 4, 5, 6}, {1, 1, 2, 3}), weight = array({1, -2}, {1, 1, 1, 2}),
               bias = array({10}, {1}), out = nothing({1, 1, 2, 2}, DType::float64),
               g = array({1, 10, 100, 1000}, {1, 1, 2, 2}), g_x = nothing(x.shape(), x.dtype()),
               g_weight = nothing(weight.shape(), x.dtype());
  reference_backend().conv2d({}, x, weight, bias, out);
  CHECK(out.to_vector<double>() == std::vector<double>{7, 6, 4, 3});
  reference_backend().conv2d_grad({}, x, weight, g, g_x, g_weight, View());
  CHECK(g_x.to_vector<double>() == std::vector<double>{1, 8, -20, 100, 800, -2000});
  CHECK(g_weight.to_vector<double>() ==
        std::vector<double>{1 + 20 + 400 + 5000, 2 + 30 + 500 + 6000});
}

TEST_CASE("a convolution without bias, and one gradient at a time", "[conv_test]") {
  const ConvCase c{2, 3, 9, 7, 5, 3, 2, {2, 1, 1, 1}};
  const DType f = DType::float64;
  CHECK(norm_error(convolved(fast_cpu_backend(), c, f, false)[0],
                   convolved(reference_backend(), c, f, false)[0]) < 2e-15);
  const std::vector<Tensor> both = convolved(fast_cpu_backend(), c, f);
  const Tensor x = values(c.x(), f, 1), weight = values(c.weight(), f, 2),
               g = values(c.out(), f, 4);
  const Tensor g_x = nothing(c.x(), f), g_weight = nothing(c.weight(), f);
  fast_cpu_backend().conv2d_grad(c.options, x, weight, g, g_x, View(), View());
  fast_cpu_backend().conv2d_grad(c.options, x, weight, g, View(), g_weight, View());
  const Tensor g_bias = nothing({c.outputs}, f);
  fast_cpu_backend().conv2d_grad(c.options, x, weight, g, View(), View(), g_bias);
  CHECK(norm_error(g_bias, both[3]) < 2e-15);
  CHECK(bytes_of(g_x) == bytes_of(both[1]));
  CHECK(bytes_of(g_weight) == bytes_of(both[2]));
}

TEST_CASE("convolutions have the same bits at any number of threads", "[conv_test]") {
  CpuSettings restore;
  const auto bits = [](int threads) {
    set_num_threads(threads);
    std::string all;
    for (const ConvCase& c : {ConvCase{19, 16, 24, 24, 32, 3, 3, {2, 1, 1, 1}},
                              ConvCase{1, 64, 56, 56, 40, 3, 3, {2, 1, 1, 1}},
                              ConvCase{9, 3, 48, 48, 16, 5, 5, {2, 2, 1, 1}}}) {
      for (const Tensor& t : convolved(fast_cpu_backend(), c, DType::float32)) all += bytes_of(t);
    }
    return all;
  };
  const std::string one = bits(1);
  CHECK(bits(2) == one);
  CHECK(bits(5) == one);
}

TEST_CASE("an image's convolution does not depend on its batch", "[conv_test]") {
  ConvCase c{1, 6, 13, 10, 21, 3, 3, {2, 1, 1, 1}};
  const std::vector<Tensor> one = convolved(fast_cpu_backend(), c, DType::float32);
  c.images = 40;
  const std::vector<Tensor> many = convolved(fast_cpu_backend(), c, DType::float32);
  for (const size_t i : {0, 1}) {  // the values of seed 1 and 4 start with those of one image
    const std::string first = bytes_of(one[i]);
    CHECK(bytes_of(many[i]).substr(0, first.size()) == first);
  }
}

TEST_CASE("NaN and infinity reach what saw them, and nothing else", "[conv_test]") {
  const DType f = DType::float32;
  for (Backend* on : {&reference_backend(), &fast_cpu_backend()}) {
    std::vector<double> v(36, 1.0);
    v[0] = NAN;
    const Tensor x = Tensor::from(v, {1, 1, 6, 6}, f), weight = values({2, 1, 2, 2}, f, 2),
                 out = nothing({1, 2, 5, 5}, f), g_x = nothing(x.shape(), f),
                 g_weight = nothing(weight.shape(), f), g = values({1, 2, 5, 5}, f, 3);
    on->conv2d({}, x, weight, View(), out);
    on->conv2d_grad({}, x, weight, g, g_x, g_weight, View());
    const std::vector<double> y = out.to_vector<double>(), w = g_weight.to_vector<double>();
    for (size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i % 25 == 0));
    for (size_t i = 0; i < w.size(); ++i) CHECK(std::isnan(w[i]) == (i % 4 == 0));
    for (const double d : g_x.to_vector<double>()) CHECK(std::isfinite(d));
  }
}
