// The CUDA linear algebra against the reference loops.
#include <limits>

#include "backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const std::vector<DType> kFloating{DType::float32, DType::float64};

Shape with_batch(const Shape& batch, int64_t rows, int64_t columns) {
  Shape s = batch;
  s.push_back(rows);
  s.push_back(columns);
  return s;
}

void check_lu(const Tensor& a, const Shape& batch, int64_t n) {
  Shape rows = batch;
  rows.push_back(n);
  same_as_reference("lu " + a.shape().to_string(),
                    {values(a.shape(), a.dtype(), 1), values(rows, DType::int64, 1),
                     values(batch, a.dtype(), 1), a},
                    3,
                    [](Backend& b, const std::vector<View>& v) { b.lu(v[3], v[0], v[1], v[2]); });
}

/// Diagonally dominant: the lower triangle stands for a positive definite matrix. The upper one is
/// NaN where it must not be read.
Tensor dominant(const Shape& batch, int64_t n, DType dtype, uint64_t seed, bool lower_only) {
  const Shape shape = with_batch(batch, n, n);
  std::vector<double> v = values(shape, DType::float64, seed, -1, 1).to_vector<double>();
  for (size_t i = 0; i < v.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / n % n;
    const auto column = static_cast<int64_t>(i) % n;
    if (row == column) v[i] = static_cast<double>(n) + 1 + v[i];
    if (lower_only && column > row) v[i] = std::numeric_limits<double>::quiet_NaN();
  }
  return Tensor::from(v, shape, dtype);
}

}  // namespace

TEST_CASE("lu: sizes, batches, both dtypes", "[linalg_test]") {
  for (DType dtype : kFloating) {
    for (int64_t n : {1, 2, 3, 5, 17, 33}) {
      for (const Shape& batch : {Shape{}, Shape{3}, Shape{2, 2}}) {
        check_lu(values(with_batch(batch, n, n), dtype, static_cast<uint64_t>(n)), batch, n);
      }
    }
    check_lu(values({2, 64, 64}, dtype, 4), {2}, 64);
    check_lu(values({2, 80, 80}, dtype, 5), {2}, 80);  // too large for shared memory
    check_lu(Tensor::from(std::vector<double>{}, {3, 0, 0}, dtype), {3}, 0);
    check_lu(Tensor::from(std::vector<double>{}, {0, 4, 4}, dtype), {0}, 4);
  }
}

TEST_CASE("lu: ties, zero pivots, NaN", "[linalg_test]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  check_lu(Tensor::from(std::vector<double>{0, 1, 0, 3}, {2, 2}), {}, 2);
  check_lu(Tensor::from(std::vector<double>{1, 2, 3, -1, 5, 6, 1, 0, 2}, {3, 3}), {}, 3);
  check_lu(Tensor::from(std::vector<double>(9), {3, 3}), {}, 3);
  check_lu(Tensor::from(std::vector<double>{nan, 2, 3, 4}, {2, 2}), {}, 2);
  check_lu(Tensor::from(std::vector<double>{1, 2, nan, 4}, {2, 2}), {}, 2);
  // Small whole numbers tie all the time.
  Dice dice(3);
  std::vector<double> small(20 * 36);
  for (double& x : small) x = static_cast<double>(dice.roll(-1, 1));
  check_lu(Tensor::from(small, {20, 6, 6}), {20}, 6);
}

TEST_CASE("cholesky: sizes, batches, both dtypes", "[linalg_test]") {
  for (DType dtype : kFloating) {
    for (int64_t n : {0, 1, 2, 3, 5, 17, 33, 64, 80}) {
      for (const Shape& batch : {Shape{}, Shape{3}, Shape{2, 1}, Shape{0}}) {
        const Tensor a = dominant(batch, n, dtype, static_cast<uint64_t>(n), true);
        same_as_reference("cholesky " + a.shape().to_string(), {values(a.shape(), dtype, 1), a}, 1,
                          [](Backend& b, const std::vector<View>& v) { b.cholesky(v[1], v[0]); });
      }
    }
  }
}

