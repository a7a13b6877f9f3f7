#include <cmath>

#include "catch.hpp"
#include "kernels/reference_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;
using Catch::Matchers::WithinAbs;

namespace {

/// A matrix (n, n) that is far from singular.
Tensor well_conditioned(int64_t batch, int64_t n, DType dtype, uint64_t seed) {
  const Tensor a = values({batch, n, n}, dtype, seed);
  V v = a.to_vector<double>();
  for (int64_t b = 0; b < batch; ++b) {
    // The largest entries lie off the diagonal, so that pivoting has work to do.
    for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>((b * n + i) * n + (i + 1) % n)] += 5;
  }
  return Tensor::from(v, a.shape(), dtype);
}

Tensor product(const Tensor& a, const Tensor& b, const Shape& shape) {
  const Tensor out = Tensor::empty(shape, a.dtype());
  be.matmul(a, b, View(), false, out);
  return out;
}

double distance(const Tensor& a, const Tensor& b) {
  const V x = a.to_vector<double>();
  const V y = b.to_vector<double>();
  REQUIRE(x.size() == y.size());
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) most = std::fmax(most, std::abs(x[i] - y[i]));
  return most;
}

Tensor transposed_last(const Tensor& t) {
  return t.with_layout(transposed("test", t.layout(), -1, -2));
}

}  // namespace

TEST_CASE("matmul: values, bias, accumulation", "[reference_matmul_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    const Tensor a = Tensor::from(V{1, 2, 3, 4, 5, 6}, {2, 3}, dtype);
    const Tensor b = Tensor::from(V{1, 0, -1, 2, 3, 1}, {3, 2}, dtype);
    const Tensor bias = strided(Tensor::from(V{100, 200}, {2}, dtype), 1);
    const Tensor out = Tensor::from(V{1, 2, 3, 4}, {2, 2}, dtype);
    be.matmul(strided(a, 3), strided(b, 4), View(), true, out);
    CHECK(out.to_vector<double>() == V{9, 9, 20, 20});
    be.matmul(a, b, bias, false, out);
    CHECK(out.to_vector<double>() == V{108, 207, 117, 216});
    be.matmul(a, b, bias, true, out);
    CHECK(out.to_vector<double>() == V{216, 414, 234, 432});
    be.matmul(transposed_last(b), transposed_last(a), View(), false, out);
    CHECK(out.to_vector<double>() == V{8, 17, 7, 16});
  }
  const Tensor ints = Tensor::from(I{1}, {1, 1});
  CHECK_THROWS_WITH(be.matmul(ints, ints, View(), false, ints),
                    "matmul: dtype int64 given; float32 and float64 are accepted");
}

TEST_CASE("matmul: empty sizes", "[reference_matmul_test]") {
  const Tensor out = Tensor::from(V{7, 7, 7, 7}, {2, 2});
  be.matmul(Tensor::empty({2, 0}, DType::float64), Tensor::empty({0, 2}, DType::float64), View(),
            false, out);
  CHECK(out.to_vector<double>() == V{0, 0, 0, 0});
  be.matmul(Tensor::empty({0, 3}), Tensor::empty({3, 2}), View(), false, Tensor::empty({0, 2}));
  be.matmul(Tensor::empty({4, 2, 3}), Tensor::empty({4, 3, 0}), View(), false,
            Tensor::empty({4, 2, 0}));
}

TEST_CASE("matmul: broadcast batches under any layout", "[reference_matmul_test]") {
  const Tensor a = values({2, 1, 3, 4}, DType::float64, 1);
  const Tensor b = values({5, 4, 2}, DType::float64, 2);
  const Tensor as = strided(a, 3);
  const Tensor bs = strided(b, 4);
  const Tensor wide_a = as.with_layout(expanded("test", as.layout(), {2, 5, 3, 4}));
  const Tensor wide_b = bs.with_layout(expanded("test", bs.layout(), {2, 5, 4, 2}));
  const Tensor out = product(wide_a, wide_b, {2, 5, 3, 2});
  for (int64_t p = 0; p < 2; ++p) {
    for (int64_t q = 0; q < 5; ++q) {
      for (int64_t m = 0; m < 3; ++m) {
        for (int64_t n = 0; n < 2; ++n) {
          double sum = 0;
          for (int64_t k = 0; k < 4; ++k) sum += a.at({p, 0, m, k}) * b.at({q, k, n});
          CHECK_THAT(out.at({p, q, m, n}), WithinAbs(sum, 1e-14));
        }
      }
    }
  }
}

