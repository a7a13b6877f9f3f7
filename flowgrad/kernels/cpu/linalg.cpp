#include <algorithm>
#include <cmath>
#include <numeric>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"

/// Recursive factorisations (Toledo 1997; Gustavson 1997): halves of a matrix meet in a product, so
/// that nearly all work runs at the product's rate. In double, so that float32 inputs lose nothing
/// on the way.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows up to which a triangle is solved with at once, and is factored at once.
constexpr int64_t kSolveRows = 32;
constexpr int64_t kFactorRows = 16;
/// Rows and columns up to which more of a square is computed than its lower triangle.
constexpr int64_t kSquare = 64;
/// Rows up to which threads share the matrices of a batch; above, they share each product.
constexpr int64_t kSmall = 128;

/// Part of a matrix; rows are `ld` apart.
struct Part {
  double* at;
  int64_t ld;

  double* operator[](int64_t row) const { return at + row * ld; }
  Part from(int64_t row, int64_t column) const { return {at + row * ld + column, ld}; }
};

/// About a half of n, whole leaves of a recursion.
int64_t first_half(int64_t n, int64_t leaf) { return divide_up(n / 2, leaf) * leaf; }

/// c (m, n) -= a (m, k) b (k, n), or b^T where b is (n, k).
void subtract_product(int64_t m, int64_t n, int64_t k, Part a, Part b, bool transposed, Part c) {
  if (m == 0) return;
  // A product adds, so a changes its sign.
  double* const minus = scratch_of<double>(ScratchSlot::operand, m * k);
  const auto negate = elementwise_table<double>().unary[number::unary_neg];
  for (int64_t i = 0; i < m; ++i) negate(a[i], minus + i * k, k, 0, 0);
  Gemm<double> g =
      product<double>(m, n, k, rows_of<double>(minus, k),
                      {b.at, transposed ? 1 : b.ld, transposed ? b.ld : 1}, c.at, true);
  g.ldc = c.ld;
  gemm(g);
}

/// The lower triangle of c (n, n) -= a a^T, a (n, k); part of the upper one changes too.
void subtract_square(int64_t n, int64_t k, Part a, Part c) {
  if (n <= kSquare) return subtract_product(n, n, k, a, a, true, c);
  const int64_t half = first_half(n, kSquare), rest = n - half;
  const Part below = a.from(half, 0);
  subtract_square(half, k, a, c);
  subtract_product(rest, half, k, below, a, true, c.from(half, 0));
  subtract_square(rest, k, below, c.from(half, half));
}

