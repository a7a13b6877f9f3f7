#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/parallel.h"

/// Recursive factorisations (Toledo 1997; Gustavson 1997): halves of a matrix meet in a product, so
/// that nearly all work runs at the product's rate. In double, so that float32 inputs lose nothing
/// on the way.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows and columns up to which plain loops do the work.
constexpr int64_t kLeaf = 16;
/// Rows up to which threads share the matrices of a batch; above, they share each product.
constexpr int64_t kSmall = 128;

/// Part of a matrix; rows are `ld` apart.
struct Part {
  double* at;
  int64_t ld;

  double* operator[](int64_t row) const { return at + row * ld; }
  Part from(int64_t row, int64_t column) const { return {at + row * ld + column, ld}; }
};

int64_t first_half(int64_t n) { return divide_up(n / 2, kLeaf) * kLeaf; }

/// c (m, n) -= a (m, k) b (k, n), or b^T where b is (n, k).
void subtract_product(int64_t m, int64_t n, int64_t k, Part a, Part b, bool transposed, Part c) {
  if (m == 0) return;
  // A product adds, so a changes its sign.
  double* const minus = scratch_of<double>(ScratchSlot::operand, m * k);
  for (int64_t i = 0; i < m; ++i)
    std::transform(a[i], a[i] + k, minus + i * k, std::negate<double>());
  Gemm<double> g =
      product<double>(m, n, k, rows_of<double>(minus, k),
                      {b.at, transposed ? 1 : b.ld, transposed ? b.ld : 1}, c.at, true);
  g.ldc = c.ld;
  gemm(g);
}

/// x (n, columns) := t^-1 x for a triangle t.
void solve_triangle(Part t, int64_t n, bool upper, bool unit, Part x, int64_t columns) {
  if (n <= kLeaf) {
    for (int64_t step = 0; step < n; ++step) {
      const int64_t i = upper ? n - 1 - step : step;
      double* const row = x[i];
      for (int64_t k = upper ? i + 1 : 0; k < (upper ? n : i); ++k) {
        const double factor = t[i][k];
        for (int64_t j = 0; j < columns; ++j) row[j] -= factor * x[k][j];
      }
      if (unit) continue;
      for (int64_t j = 0; j < columns; ++j) row[j] /= t[i][i];
    }
    return;
  }
  const int64_t half = first_half(n), rest = n - half;
  const Part top = x, bottom = x.from(half, 0);
  if (upper) {
    solve_triangle(t.from(half, half), rest, upper, unit, bottom, columns);
    subtract_product(half, columns, rest, t.from(0, half), bottom, false, top);
    solve_triangle(t, half, upper, unit, top, columns);
  } else {
    solve_triangle(t, half, upper, unit, top, columns);
    subtract_product(rest, columns, half, t.from(half, 0), top, false, bottom);
    solve_triangle(t.from(half, half), rest, upper, unit, bottom, columns);
  }
}

/// Row i changes places with row swaps[i], in order.
void swap_rows(Part a, int64_t columns, const int64_t* swaps, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (swaps[i] != i) std::swap_ranges(a[i], a[i] + columns, a[swaps[i]]);
}

/// Elimination with partial pivoting of few columns, next to each other in memory while it works.
void factor_columns(Part a, int64_t m, int64_t n, int64_t* swaps) {
  double* const memory = scratch_of<double>(ScratchSlot::partial, m * n);
  const Part w{memory, n};
  for (int64_t i = 0; i < m; ++i) std::copy_n(a[i], n, w[i]);
  for (int64_t k = 0; k < n; ++k) {
    int64_t best = k;
    for (int64_t i = k + 1; i < m; ++i)
      if (std::abs(w[i][k]) > std::abs(w[best][k])) best = i;
    swaps[k] = best;
    if (best != k) std::swap_ranges(w[k], w[k] + n, w[best]);
    if (w[k][k] == 0.0) continue;  // the column below is zero too: U is singular, L needs nothing
    for (int64_t i = k + 1; i < m; ++i) {
      const double factor = w[i][k] /= w[k][k];
      for (int64_t j = k + 1; j < n; ++j) w[i][j] -= factor * w[k][j];
    }
  }
  for (int64_t i = 0; i < m; ++i) std::copy_n(w[i], n, a[i]);
}

/// L and U of a (m, n) with m >= n, in its place; swaps (n) as swap_rows takes them.
void factor_lu(Part a, int64_t m, int64_t n, int64_t* swaps) {
  if (n <= kLeaf) return factor_columns(a, m, n, swaps);
  const int64_t half = first_half(n), rest = n - half;
  factor_lu(a, m, half, swaps);
  const Part right = a.from(0, half), corner = a.from(half, half);
  swap_rows(right, rest, swaps, half);
  solve_triangle(a, half, false, true, right, rest);
  subtract_product(m - half, rest, half, a.from(half, 0), right, false, corner);
  factor_lu(corner, m - half, rest, swaps + half);
  swap_rows(a.from(half, 0), half, swaps + half, rest);
  for (int64_t i = half; i < n; ++i) swaps[i] += half;
}

