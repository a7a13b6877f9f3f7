#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "flowgrad/autograd/linalg.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using namespace linalg;

namespace {

/// The matrix of cofactors as determinants of minors: n^2 of them, but no division, so that
/// derivatives of every order are exact, singular or not.
Tensor cofactors(const Tensor& a) {
  const int64_t n = a.shape().back();
  if (n == 1) return ones_like(a);
  int64_t batch = 1;
  for (int i = 0; i < a.rank() - 2; ++i) batch *= a.shape()[i];
  const Tensor flat = reshape(a, {batch, n, n});
  std::vector<int64_t> columns;  // for every j, all columns but j
  std::vector<double> signs;
  for (int64_t j = 0; j < n; ++j) {
    signs.push_back(j % 2 == 0 ? 1 : -1);
    for (int64_t k = 0; k < n; ++k) {
      if (k != j) columns.push_back(k);
    }
  }
  const Tensor kept_columns = Tensor::from(columns, {n * (n - 1)}, DType::int64, a.device());
  const Tensor sign = Tensor::from(signs, {n}, a.dtype(), a.device());
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<int64_t> others(columns.begin() + i * (n - 1),
                                      columns.begin() + (i + 1) * (n - 1));
    const Tensor without_row =
        index_select(flat, 1, Tensor::from(others, {n - 1}, DType::int64, a.device()));
    const Tensor minors =
        reshape(index_select(without_row, 2, kept_columns), {batch, n - 1, n, n - 1});
    const Tensor row = det(permute(minors, {0, 2, 1, 3})) * sign;
    rows.push_back(i % 2 == 0 ? row : -row);
  }
  return reshape(stack(rows, 1), a.shape());
}

double epsilon_of(DType dtype) {
  return dtype == DType::float32 ? static_cast<double>(std::numeric_limits<float>::epsilon())
                                 : std::numeric_limits<double>::epsilon();
}

/// Rows up to which minors are always taken: they cost no more than an inverse; and up to which
/// they are cheap beside what the inverse of an ill-conditioned matrix loses.
constexpr size_t kSmall = 3, kMinors = 8;

/// Whether det(a) a^-T is a sound form of the cofactors. Its derivatives cancel terms of size
/// 1 / pivot^2, so small matrices, where minors are cheap, change form early. Others do where
/// nothing of a pivot is left: before, this form is right to the last digits of small elements too.
bool is_well_conditioned(const Tensor& a) {
  const auto n = static_cast<size_t>(a.shape().back());
  if (n <= kSmall) return false;
  const double epsilon = epsilon_of(a.dtype());
  const double bound = n <= kMinors ? std::sqrt(epsilon) : epsilon * static_cast<double>(n);
  const std::vector<double> pivots = diagonal_of(factor(a).lu).to_vector<double>();
  for (size_t i = 0; i < pivots.size(); i += n) {
    double low = std::numeric_limits<double>::infinity();
    double high = 0;
    for (size_t k = i; k < i + n; ++k) {
      low = std::min(low, std::abs(pivots[k]));
      high = std::max(high, std::abs(pivots[k]));
    }
    if (low <= bound * high) return false;
  }
  return true;
}

/// Gaussian elimination of n x n numbers with complete pivoting: rows and columns in the order of
/// their pivots, and the pivots' absolute values, which fall to rounding where the rank ends.
struct Elimination {
  std::vector<size_t> rows, columns;
  std::vector<double> pivots;
};
Elimination eliminate(std::vector<double> a, size_t n) {
  Elimination e;
  for (size_t i = 0; i < n; ++i) {
    e.rows.push_back(i);
    e.columns.push_back(i);
  }
  const auto at = [&](size_t i, size_t j) -> double& { return a[e.rows[i] * n + e.columns[j]]; };
  for (size_t k = 0; k < n; ++k) {
    size_t row = k, column = k;
    for (size_t i = k; i < n; ++i) {
      for (size_t j = k; j < n; ++j) {
        if (std::abs(at(i, j)) > std::abs(at(row, column))) row = i, column = j;
      }
    }
    std::swap(e.rows[k], e.rows[row]);
    std::swap(e.columns[k], e.columns[column]);
    e.pivots.push_back(std::abs(at(k, k)));
    if (at(k, k) == 0) continue;
    for (size_t i = k + 1; i < n; ++i) {
      const double factor = at(i, k) / at(k, k);
      for (size_t j = k + 1; j < n; ++j) at(i, j) -= factor * at(k, j);
    }
  }
  return e;
}

