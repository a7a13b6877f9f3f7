#include "flowgrad/models/frechet.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

/// Rotates rows and columns p and q of a so that a[p, q] becomes 0, and the columns of v with them.
void rotate(std::vector<double>& a, std::vector<double>& v, size_t n, size_t p, size_t q) {
  const double off = a[p * n + q];
  if (off == 0) return;
  const double theta = (a[q * n + q] - a[p * n + p]) / (2 * off);
  const double t = std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(1.0, theta));
  const double c = 1 / std::hypot(1.0, t), s = t * c;
  for (size_t k = 0; k < n; ++k) {
    const double x = a[k * n + p], y = a[k * n + q];
    a[k * n + p] = c * x - s * y;
    a[k * n + q] = s * x + c * y;
  }
  for (size_t k = 0; k < n; ++k) {
    const double x = a[p * n + k], y = a[q * n + k];
    a[p * n + k] = c * x - s * y;
    a[q * n + k] = s * x + c * y;
    const double e = v[k * n + p], f = v[k * n + q];
    v[k * n + p] = c * e - s * f;
    v[k * n + q] = s * e + c * f;
  }
}

struct Normal {
  Tensor mean;        // (F)
  Tensor covariance;  // (F, F)
};

Normal normal_of(const Tensor& x) {
  const Tensor rows = cast(to(x, Device::cpu()), DType::float64);
  const Tensor m = mean(rows, {0});
  const Tensor centred = rows - m;
  return {m, matmul(transpose(centred), centred) / static_cast<double>(rows.size(0) - 1)};
}

Tensor square_root(const Tensor& a) {
  const SymmetricEigen e = symmetric_eigen(a);
  return matmul(e.vectors * sqrt(maximum(e.values, zeros_like(e.values))), transpose(e.vectors));
}

}  // namespace

SymmetricEigen symmetric_eigen(const Tensor& given) {
  NoGrad off;
  if (given.rank() != 2 || given.size(0) != given.size(1)) {
    throw ShapeError(fmt::format("symmetric_eigen: {} given; a square matrix is accepted",
                                 given.shape().to_string()));
  }
  const auto n = static_cast<size_t>(given.size(0));
  std::vector<double> a = cast(to(given, Device::cpu()), DType::float64).to_vector<double>();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      if (!std::isfinite(a[i * n + j]))
        throw ValueError("symmetric_eigen: the matrix holds values that are not finite");
      a[j * n + i] = a[i * n + j];
    }
  }
  std::vector<double> v(n * n, 0);
  for (size_t i = 0; i < n; ++i) v[i * n + i] = 1;
  const double whole = std::inner_product(a.begin(), a.end(), a.begin(), 0.0);
  constexpr int kSweeps = 60;  // about ten are needed: convergence is quadratic
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    double rest = 0;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < i; ++j) rest += a[i * n + j] * a[i * n + j];
    }
    if (rest <= 1e-32 * whole) break;
    for (size_t p = 0; p + 1 < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) rotate(a, v, n, p, q);
    }
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t i, size_t j) { return a[i * n + i] < a[j * n + j]; });
  std::vector<double> values, vectors(n * n);
  for (size_t k = 0; k < n; ++k) {
    values.push_back(a[order[k] * n + order[k]]);
    for (size_t i = 0; i < n; ++i) vectors[i * n + k] = v[i * n + order[k]];
  }
  const auto size = static_cast<int64_t>(n);
  return {Tensor::from(values, {size}, DType::float64),
          Tensor::from(vectors, {size, size}, DType::float64)};
}

double frechet_distance(const Tensor& a, const Tensor& b) {
  NoGrad off;
  for (const Tensor* t : {&a, &b}) {
    if (t->rank() == 2 && t->size(0) >= 2 && t->size(1) == a.size(-1)) continue;
    throw ShapeError(
        fmt::format("frechet_distance: features {} and {} given; (N, F) and (M, F) with N and M at "
                    "least 2 are accepted",
                    a.shape().to_string(), b.shape().to_string()));
  }
  const Normal p = normal_of(a), q = normal_of(b);
  // The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2).
  const Tensor root = square_root(p.covariance);
  const Tensor inner = symmetric_eigen(matmul(matmul(root, q.covariance), root)).values;
  const double cross = sum(sqrt(maximum(inner, zeros_like(inner)))).item();
  const double traces = sum(diag(p.covariance)).item() + sum(diag(q.covariance)).item();
  return sum(square(p.mean - q.mean)).item() + traces - 2 * cross;
}

}  // namespace flowgrad