/// The lower factor of a (n, n), in its lower triangle. Returns the order of the first leading
/// minor that is not positive, 0 where all are.
int64_t factor_cholesky(Part a, int64_t n) {
  if (n <= kLeaf) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = j; i < n; ++i) {
        double s = a[i][j];
        for (int64_t k = 0; k < j; ++k) s -= a[i][k] * a[j][k];
        if (i == j && !(s > 0.0)) return j + 1;  // NaN is refused too
        a[i][j] = i == j ? std::sqrt(s) : s / a[j][j];
      }
    }
    return 0;
  }
  const int64_t half = first_half(n), rest = n - half;
  if (const int64_t bad = factor_cholesky(a, half)) return bad;
  // The rows below times L^-T, as a solve with their transpose.
  const Part below = a.from(half, 0);
  const Part turned{scratch_of<double>(ScratchSlot::partial, half * rest), rest};
  for (int64_t i = 0; i < rest; ++i)
    for (int64_t j = 0; j < half; ++j) turned[j][i] = below[i][j];
  solve_triangle(a, half, false, false, turned, rest);
  for (int64_t i = 0; i < rest; ++i)
    for (int64_t j = 0; j < half; ++j) below[i][j] = turned[j][i];
  subtract_product(rest, rest, half, below, below, true, a.from(half, half));
  const int64_t bad = factor_cholesky(a.from(half, half), rest);
  return bad == 0 ? 0 : half + bad;
}

/// f(entry) for every matrix (n, n) of a batch.
template <class F>
void for_matrices(int64_t batch, int64_t n, F&& f) {
  parallel_for_if(n <= kSmall && batch * n * n * n >= kParallelWork, batch, f);
}

/// A copy in double of `elements` numbers, in the thread's working memory.
template <class T>
double* working_copy(const T* from, int64_t elements) {
  double* const to = scratch_of<double>(ScratchSlot::solve, elements);
  std::copy_n(from, elements, to);
  return to;
}

}  // namespace

void CpuBackendFast::lu(View a, View lu, View pivots, View sign) {
  require_lu(a, lu, pivots, sign);
  const int64_t n = a.shape->back();
  visit_floating("lu", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_matrices(batch_of_matrices(*a.shape), n, [&](int64_t entry) {
      double* const m = working_copy(a.as<const T>() + entry * n * n, n * n);
      int64_t* const rows = pivots.as<int64_t>() + entry * n;
      factor_lu({m, n}, n, n, rows);
      std::copy_n(m, n * n, lu.as<T>() + entry * n * n);
      int64_t* const swaps = scratch_of<int64_t>(ScratchSlot::operand, n);
      std::copy_n(rows, n, swaps);
      std::iota(rows, rows + n, int64_t{0});
      double determinant = 1;
      for (int64_t i = 0; i < n; ++i) {
        if (swaps[i] == i) continue;
        std::swap(rows[i], rows[swaps[i]]);
        determinant = -determinant;
      }
      sign.as<T>()[entry] = static_cast<T>(determinant);
    });
  });
}

void CpuBackendFast::cholesky(View a, View out) {
  require_dtype("cholesky", "out", out, a.dtype);
  const int64_t n = a.shape->back();
  visit_floating("cholesky", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_matrices(batch_of_matrices(*a.shape), n, [&](int64_t entry) {
      double* const m = working_copy(a.as<const T>() + entry * n * n, n * n);
      if (const int64_t bad = factor_cholesky({m, n}, n)) not_positive_definite(entry, bad);
      T* to = out.as<T>() + entry * n * n;
      for (int64_t i = 0; i < n; ++i, to += n) {
        std::copy_n(m + i * n, i + 1, to);
        std::fill_n(to + i + 1, n - i - 1, T(0));
      }
    });
  });
}

void CpuBackendFast::triangular_solve(View a, View b, bool upper, bool unit_diagonal, View out) {
  require_triangular_solve(a, b, out);
  const int64_t n = a.shape->back(), columns = b.shape->back();
  visit_floating("triangular_solve", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_matrices(batch_of_matrices(*a.shape), n, [&](int64_t entry) {
      double* const t = scratch_of<double>(ScratchSlot::solve, n * (n + columns));
      double* const x = t + n * n;
      std::copy_n(a.as<const T>() + entry * n * n, n * n, t);
      std::copy_n(b.as<const T>() + entry * n * columns, n * columns, x);
      solve_triangle({t, n}, n, upper, unit_diagonal, {x, columns}, columns);
      std::copy_n(x, n * columns, out.as<T>() + entry * n * columns);
    });
  });
}

}  // namespace flowgrad::kernels
