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

/// Rows up to which minors are always taken: they cost no more than an inverse.
constexpr size_t kSmall = 3;

/// Whether det(a) a^-T is a sound form of the cofactors. Its derivatives cancel terms of size
/// 1 / pivot^2, so small matrices, where minors are cheap, change form early.
bool is_well_conditioned(const Tensor& a) {
  const auto n = static_cast<size_t>(a.shape().back());
  if (n <= kSmall) return false;
  const double epsilon = a.dtype() == DType::float32
                             ? static_cast<double>(std::numeric_limits<float>::epsilon())
                             : std::numeric_limits<double>::epsilon();
  const double bound = n <= 8 ? std::sqrt(epsilon) : epsilon * static_cast<double>(n);
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
        r.set(0, beside_matrices(r.grad()) * cofactors(a));
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
