#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/names.h"
#include "kernels/reference_support.h"
#include "kernels/special_values.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

namespace {

Tensor matrix(const V& v, const Shape& shape, DType dtype = DType::float64) {
  return Tensor::from(v, shape, dtype);
}

V reduced(ReduceOp op, const Tensor& x, const Shape& shape) {
  const Tensor out =
      strided(Tensor::from(V(static_cast<size_t>(numel(shape)), 5), shape, x.dtype()), 3);
  be.reduce(op, x, out);
  return out.to_vector<double>();
}

V scanned(ScanOp op, const Tensor& x, int axis, bool reverse) {
  const Tensor out = strided(Tensor::empty(x.shape(), x.dtype()), 8);
  be.scan(op, x, axis, reverse, out);
  return out.to_vector<double>();
}

}  // namespace

TEST_CASE("reduce over one axis, several, all and none", "[reference_reduce_test]") {
  V v(24);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>(i) - 7;
  for (DType dtype : {DType::float32, DType::float64, DType::int64}) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      CAPTURE(name_of(dtype), seed);
      const Tensor x = strided(matrix(v, {2, 3, 4}, dtype), seed);
      CHECK(same(reduced(ReduceOp::sum, x, {2, 1, 4}), {-9, -6, -3, 0, 27, 30, 33, 36}));
      CHECK(same(reduced(ReduceOp::sum, x, {1, 3, 1}), {4, 36, 68}));
      CHECK(same(reduced(ReduceOp::sum, x, {1, 1, 1}), {108}));
      CHECK(same(reduced(ReduceOp::sum_squares, x, {1, 3, 1}), {300, 460, 876}));
      CHECK(same(reduced(ReduceOp::max, x, {2, 3, 1}), {-4, 0, 4, 8, 12, 16}));
      CHECK(same(reduced(ReduceOp::min, x, {1, 1, 4}), {-7, -6, -5, -4}));
      CHECK(same(reduced(ReduceOp::sum, x, {2, 3, 4}), v));
    }
  }
  CHECK(same(reduced(ReduceOp::prod, matrix({2, 3, 4, -1}, {2, 2}), {2, 1}), {6, -4}));
  CHECK(same(reduced(ReduceOp::sum, matrix({3}, {}), {}), {3}));
}

TEST_CASE("reducing nothing gives the identity", "[reference_reduce_test]") {
  const Tensor none = Tensor::empty({2, 0}, DType::float32);
  CHECK(same(reduced(ReduceOp::sum, none, {2, 1}), {0, 0}));
  CHECK(same(reduced(ReduceOp::prod, none, {2, 1}), {1, 1}));
  CHECK(reduced(ReduceOp::sum, none, {1, 0}).empty());
  const Tensor flags = Tensor::empty({0}, DType::boolean);
  CHECK(same(reduced(ReduceOp::any, flags, {1}), {0}));
  CHECK(same(reduced(ReduceOp::all, flags, {1}), {1}));
}

TEST_CASE("reductions: NaN, bool, long float32 sums, dtypes", "[reference_reduce_test]") {
  const Tensor x = matrix({1, kNan, 3, 4, 5, 6}, {2, 3});
  CHECK(same(reduced(ReduceOp::max, x, {2, 1}), {kNan, 6}));
  CHECK(same(reduced(ReduceOp::min, x, {1, 3}), {1, kNan, 3}));
  const Tensor flags = Tensor::from(std::vector<bool>{true, false, true, true}, {2, 2});
  CHECK(same(reduced(ReduceOp::any, flags, {1, 2}), {1, 1}));
  CHECK(same(reduced(ReduceOp::all, flags, {2, 1}), {0, 1}));
  CHECK_THROWS_AS(be.reduce(ReduceOp::any, x, x), DTypeError);
  CHECK_THROWS_WITH(be.reduce(ReduceOp::sum, flags, flags),
                    "sum: dtype bool given; float32, float64 and int64 are accepted");
  // In float alone, the sum would stop at 2^24.
  const int64_t n = (int64_t{1} << 24) + 1000;
  const Tensor one = matrix({1}, {1}, DType::float32);
  const Tensor ones = one.with_layout(expanded("test", one.layout(), {n}));
  CHECK(reduced(ReduceOp::sum, ones, {1})[0] == static_cast<double>(n));
}

