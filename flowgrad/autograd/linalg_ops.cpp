#include "flowgrad/autograd/linalg.h"

#include <fmt/format.h>

#include <array>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using kernels::backend;

namespace linalg {

void check_square(const char* op, const Tensor& a) {
  if (a.rank() < 2 || a.shape().back() != a.shape()[a.rank() - 2]) {
    throw ShapeError(fmt::format("{}: a is {}; square matrices (..., N, N) are accepted", op,
                                 a.shape().to_string()));
  }
  check_floating(op, a, "a");
}

Factors factor(const Tensor& a) {
  const Tensor in = contiguous(a.detach());
  Factors f;
  Shape shape = a.shape();
  f.lu = Tensor::empty(shape, a.dtype(), a.device());
  shape.erase(a.rank() - 1);
  f.pivots = Tensor::empty(shape, DType::int64, a.device());
  shape.erase(a.rank() - 2);
  f.sign = Tensor::empty(shape, a.dtype(), a.device());
  backend(a.device()).lu(in, f.lu, f.pivots, f.sign);
  return f;
}

Tensor diagonal_of(const Tensor& a) {
  Layout layout = a.layout();
  const int last = a.rank() - 1;
  layout.strides[last - 1] += layout.strides[last];
  layout.shape.erase(last);
  layout.strides.erase(last);
  return a.with_layout(layout);
}

void check_invertible(const char* op, const Tensor& u) {
  const int64_t n = u.shape().back();
  const std::vector<double> pivots = diagonal_of(u).to_vector<double>();
  for (size_t i = 0; i < pivots.size(); ++i) {
    if (pivots[i] != 0.0) continue;
    throw ValueError(fmt::format("{}: a is {} and batch entry {} is singular: its pivot {} is zero",
                                 op, u.shape().to_string(), static_cast<int64_t>(i) / n,
                                 static_cast<int64_t>(i) % n));
  }
}

namespace {

/// x of a x = b from a's factors; lu, pivots and b are contiguous and of one batch.
Tensor solve_factored(const Factors& f, const Tensor& b) {
  kernels::Backend& device = backend(b.device());
  Layout rows = f.pivots.layout();  // the row numbers, the same for every column of b
  rows.shape.push_back(b.shape().back());
  rows.strides.push_back(0);
  const Tensor permuted = Tensor::empty(b.shape(), b.dtype(), b.device());
  device.gather(b, b.rank() - 2, ViewAs(f.pivots, rows), permuted);
  const Tensor lower = Tensor::empty(b.shape(), b.dtype(), b.device());
  device.triangular_solve(f.lu, permuted, false, true, lower);
  Tensor x = Tensor::empty(b.shape(), b.dtype(), b.device());
  device.triangular_solve(f.lu, lower, true, false, x);
  return x;
}

}  // namespace

Tensor inverse_for(const char* op, const Tensor& a) {
  check_square(op, a);
  const Factors f = factor(a);
  check_invertible(op, f.lu);
  const Tensor one = Tensor::empty(a.shape(), a.dtype(), a.device());
  backend(a.device()).fill(one, 0);
  backend(a.device()).fill(diagonal_of(one), 1);
  Tensor out = solve_factored(f, one);
  if (recording(a)) {
    record(op, out, {a}, {save_output(out)}, [](Backward& r) {
      const Tensor y = transpose(r.saved(0));
      r.set(0, -matmul(matmul(y, r.grad()), y));
    });
  }
  return out;
}

Tensor beside_matrices(const Tensor& x) { return unsqueeze(unsqueeze(x, -1), -1); }

}  // namespace linalg

using namespace linalg;

namespace {

/// Checks a x = b for matrices b (..., N, M) and returns the shape of x.
Shape check_system(const char* op, const Tensor& a, const Tensor& b) {
  check_square(op, a);
  check_same_device(op, a, b);
  if (b.rank() < 2 || b.shape()[b.rank() - 2] != a.shape().back()) {
    throw ShapeError(
        fmt::format("{}: a is {}, b is {}; b (..., N, M) with N = {} is accepted, or (N,) "
                    "beside one matrix",
                    op, a.shape().to_string(), b.shape().to_string(), a.shape().back()));
  }
  const auto batch_of = [](const Tensor& t) {
    return Shape(std::span(t.shape().begin(), t.shape().size() - 2));
  };
  Shape shape = broadcast_shapes(op, batch_of(a), batch_of(b));
  shape.push_back(a.shape().back());
  shape.push_back(b.shape().back());
  return shape;
}

/// x off the tape, spread over a batch and contiguous, as the kernels take it.
Tensor spread_dense(const Tensor& x, Shape batch_and_more, int own_axes) {
  for (int i = 0; i < own_axes; ++i) {
    batch_and_more[batch_and_more.rank() - own_axes + i] = x.shape()[x.rank() - own_axes + i];
  }
  return contiguous(expand(x.detach(), batch_and_more));
}

}  // namespace

Tensor inverse(const Tensor& a) { return inverse_for("inverse", a); }