TEST_CASE("lu: the factors multiply to the permuted matrix", "[reference_matmul_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    const int64_t batch = 3;
    const int64_t n = dtype == DType::float32 ? 4 : 5;  // an odd and an even number of swaps
    const Tensor a = well_conditioned(batch, n, dtype, 4);
    const Tensor lu = Tensor::empty(a.shape(), dtype);
    const Tensor rows = Tensor::empty({batch, n}, DType::int64);
    const Tensor sign = Tensor::empty({batch}, dtype);
    be.lu(a, lu, rows, sign);
    for (int64_t e = 0; e < batch; ++e) {
      int swaps = 0;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (int64_t k = 0; k <= std::min(i, j); ++k) {
            sum += (k == i ? 1.0 : lu.at({e, i, k})) * lu.at({e, k, j});
          }
          const auto row = static_cast<int64_t>(rows.at({e, i}));
          CHECK_THAT(sum, WithinAbs(a.at({e, row, j}), dtype == DType::float32 ? 1e-5 : 1e-13));
          if (j > i && rows.at({e, i}) > rows.at({e, j})) ++swaps;
          if (i > j) CHECK(std::abs(lu.at({e, i, j})) <= 1);
        }
      }
      CHECK(sign.at({e}) == (swaps % 2 == 0 ? 1 : -1));
    }
  }
}

TEST_CASE("lu: singular and empty matrices", "[reference_matmul_test]") {
  const Tensor a = Tensor::from(V{0, 1, 0, 3}, {2, 2});
  const Tensor lu = Tensor::empty({2, 2}, DType::float64);
  const Tensor rows = Tensor::empty({2}, DType::int64);
  const Tensor sign = Tensor::empty({}, DType::float64);
  be.lu(a, lu, rows, sign);
  CHECK(lu.at({0, 0}) == 0);
  CHECK(lu.at({1, 0}) == 0);
  CHECK(lu.at({1, 1}) == 3);
  be.lu(Tensor::empty({3, 0, 0}), Tensor::empty({3, 0, 0}), Tensor::empty({3, 0}, DType::int64),
        Tensor::empty({3}));
  const Tensor none = Tensor::from(V{9, 9}, {2}, DType::float32);
  be.lu(Tensor::empty({2, 0, 0}), Tensor::empty({2, 0, 0}), Tensor::empty({2, 0}, DType::int64),
        none);
  CHECK(none.to_vector<double>() == V{1, 1});
}

TEST_CASE("cholesky: the factor squares to the matrix", "[reference_matmul_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    const Tensor a = well_conditioned(2, 4, dtype, 9);
    const Tensor square = product(a, transposed_last(a), {2, 4, 4});
    const Tensor lower = Tensor::empty({2, 4, 4}, dtype);
    be.cholesky(square, lower);
    CHECK(distance(product(lower, transposed_last(lower), {2, 4, 4}), square) <
          (dtype == DType::float32 ? 1e-4 : 1e-12));
    CHECK(lower.at({1, 0, 3}) == 0);
    CHECK(lower.at({1, 3, 3}) > 0);
  }
  const Tensor bad = Tensor::from(V{1, 0, 0, 1, 4, 9, 2, 1}, {2, 2, 2});
  CHECK_THROWS_WITH(
      be.cholesky(bad, Tensor::empty({2, 2, 2}, DType::float64)),
      "cholesky: batch entry 1 is not positive definite: its leading minor of order 2 is not "
      "positive");
}

TEST_CASE("triangular_solve reads one triangle only", "[reference_matmul_test]") {
  for (bool upper : {false, true}) {
    for (bool unit : {false, true}) {
      CAPTURE(upper, unit);
      const int64_t n = 4;
      const Tensor a = values({2, n, n}, DType::float64, 3, 1, 2);
      const Tensor x = values({2, n, 3}, DType::float64, 4);
      V triangle = a.to_vector<double>();
      for (int64_t e = 0; e < 2; ++e) {
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double& t = triangle[static_cast<size_t>((e * n + i) * n + j)];
            if (upper ? i > j : i < j) t = 0;
            if (unit && i == j) t = 1;
          }
        }
      }
      const Tensor b = product(Tensor::from(triangle, {2, n, n}), x, {2, n, 3});
      const Tensor solved = Tensor::empty({2, n, 3}, DType::float64);
      be.triangular_solve(a, b, upper, unit, solved);
      CHECK(distance(solved, x) < 1e-12);
    }
  }
  be.triangular_solve(Tensor::empty({0, 0}), Tensor::empty({0, 3}), true, false,
                      Tensor::empty({0, 3}));
}
