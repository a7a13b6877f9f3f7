// Average pooling of the fast backend against the reference loops, and those against a sum by hand.
#include "kernels/pool_support.h"

#include "catch.hpp"
#include "kernels/cpu_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

TEST_CASE("fast pooling equals the reference loops", "[pool_test]") {
  fast_equals_reference(pool_cases(),
                        [](Backend& on, const PoolCase& c, DType dtype) {
                          const Tensor x = values(c.x(), dtype, 1), g = values(c.out(), dtype, 2);
                          std::vector<Tensor> r = {nothing(c.out(), dtype), nothing(c.x(), dtype)};
                          on.avg_pool2d(c.options, x, r[0]);
                          on.avg_pool2d_grad(c.options, g, r[1]);
                          return r;
                        },
                        relative_error, {1e-6, 1e-14});
}

TEST_CASE("reference pooling is the mean of its definition", "[pool_test]") {
  const auto array = [](std::vector<double> v, const Shape& s) {
    return Tensor::from(v, s, DType::float64);
  };
  const Tensor x = array({1, 2, 3, 4, 5, 6}, {1, 1, 2, 3}), g_x = nothing(x.shape(), x.dtype()),
               two = nothing({1, 1, 1, 2}, x.dtype()), four = nothing({1, 1, 1, 4}, x.dtype());
  const Pooling across{{2, 2}, {2, 1}, {0, 0}}, padded{{2, 2}, {2, 1}, {0, 1}};
  reference_backend().avg_pool2d(across, x, two);
  CHECK(two.to_vector<double>() == std::vector<double>{3, 4});
  reference_backend().avg_pool2d(padded, x, four);
  CHECK(four.to_vector<double>() == std::vector<double>{1.25, 3, 4, 2.25});
  reference_backend().avg_pool2d_grad(across, array({4, 8}, {1, 1, 1, 2}), g_x);
  CHECK(g_x.to_vector<double>() == std::vector<double>{1, 3, 2, 1, 3, 2});
  // Windows 0 and 1 share the second of three columns.
  const Pooling spans{{2, 0}, {2, 1}, {0, 0}};
  reference_backend().avg_pool2d(spans, x, two);
  CHECK(two.to_vector<double>() == std::vector<double>{3, 4});
  reference_backend().avg_pool2d_grad(spans, array({4, 8}, {1, 1, 1, 2}), g_x);
  CHECK(g_x.to_vector<double>() == std::vector<double>{1, 3, 2, 1, 3, 2});
  reference_backend().avg_pool2d(spans, x, four);
  CHECK(four.to_vector<double>() == std::vector<double>{2.5, 3, 4, 4.5});
}
