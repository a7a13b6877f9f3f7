// Pooling of the fast backend against the reference loops, and those against a sum by hand.
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

TEST_CASE("fast largest elements and their places equal the reference loops", "[pool_test]") {
  fast_equals_reference(pool_cases(),
                        [](Backend& on, const PoolCase& c, DType dtype) {
                          const Tensor out = nothing(c.out(), dtype),
                                       index = Tensor::empty(c.out(), DType::int64);
                          on.max_pool2d(c.options, crowded(c.x(), dtype), out, index);
                          return std::vector<Tensor>{out, index};
                        },
                        relative_error, {1e-300, 1e-300});
}

TEST_CASE("the fast gradient of largest elements equals the reference loops", "[pool_test]") {
  fast_equals_reference(pool_cases(),
                        [](Backend& on, const PoolCase& c, DType dtype) {
                          const Tensor g = values(c.out(), dtype, 2), g_x = nothing(c.x(), dtype);
                          on.max_pool2d_grad(c.options, g, places_of_largest(c), g_x);
                          return std::vector<Tensor>{g_x};
                        },
                        relative_error, {1e-6, 1e-14});
}

TEST_CASE("the largest element is the first of equals, and a NaN before all", "[pool_test]") {
  const double nan = std::nan(""), least = -std::numeric_limits<double>::infinity();
  const auto places = [](std::vector<double> v, const Shape& s, const Pooling& p,
                         const Shape& out) {
    const Tensor index = Tensor::empty(out, DType::int64), values = nothing(out, DType::float64);
    reference_backend().max_pool2d(p, Tensor::from(v, s, DType::float64), values, index);
    return index.to_vector<int64_t>();
  };
  using Places = std::vector<int64_t>;
  const Pooling across{{2, 2}, {2, 1}, 0}, padded{2, {2, 1}, {0, 1}};
  CHECK(places({1, 5, 5, 4, 5, 6}, {1, 1, 2, 3}, across, {1, 1, 1, 2}) == Places{1, 5});
  CHECK(places({1, nan, 9, nan, 8, 9}, {1, 1, 2, 3}, across, {1, 1, 1, 2}) == Places{1, 1});
  // Padding is smaller than the least value; places are those of a window's own plane.
  const std::vector<double> low(6, least);
  CHECK(places(low, {1, 1, 2, 3}, padded, {1, 1, 1, 4}) == Places{0, 0, 1, 2});
  CHECK(places({0, 1, 2, 3, 7, 6, 5, 4}, {1, 2, 2, 2}, {2, 2, 0}, {1, 2, 1, 1}) == Places{3, 0});
  // Windows that share their largest element add their cotangents there.
  const Tensor g = Tensor::from(std::vector<double>{4, 8, 16, 32}, {1, 2, 1, 2}, DType::float64),
               index = Tensor::from(Places{1, 1, 5, 4}, {1, 2, 1, 2}, DType::int64),
               g_x = nothing({1, 2, 2, 3}, DType::float64);
  reference_backend().max_pool2d_grad(across, g, index, g_x);
  CHECK(g_x.to_vector<double>() == std::vector<double>{0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 32, 16});
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