/// Constants u, v (..., N, K) with one number in each column: w = a + u v^T is well conditioned,
/// and K is the largest deficiency in rank of the batch.
std::pair<Tensor, Tensor> lift_of(const Tensor& a) {
  const auto n = static_cast<size_t>(a.shape().back());
  const size_t batch = static_cast<size_t>(a.numel()) / (n * n);
  const std::vector<double> all = a.detach().to_vector<double>();
  std::vector<Elimination> found;
  size_t deficiency = 1;
  for (size_t b = 0; b < batch; ++b) {
    const auto first = all.begin() + static_cast<ptrdiff_t>(b * n * n);
    found.push_back(eliminate({first, first + static_cast<ptrdiff_t>(n * n)}, n));
    const std::vector<double>& pivots = found.back().pivots;
    const double bound = std::sqrt(epsilon_of(a.dtype())) * pivots[0];
    const auto kept = std::count_if(pivots.begin(), pivots.end(), [&](double p) {
      return p > bound || !std::isfinite(bound);  // nothing helps what is not finite
    });
    deficiency = std::max(deficiency, n - static_cast<size_t>(kept));
  }
  std::vector<double> u(batch * n * deficiency), v(u.size());
  for (size_t b = 0; b < batch; ++b) {
    const Elimination& e = found[b];
    // So large that what is left there of a matrix of a higher rank cannot cancel it.
    const double lift = e.pivots[0] > 0 ? 2 * static_cast<double>(deficiency) * e.pivots[0] : 1;
    for (size_t k = 0; k < deficiency; ++k) {
      u[(b * n + e.rows[n - deficiency + k]) * deficiency + k] = lift;
      v[(b * n + e.columns[n - deficiency + k]) * deficiency + k] = 1;
    }
  }
  Shape shape = a.shape();
  shape[shape.rank() - 1] = static_cast<int64_t>(deficiency);
  return {Tensor::from(u, shape, a.dtype(), a.device()),
          Tensor::from(v, shape, a.dtype(), a.device())};
}

/// The cofactors of an ill-conditioned matrix of many rows. With w = a + u v^T as above,
/// det(a) = det(w) det(s), s = I - v^T w^-1 u (K, K), holds around a as well, so that the
/// derivatives of this form are exact to every order; only of s are minors taken.
Tensor lifted_cofactors(const Tensor& a) {
  const auto [u, v] = lift_of(a);
  const Tensor w = a + matmul(u, transpose(v));
  const Tensor inverted = inverse_for("det (gradient)", w);
  const Tensor of_u = matmul(inverted, u), of_v = matmul(transpose(inverted), v);
  const Tensor s = eye(u.shape().back(), a.dtype(), a.device()) - matmul(transpose(v), of_u);
  const Tensor inner = matmul(matmul(of_v, cofactors(s)), transpose(of_u));
  const Tensor outer = beside_matrices(det(s)) * transpose(inverted);
  return beside_matrices(det(w)) * (outer + inner);
}

}  // namespace

Tensor det(const Tensor& a) {
  check_square("det", a);
  const int64_t n = a.shape().back();
  if (n == 1) return contiguous(select(select(a, -2, 0), -1, 0));
  Tensor out;
  {
    NoGrad off;
    const Factors f = factor(a);
    out = prod(diagonal_of(f.lu), {-1}) * f.sign;
  }
  if (recording(a)) {
    record("det", out, {a}, {save(a), save_output(out)}, [](Backward& r) {
      const Tensor a = r.saved(0);
      if (a.numel() == 0) return r.set(0, zeros_like(a));
      if (is_well_conditioned(a)) {
        const Tensor scale = beside_matrices(r.grad() * r.saved(1));
        r.set(0, scale * transpose(inverse_for("det (gradient)", a)));
      } else {
        const bool few = a.shape().back() <= static_cast<int64_t>(kMinors);
        r.set(0, beside_matrices(r.grad()) * (few ? cofactors(a) : lifted_cofactors(a)));
      }
    });
  }
  return out;
}

std::pair<Tensor, Tensor> slogdet(const Tensor& a) {
  check_square("slogdet", a);
  Tensor signs;
  Tensor out;
  {
    NoGrad off;
    const Factors f = factor(a);
    const Tensor pivots = diagonal_of(f.lu);
    signs = prod(sign(pivots), {-1}) * f.sign;
    out = sum(log(abs(pivots)), {-1});
  }
  if (recording(a)) {
    record("slogdet", out, {a}, {save(a)}, [](Backward& r) {
      const Tensor inverted = inverse_for("slogdet (gradient)", r.saved(0));
      r.set(0, beside_matrices(r.grad()) * transpose(inverted));
    });
  }
  return {signs, out};
}

}  // namespace flowgrad