Tensor solve(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) {
    const DType dtype = promote(a.dtype(), b.dtype());
    return solve(cast(a, dtype), cast(b, dtype));
  }
  if (a.rank() == 2 && b.rank() == 1) return squeeze(solve(a, unsqueeze(b, 1)), 1);
  const Shape shape = check_system("solve", a, b);
  Factors f = factor(a);
  check_invertible("solve", f.lu);
  f.lu = spread_dense(f.lu, shape, 2);
  Shape rows = shape;
  rows.erase(rows.rank() - 1);
  f.pivots = spread_dense(f.pivots, rows, 1);
  Tensor out = solve_factored(f, spread_dense(b, shape, 2));
  if (recording(a, b)) {
    record("solve", out, {a, b}, {save(a), save_output(out)}, [](Backward& r) {
      const Tensor grad_b = solve(transpose(r.saved(0)), r.grad());
      if (r.needs(1)) r.set(1, grad_b);
      if (r.needs(0)) r.set(0, -matmul(grad_b, transpose(r.saved(1))));
    });
  }
  return out;
}

Tensor triangular_solve(const Tensor& a, const Tensor& b, bool upper, bool unit_diagonal) {
  if (a.dtype() != b.dtype()) {
    const DType dtype = promote(a.dtype(), b.dtype());
    return triangular_solve(cast(a, dtype), cast(b, dtype), upper, unit_diagonal);
  }
  if (a.rank() == 2 && b.rank() == 1) {
    return squeeze(triangular_solve(a, unsqueeze(b, 1), upper, unit_diagonal), 1);
  }
  const Shape shape = check_system("triangular_solve", a, b);
  if (!unit_diagonal) check_invertible("triangular_solve", a.detach());
  Tensor out = Tensor::empty(shape, b.dtype(), b.device());
  const Tensor dense_a = spread_dense(a, shape, 2);
  const Tensor dense_b = spread_dense(b, shape, 2);
  backend(b.device()).triangular_solve(dense_a, dense_b, upper, unit_diagonal, out);
  if (recording(a, b)) {
    record("triangular_solve", out, {a, b}, {save(a), save_output(out)},
           [upper, unit_diagonal](Backward& r) {
             const Tensor grad_b =
                 triangular_solve(transpose(r.saved(0)), r.grad(), !upper, unit_diagonal);
             if (r.needs(1)) r.set(1, grad_b);
             if (!r.needs(0)) return;
             const Tensor all = -matmul(grad_b, transpose(r.saved(1)));
             const int64_t skipped = unit_diagonal ? 1 : 0;
             r.set(0, upper ? triu(all, skipped) : tril(all, -skipped));
           });
  }
  return out;
}

Tensor cholesky(const Tensor& a) {
  check_square("cholesky", a);
  Tensor out = Tensor::empty(a.shape(), a.dtype(), a.device());
  {
    NoGrad off;
    const Tensor symmetric = contiguous(a * 0.5 + transpose(a) * 0.5);
    backend(a.device()).cholesky(symmetric, out);
  }
  if (recording(a)) {
    // Murray 2016, "Differentiation of the Cholesky decomposition", section 4.1 (equation 10).
    record("cholesky", out, {a}, {save_output(out)}, [](Backward& r) {
      const Tensor upper = transpose(r.saved(0));
      const Tensor product = matmul(upper, r.grad());
      const Tensor halved = (tril(product) + tril(product, -1)) * 0.5;
      const Tensor left = triangular_solve(upper, halved, true);
      const Tensor both = triangular_solve(upper, transpose(left), true);
      r.set(0, (both + transpose(both)) * 0.5);
    });
  }
  return out;
}

LuFactors lu(const Tensor& a) {
  check_square("lu", a);
  LuFactors out;
  {
    NoGrad off;
    const Factors f = factor(a);
    const int64_t n = a.shape().back();
    const Tensor rows = Tensor::empty({n}, DType::int64, a.device());
    backend(a.device()).arange(rows, 0, 1);
    out.p = cast(equal(unsqueeze(f.pivots, -2), unsqueeze(rows, -1)), a.dtype());
    out.u = triu(f.lu);
    out.l = contiguous(tril(f.lu, -1));
    backend(a.device()).fill(diagonal_of(out.l), 1);
  }
  if (recording(a)) {
    const std::array<Tensor, 2> outputs{out.l, out.u};
    const std::array<Saved, 3> saved{save_output(out.l, 0), save_output(out.u, 1), save(out.p)};
    record("lu", std::span(outputs), std::span(&a, 1), std::span(saved), [](Backward& r) {
      const Tensor l = r.saved(0);
      const Tensor u = r.saved(1);
      check_invertible("lu (gradient)", u.detach());
      // With dL = L F and dU = G U, F strictly lower and G upper, F + G = L^-1 P^T dA U^-1.
      const Tensor lower = tril(matmul(transpose(l), r.grad_or_zeros(0)), -1);
      const Tensor upper = triu(matmul(r.grad_or_zeros(1), transpose(u)));
      const Tensor left = triangular_solve(transpose(l), lower + upper, true, true);
      const Tensor both = transpose(triangular_solve(u, transpose(left), true));
      r.set(0, matmul(r.saved(2), both));
    });
  }
  return out;
}

}  // namespace flowgrad