TEST_CASE("arg_reduce finds the first extreme", "[reference_reduce_test]") {
  const Tensor x = matrix({3, 7, 7, 1, -2, kNan, 9, kNan}, {2, 4});
  const Tensor at = Tensor::empty({2, 1}, DType::int64);
  be.arg_reduce(true, strided(x, 1), 1, at);
  CHECK(at.to_vector<int64_t>() == I{1, 1});
  be.arg_reduce(false, strided(x, 2), 1, at);
  CHECK(at.to_vector<int64_t>() == I{3, 1});
  const Tensor by_column = Tensor::empty({1, 4}, DType::int64);
  be.arg_reduce(false, x, 0, by_column);
  CHECK(by_column.to_vector<int64_t>() == I{1, 1, 0, 1});
  const Tensor scalar = Tensor::empty({}, DType::int64);
  be.arg_reduce(true, matrix({4}, {}), 0, scalar);
  CHECK(scalar.item() == 0);
}

TEST_CASE("scans run along any axis in both directions", "[reference_reduce_test]") {
  const V v{1, 2, 3, 4, 5, 6};
  for (DType dtype : {DType::float32, DType::float64, DType::int64}) {
    const Tensor x = strided(matrix(v, {2, 3}, dtype), 5);
    CHECK(same(scanned(ScanOp::sum, x, 1, false), {1, 3, 6, 4, 9, 15}));
    CHECK(same(scanned(ScanOp::sum, x, 1, true), {6, 5, 3, 15, 11, 6}));
    CHECK(same(scanned(ScanOp::sum, x, 0, false), {1, 2, 3, 5, 7, 9}));
    CHECK(same(scanned(ScanOp::prod, x, 1, false), {1, 2, 6, 4, 20, 120}));
    CHECK(same(scanned(ScanOp::prod, x, 0, true), {4, 10, 18, 4, 5, 6}));
  }
  CHECK(same(scanned(ScanOp::sum, matrix({3}, {}), 0, false), {3}));
  CHECK(scanned(ScanOp::sum, Tensor::empty({3, 0}), 1, false).empty());
  CHECK(scanned(ScanOp::sum, Tensor::empty({0, 3}), 1, true).empty());
}

TEST_CASE("the scan of logsumexp is stable", "[reference_reduce_test]") {
  const V y = scanned(ScanOp::logsumexp, matrix({-1000, 0, 1000, 1000, -1000}, {5}), 0, false);
  CHECK(y[0] == -1000);
  CHECK(y[1] == 0);
  CHECK(y[2] == 1000);
  CHECK_THAT(y[3], WithinRel(1000 + std::log(2.0), 1e-15));
  CHECK_THAT(y[4], WithinRel(1000 + std::log(2.0), 1e-15));
  CHECK(same(scanned(ScanOp::logsumexp, matrix({-kInf, -kInf, 2, kInf, kInf}, {5}), 0, false),
             {-kInf, -kInf, 2, kInf, kInf}));
  CHECK(same(scanned(ScanOp::logsumexp, matrix({1, kNan, 2, 5}, {4}), 0, true),
             {kNan, kNan, std::log(std::exp(2 - 5.0) + 1) + 5, 5}));
  CHECK_THROWS_AS(scanned(ScanOp::logsumexp, Tensor::empty({3}, DType::int64), 0, false),
                  DTypeError);
}