/// x (n, columns) := t^-1 x for a triangle t.
void solve_triangle(Part t, int64_t n, bool upper, bool unit, Part x, int64_t columns) {
  if (n <= kSolveRows) {
    const int64_t last = n - 1;
    const auto solve = isa().linalg->solve;
    if (upper) return solve({t[last] + last, -t.ld, -1, n, unit}, x[last], -x.ld, columns);
    return solve({t.at, t.ld, 1, n, unit}, x.at, x.ld, columns);
  }
  const int64_t half = first_half(n, kSolveRows), rest = n - half;
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

/// L and U of a (m, n) with m >= n, in its place; swaps (n) as LinalgTable::swap_rows takes them.
void factor_lu(Part a, int64_t m, int64_t n, int64_t* swaps) {
  const LinalgTable& table = *isa().linalg;
  if (n <= kFactorColumns) {
    double* const memory = scratch_of<double>(ScratchSlot::partial, m * kFactorColumns);
    return table.factor_columns(a.at, a.ld, m, n, memory, swaps);
  }
  const int64_t half = first_half(n, kFactorColumns), rest = n - half;
  factor_lu(a, m, half, swaps);
  const Part right = a.from(0, half), corner = a.from(half, half);
  table.swap_rows(right.at, a.ld, rest, swaps, half);
  solve_triangle(a, half, false, true, right, rest);
  subtract_product(m - half, rest, half, a.from(half, 0), right, false, corner);
  factor_lu(corner, m - half, rest, swaps + half);
  table.swap_rows(a[half], a.ld, half, swaps + half, rest);
  for (int64_t i = half; i < n; ++i) swaps[i] += half;
}

/// The lower factor of a (n, n), in its lower triangle. Returns the order of the first leading
/// minor that is not positive, 0 where all are.
int64_t factor_cholesky(Part a, int64_t n) {
  if (n <= kFactorRows) {
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
  const int64_t half = first_half(n, kFactorRows), rest = n - half;
  if (const int64_t bad = factor_cholesky(a, half)) return bad;
  // The rows below times L^-T, as a solve with their transpose.
  const Part below = a.from(half, 0);
  const Part turned{scratch_of<double>(ScratchSlot::partial, half * rest), rest};
  const auto transpose = conv_table<double>().transpose;
  transpose(below.at, a.ld, rest, half, nullptr, turned.at, turned.ld, half, 0);
  solve_triangle(a, half, false, false, turned, rest);
  transpose(turned.at, turned.ld, half, rest, nullptr, below.at, a.ld, rest, 0);
  subtract_square(rest, half, below, a.from(half, half));
  const int64_t bad = factor_cholesky(a.from(half, half), rest);
  return bad == 0 ? 0 : half + bad;
}

/// f(entry) for every matrix (n, n) of a batch.
template <class F>
void for_matrices(int64_t batch, int64_t n, F&& f) {
  parallel_for_if(n <= kSmall && batch * n * n * n >= kParallelWork, batch, f);
}

void copy_as(const float* from, int64_t n, double* to) {
  isa().elementwise->f32_to_f64(from, to, n);
}
void copy_as(const double* from, int64_t n, float* to) {
  isa().elementwise->f64_to_f32(from, to, n);
}
void copy_as(const double* from, int64_t n, double* to) { std::copy_n(from, n, to); }

/// Distance of rows of n numbers at which those below each other do not share few lines of a cache.
int64_t row_distance(int64_t n) { return (divide_up(n, int64_t{8}) | 1) * 8; }

/// A copy in double of a matrix (rows, n), in memory for rows * row_distance(n) numbers.
template <class T>
Part working_copy(const T* from, int64_t rows, int64_t n, double* memory) {
  const Part to{memory, row_distance(n)};
  for (int64_t i = 0; i < rows; ++i) copy_as(from + i * n, n, to[i]);
  return to;
}
template <class T>
void store(Part from, int64_t rows, int64_t n, T* to) {
  for (int64_t i = 0; i < rows; ++i) copy_as(from[i], n, to + i * n);
}

}  // namespace

void CpuBackendFast::lu(View a, View lu, View pivots, View sign) {
  require_lu(a, lu, pivots, sign);
  const int64_t n = a.shape->back();
  visit_floating("lu", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_matrices(batch_of_matrices(*a.shape), n, [&](int64_t entry) {
      double* const memory = scratch_of<double>(ScratchSlot::solve, n * row_distance(n));
      const Part m = working_copy(a.as<const T>() + entry * n * n, n, n, memory);
      int64_t* const rows = pivots.as<int64_t>() + entry * n;
      factor_lu(m, n, n, rows);
      store(m, n, n, lu.as<T>() + entry * n * n);
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
      double* const memory = scratch_of<double>(ScratchSlot::solve, n * row_distance(n));
      const Part m = working_copy(a.as<const T>() + entry * n * n, n, n, memory);
      if (const int64_t bad = factor_cholesky(m, n)) not_positive_definite(entry, bad);
      T* to = out.as<T>() + entry * n * n;
      for (int64_t i = 0; i < n; ++i, to += n) {
        copy_as(m[i], i + 1, to);
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
      const int64_t triangle = n * row_distance(n);
      double* const memory =
          scratch_of<double>(ScratchSlot::solve, triangle + n * row_distance(columns));
      const Part t = working_copy(a.as<const T>() + entry * n * n, n, n, memory);
      const Part x =
          working_copy(b.as<const T>() + entry * n * columns, n, columns, memory + triangle);
      solve_triangle(t, n, upper, unit_diagonal, x, columns);
      store(x, n, columns, out.as<T>() + entry * n * columns);
    });
  });
}

}  // namespace flowgrad::kernels