TEST_CASE("cholesky: names the first entry that is not positive definite", "[linalg_test]") {
  std::vector<double> v;
  for (double corner : {9.0, 3.9, 9.0, 1.0}) {
    for (double x : {1.0, 0.0, 2.0, corner}) v.push_back(x);
  }
  v[8] = -1;
  const auto message = [](Backend& b, const View& a, const View& out) {
    return message_of([&] { b.cholesky(a, out); });
  };
  for (DType dtype : kFloating) {
    const Tensor a = Tensor::from(v, {4, 2, 2}, dtype);
    const OnDevice device_a(a);
    const OnDevice device_out(a);
    const std::string got = message(cuda_backend(), device_a.view(), device_out.view());
    CHECK(got == message(reference_backend(), a, Tensor::empty({4, 2, 2}, dtype)));
    CHECK(contains(got, "batch entry 1 "));
    CHECK(contains(got, "order 2 "));
  }
  const Tensor bad =
      Tensor::from(std::vector<double>{std::numeric_limits<double>::quiet_NaN()}, {1, 1});
  const OnDevice device(bad);
  CHECK_THROWS_AS(cuda_backend().cholesky(device.view(), device.view()), ValueError);
}

TEST_CASE("triangular_solve: both triangles, sizes, columns", "[linalg_test]") {
  for (DType dtype : kFloating) {
    for (bool upper : {false, true}) {
      for (bool unit : {false, true}) {
        for (int64_t n : {1, 2, 5, 33}) {
          for (int64_t columns : {1, 3, 32, 40}) {
            Tensor a = dominant({2}, n, dtype, 7, false);
            if (unit) a = values({2, n, n}, dtype, 7, -0.2, 0.2);
            const Tensor b = values({2, n, columns}, dtype, 8);
            same_as_reference(
                "triangular_solve " + b.shape().to_string() + (upper ? " upper" : " lower"),
                {values(b.shape(), dtype, 1), a, b}, 1,
                [&](Backend& backend, const std::vector<View>& v) {
                  backend.triangular_solve(v[1], v[2], upper, unit, v[0]);
                });
          }
        }
      }
      const Tensor a = dominant({}, 200, dtype, 9, false);  // beyond shared memory
      const Tensor b = values({200, 33}, dtype, 10);
      same_as_reference("triangular_solve, large", {values(b.shape(), dtype, 1), a, b}, 1,
                        [&](Backend& backend, const std::vector<View>& v) {
                          backend.triangular_solve(v[1], v[2], upper, false, v[0]);
                        });
    }
  }
  const Tensor none = Tensor::from(std::vector<double>{}, {0, 0});
  const Tensor right = Tensor::from(std::vector<double>{}, {0, 3});
  cuda_backend().triangular_solve(none, right, true, false, right);
}

TEST_CASE("linear algebra: more matrices than scratch memory holds at once", "[linalg_test]") {
  const int64_t n = 80;
  const LittleScratch two(static_cast<size_t>(2 * n * n) * sizeof(double));
  check_lu(values({5, n, n}, DType::float64, 4), {5}, n);
  const Tensor a = dominant({5}, n, DType::float64, 3, true);
  same_as_reference("cholesky", {values(a.shape(), a.dtype(), 1), a}, 1,
                    [](Backend& b, const std::vector<View>& v) { b.cholesky(v[1], v[0]); });
  a.data<double>()[3 * n * n] = -1;
  const OnDevice bad(a), out(values(a.shape(), a.dtype(), 1));
  CHECK(contains(message_of([&] { cuda_backend().cholesky(bad.view(), out.view()); }),
                 "batch entry 3 "));
  const Tensor m = dominant({2}, 200, DType::float64, 9, false);
  const Tensor b = values({2, 200, 33}, DType::float64, 10);
  same_as_reference("triangular_solve", {values(b.shape(), b.dtype(), 1), m, b}, 1,
                    [](Backend& backend, const std::vector<View>& v) {
                      backend.triangular_solve(v[1], v[2], true, false, v[0]);
                    });
}

TEST_CASE("linear algebra: what is refused", "[linalg_test]") {
  const Tensor ints = values({2, 2}, DType::int64, 1);
  const Tensor x = values({2, 2}, DType::float32, 1);
  CHECK_THROWS_AS(cuda_backend().lu(ints, ints, ints, ints), DTypeError);
  CHECK_THROWS_AS(cuda_backend().cholesky(x, ints), DTypeError);
  CHECK_THROWS_AS(cuda_backend().triangular_solve(ints, ints, true, true, ints), DTypeError);
}
