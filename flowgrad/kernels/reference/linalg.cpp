#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

using namespace reference;

namespace {

/// A square matrix in double, so that float32 inputs lose nothing on the way.
struct Square {
  int64_t n;
  std::vector<double> v;

  template <class T>
  Square(const T* from, int64_t size) : n(size), v(from, from + size * size) {}
  double& operator()(int64_t i, int64_t j) { return v[static_cast<size_t>(i * n + j)]; }
  template <class T>
  void store(T* to) const {
    for (size_t i = 0; i < v.size(); ++i) to[i] = static_cast<T>(v[i]);
  }
};

/// Doolittle's elimination with partial pivoting, in place. Returns the determinant of the row
/// swaps.
double factor_lu(Square& m, int64_t* rows) {
  const int64_t n = m.n;
  double sign = 1;
  std::iota(rows, rows + n, int64_t{0});
  for (int64_t k = 0; k < n; ++k) {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (std::abs(m(i, k)) > std::abs(m(best, k))) best = i;
    }
    if (best != k) {
      for (int64_t j = 0; j < n; ++j) std::swap(m(k, j), m(best, j));
      std::swap(rows[k], rows[best]);
      sign = -sign;
    }
    if (m(k, k) == 0.0) continue;  // the column below is zero too: U is singular, L needs nothing
    for (int64_t i = k + 1; i < n; ++i) {
      m(i, k) /= m(k, k);
      for (int64_t j = k + 1; j < n; ++j) m(i, j) -= m(i, k) * m(k, j);
    }
  }
  return sign;
}

}  // namespace

void ReferenceBackend::lu(View a, View lu, View pivots, View sign) {
  require_lu(a, lu, pivots, sign);
  const int64_t n = a.shape->back();
  visit_floating("lu", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < batch_of_matrices(*a.shape); ++i) {
      Square m(a.as<T>() + i * n * n, n);
      sign.as<T>()[i] = static_cast<T>(factor_lu(m, pivots.as<int64_t>() + i * n));
      m.store(lu.as<T>() + i * n * n);
    }
  });
}

void ReferenceBackend::cholesky(View a, View out) {
  require_dtype("cholesky", "out", out, a.dtype);
  const int64_t n = a.shape->back();
  visit_floating("cholesky", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t entry = 0; entry < batch_of_matrices(*a.shape); ++entry) {
      Square m(a.as<T>() + entry * n * n, n);
      for (int64_t j = 0; j < n; ++j) {
        double d = m(j, j);
        for (int64_t k = 0; k < j; ++k) d -= m(j, k) * m(j, k);
        if (!(d > 0.0)) not_positive_definite(entry, j + 1);  // NaN is refused too
        m(j, j) = std::sqrt(d);
        for (int64_t i = j + 1; i < n; ++i) {
          double s = m(i, j);
          for (int64_t k = 0; k < j; ++k) s -= m(i, k) * m(j, k);
          m(i, j) = s / m(j, j);
          m(j, i) = 0.0;
        }
      }
      m.store(out.as<T>() + entry * n * n);
    }
  });
}

void ReferenceBackend::triangular_solve(View a, View b, bool upper, bool unit_diagonal, View out) {
  require_triangular_solve(a, b, out);
  const int64_t n = a.shape->back();
  const int64_t columns = b.shape->back();
  visit_floating("triangular_solve", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<double> x(static_cast<size_t>(n));
    for (int64_t entry = 0; entry < batch_of_matrices(*a.shape); ++entry) {
      const T* m = a.as<T>() + entry * n * n;
      const T* right = b.as<T>() + entry * n * columns;
      T* left = out.as<T>() + entry * n * columns;
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t step = 0; step < n; ++step) {
          const int64_t i = upper ? n - 1 - step : step;
          double s = static_cast<double>(right[i * columns + c]);
          const int64_t begin = upper ? i + 1 : 0;
          const int64_t end = upper ? n : i;
          for (int64_t k = begin; k < end; ++k) {
            s -= static_cast<double>(m[i * n + k]) * x[static_cast<size_t>(k)];
          }
          if (!unit_diagonal) s /= static_cast<double>(m[i * n + i]);
          x[static_cast<size_t>(i)] = s;
        }
        for (int64_t i = 0; i < n; ++i)
          left[i * columns + c] = static_cast<T>(x[static_cast<size_t>(i)]);
      }
    }
  });
}

}  // namespace flowgrad::kernels