TEST_CASE("scan_extreme keeps the latest occurrence", "[reference_reduce_test]") {
  const Tensor x = strided(matrix({2, 1, 2, 5, 5, 4, kNan, 9, kNan, 1}, {10}), 6);
  const Tensor top = Tensor::empty({10}, DType::float64);
  const Tensor at = strided(Tensor::empty({10}, DType::int64), 1);
  be.scan_extreme(true, x, 0, top, at);
  CHECK(same(top.to_vector<double>(), {2, 2, 2, 5, 5, 5, kNan, kNan, kNan, kNan}));
  CHECK(at.to_vector<int64_t>() == I{0, 0, 2, 3, 4, 4, 6, 6, 8, 8});
  be.scan_extreme(false, matrix({3, 3, 1, 2, 1}, {5}), 0, matrix(V(5), {5}),
                  at.with_layout(sliced("test", at.layout(), 0, 0, 5, 1)));
  CHECK(std::vector<int64_t>(I{0, 1, 2, 2, 4}) ==
        at.with_layout(sliced("test", at.layout(), 0, 0, 5, 1)).to_vector<int64_t>());
}

TEST_CASE("linear_scan solves its recurrence", "[reference_reduce_test]") {
  const Tensor a = matrix({kInf, 2, 3, 0.5, 1, -1}, {2, 3});
  const Tensor b = matrix({1, 1, 1, 4, 5, 6}, {2, 3});
  const Tensor out = strided(matrix(V(6), {2, 3}), 4);
  be.linear_scan(strided(a, 1), strided(b, 2), 1, false, out);
  CHECK(same(out.to_vector<double>(), {1, 3, 10, 4, 9, -3}));
  be.linear_scan(matrix({7, 2, 3}, {3}), matrix({1, 1, 1}, {3}), 0, true,
                 out.with_layout(Layout{{3}, {out.strides()[1]}, out.layout().offset}));
  CHECK(out.at({0, 0}) == 22);
  CHECK(out.at({0, 1}) == 3);
  CHECK(out.at({0, 2}) == 1);
}

TEST_CASE("softmax and log_softmax with their gradients", "[reference_reduce_test]") {
  const Tensor x = matrix({1, 2, 4, 1000, 1000, -kInf}, {2, 3});
  const Tensor y = strided(matrix(V(6), {2, 3}), 2);
  be.softmax(false, strided(x, 3), 1, y);
  const double total = std::exp(-3.0) + std::exp(-2.0) + 1;
  CHECK_THAT(y.at({0, 0}), WithinRel(std::exp(-3.0) / total, 1e-14));
  CHECK_THAT(y.at({0, 2}), WithinRel(1 / total, 1e-14));
  CHECK(y.at({1, 0}) == 0.5);
  CHECK(y.at({1, 2}) == 0);
  be.softmax(true, x, 1, y);
  CHECK_THAT(y.at({0, 0}), WithinRel(-3 - std::log(total), 1e-14));
  CHECK(y.at({1, 2}) == -kInf);
  for (bool logarithm : {false, true}) {
    const Tensor start = values({3, 4, 2}, DType::float64, 12);
    const Tensor g = values({3, 4, 2}, DType::float64, 13);
    const V cotangent = g.to_vector<double>();
    const auto loss = [&](const Tensor& at) {
      const Tensor f = Tensor::empty(at.shape(), DType::float64);
      be.softmax(logarithm, at, 1, f);
      const V value = f.to_vector<double>();
      double sum = 0;
      for (size_t i = 0; i < value.size(); ++i) sum += value[i] * cotangent[i];
      return sum;
    };
    const Tensor value = Tensor::empty(start.shape(), DType::float64);
    be.softmax(logarithm, start, 1, value);
    const Tensor out = strided(Tensor::empty(start.shape(), DType::float64), 5);
    be.softmax_grad(logarithm, strided(g, 6), strided(value, 7), 1, out);
    const V gradient = out.to_vector<double>();
    V point = start.to_vector<double>();
    for (size_t i = 0; i < point.size(); ++i) {
      const double h = 1e-6;
      const double middle = point[i];
      point[i] = middle + h;
      const double up = loss(matrix(point, start.shape()));
      point[i] = middle - h;
      const double down = loss(matrix(point, start.shape()));
      point[i] = middle;
      CHECK_THAT(gradient[i], WithinAbs((up - down) / (2 * h), 1e-8));
    }
  }
}
