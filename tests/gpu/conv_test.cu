// Convolutions of the CUDA backend against the reference loops.
#include "backend_support.cuh"
#include "kernels/conv_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

void check(const ConvCase& c, DType dtype) {
  const std::string what = std::string(name_of(dtype)) + " " + c.text();
  const auto fresh = [&](const Shape& s) { return Tensor::empty(s, dtype); };
  const Tensor x = values(c.x(), dtype, 1), weight = values(c.weight(), dtype, 2),
               bias = values({c.outputs}, dtype, 3), g = values(c.out(), dtype, 4);
  same_as_reference(
      what, {fresh(c.out()), x, weight, bias}, 1,
      [&](Backend& be, std::vector<View>& v) { be.conv2d(c.options, v[1], v[2], v[3], v[0]); });
  same_as_reference("gradient of " + what,
                    {fresh(c.x()), fresh(c.weight()), fresh({c.outputs}), x, weight, g}, 3,
                    [&](Backend& be, std::vector<View>& v) {
                      be.conv2d_grad(c.options, v[3], v[4], v[5], v[0], v[1], v[2]);
                    });
}

}  // namespace

TEST_CASE("convolutions of every kind on the device", "[conv_test]") {
  for (const DType dtype : {DType::float32, DType::float64})
    for (const ConvCase& c : conv_cases()) check(c, dtype);
}

TEST_CASE("gradients of weights over several chunks of pixels", "[conv_test]") {
  check({40, 1, 12, 11, 3, 2, 2, {1, 0, 1, 1}}, DType::float32);
}

TEST_CASE("a convolution on the device without bias, and one gradient at a time", "[conv_test]") {
  const DType f = DType::float32;
  const ConvCase c{2, 3, 9, 7, 5, 3, 2, {2, 1, 1, 1}};
  const Tensor x = values(c.x(), f, 1), weight = values(c.weight(), f, 2),
               g = values(c.out(), f, 4);
  const auto fresh = [&](const Shape& s) { return Tensor::empty(s, f); };
  same_as_reference(
      "without bias", {fresh(c.out()), x, weight}, 1,
      [&](Backend& be, std::vector<View>& v) { be.conv2d(c.options, v[1], v[2], View(), v[0]); });
  same_as_reference("of x", {fresh(c.x()), x, weight, g}, 1,
                    [&](Backend& be, std::vector<View>& v) {
                      be.conv2d_grad(c.options, v[1], v[2], v[3], v[0], View(), View());
                    });
  same_as_reference("of the weight", {fresh(c.weight()), x, weight, g}, 1,
                    [&](Backend& be, std::vector<View>& v) {
                      be.conv2d_grad(c.options, v[1], v[2], v[3], View(), v[0], View());
                    });
  same_as_reference("of the weight, without places",
                    {fresh(c.weight()), x, weight, fresh({2, 5, 0, 3})}, 1,
                    [&](Backend& be, std::vector<View>& v) {
                      be.conv2d_grad(c.options, v[1], v[2], v[3], View(), v[0], View());
                    });
}
