// Factorisations and triangular solves of the fast backend against the reference loops.
#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "kernels/cpu_support.h"
#include "kernels/special_values.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

struct MatrixCase {
  int64_t batch, n, columns;
  std::string text() const {
    return std::to_string(batch) + " of " + std::to_string(n) + ", " + std::to_string(columns) +
           " columns";
  }
  Shape shape() const { return {batch, n, n}; }
};

/// Sizes around those of leaves, of halves that are no whole leaves, and of shared batches.
std::vector<MatrixCase> matrix_cases() {
  std::vector<MatrixCase> cases{{0, 4, 2},  {3, 0, 2},   {2, 5, 0},
                                {40, 8, 3}, {30, 33, 1}, {1, 70, 91}};
  for (const int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 65, 100, 129, 200})
    cases.push_back({n < 40 ? 2 : 1, n, n % 3 == 0 ? 1 : n % 40 + 1});
  return cases;
}

/// Values in [-1, 1), and `diagonal` more where row and column are one.
Tensor matrices(const MatrixCase& c, DType dtype, double diagonal) {
  Dice dice(static_cast<uint64_t>(c.n) + 3);
  std::vector<double> v;
  for (int64_t i = 0; i < numel(c.shape()); ++i)
    v.push_back(dice.real(-1, 1) + (i % (c.n * c.n) % (c.n + 1) == 0 ? diagonal : 0));
  return Tensor::from(v, c.shape(), dtype);
}

/// a a^T + 1.
Tensor positive_definite(const MatrixCase& c, DType dtype) {
  const std::vector<double> a = matrices(c, DType::float64, 0).to_vector<double>();
  std::vector<double> v(a.size());
  for (int64_t e = 0, n = c.n; e < c.batch; ++e) {
    const double* const m = a.data() + e * n * n;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double s = i == j;
        for (int64_t k = 0; k < n; ++k) s += m[i * n + k] * m[j * n + k];
        v[static_cast<size_t>((e * n + i) * n + j)] = s;
      }
  }
  return Tensor::from(v, c.shape(), dtype);
}

std::vector<Tensor> factors(Backend& on, const Tensor& a) {
  Shape rows = a.shape(), batch;
  rows.erase(rows.rank() - 1);
  batch = rows;
  batch.erase(batch.rank() - 1);
  std::vector<Tensor> out{nothing(a.shape(), a.dtype()), Tensor::empty(rows, DType::int64),
                          nothing(batch, a.dtype())};
  on.lu(a, out[0], out[1], out[2]);
  return out;
}

Tensor lower_factor(Backend& on, const Tensor& a) {
  const Tensor out = nothing(a.shape(), a.dtype());
  on.cholesky(a, out);
  return out;
}

std::vector<Tensor> solutions(Backend& on, const MatrixCase& c, DType dtype) {
  // A dominant diagonal for the one, small other entries for the other: solutions stay moderate.
  const Tensor a = matrices(c, dtype, static_cast<double>(c.n));
  const Tensor unit = Tensor::from(
      [&] {
        std::vector<double> v = a.to_vector<double>();
        for (double& x : v) x /= static_cast<double>(c.n);
        return v;
      }(),
      c.shape(), dtype);
  const Tensor b = values({c.batch, c.n, c.columns}, dtype, 9);
  std::vector<Tensor> out;
  for (const bool upper : {false, true})
    for (const bool unit_diagonal : {false, true}) {
      out.push_back(nothing(b.shape(), dtype));
      on.triangular_solve(unit_diagonal ? unit : a, b, upper, unit_diagonal, out.back());
    }
  return out;
}

std::string refusal(Backend& on, const Tensor& a) {
  try {
    lower_factor(on, a);
  } catch (const ValueError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("fast factors have the reference's pivots and values", "[linalg_test]") {
  const auto run = [](Backend& on, const MatrixCase& c, DType dtype) {
    return factors(on, matrices(c, dtype, 0));
  };
  // Both compute in double.
  fast_equals_reference(matrix_cases(), run, relative_error, {1e-7, 1e-10});
}

TEST_CASE("fast factors of singular matrices and of NaN are the reference's", "[linalg_test]") {
  struct Filled {
    int64_t n;
    double value, corner;
    std::string text() const { return std::to_string(n) + " filled"; }
  };
  std::vector<Filled> cases;
  for (const int64_t n : {3, 16, 20, 50})
    for (const double value : {0., 1., kNan}) cases.push_back({n, value, n % 2 == 0 ? 2 : value});
  const auto run = [](Backend& on, const Filled& c, DType dtype) {
    std::vector<double> v(static_cast<size_t>(c.n * c.n), c.value);
    v.back() = c.corner;
    return factors(on, Tensor::from(v, {c.n, c.n}, dtype));
  };
  fast_equals_reference(cases, run, relative_error, {1e-300, 1e-300});
}

TEST_CASE("fast Cholesky factors equal the reference's", "[linalg_test]") {
  const auto run = [](Backend& on, const MatrixCase& c, DType dtype) {
    return std::vector<Tensor>{lower_factor(on, positive_definite(c, dtype))};
  };
  fast_equals_reference(matrix_cases(), run, relative_error, {1e-6, 1e-9});
}

TEST_CASE("a matrix that is not positive definite is named as by the reference", "[linalg_test]") {
  CpuSettings restore;
  for (const int64_t n : {5, 16, 40, 100}) {
    for (const int64_t minor : {int64_t{1}, n / 2, n}) {
      for (const double value : {0., -1., kNan}) {
        const MatrixCase c{300, n, 0};
        std::vector<double> v(static_cast<size_t>(numel(c.shape())));
        for (int64_t i = 0; i < numel(c.shape()); ++i)
          v[static_cast<size_t>(i)] = i % (n * n) % (n + 1) == 0;
        for (const int64_t entry : {7, 250})
          v[static_cast<size_t>(entry * n * n + (minor - 1) * (n + 1))] = value;
        const Tensor a = Tensor::from(v, c.shape(), DType::float64);
        for (const int threads : {1, 2}) {
          set_num_threads(threads);
          CAPTURE(n, minor, value, threads);
          const std::string said = refusal(fast_cpu_backend(), a);
          CHECK(said == refusal(reference_backend(), a));
          CHECK(said.find("batch entry 7 ") != std::string::npos);
        }
      }
    }
  }
}

TEST_CASE("fast triangular solves equal the reference's", "[linalg_test]") {
  fast_equals_reference(matrix_cases(), solutions, relative_error, {1e-6, 1e-12});
}

TEST_CASE("bits of factors and solves do not depend on the threads", "[linalg_test]") {
  for (const MatrixCase& c : {MatrixCase{1, 300, 200}, {60, 20, 7}, {3, 140, 1}}) {
    for (const DType dtype : {DType::float32, DType::float64}) {
      same_at_any_threads(c.text(), [&] {
        std::vector<Tensor> out = factors(fast_cpu_backend(), matrices(c, dtype, 0));
        out.push_back(lower_factor(fast_cpu_backend(), positive_definite(c, dtype)));
        for (const Tensor& t : solutions(fast_cpu_backend(), c, dtype)) out.push_back(t);
        return out;
      });
    }
  }
}
