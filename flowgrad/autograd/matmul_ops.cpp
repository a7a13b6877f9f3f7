#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using kernels::backend;

namespace {

Layout spread_batch(const Layout& in, const Shape& product) {
  Shape shape = product;
  shape[shape.rank() - 2] = in.shape[in.rank() - 2];
  shape[shape.rank() - 1] = in.shape.back();
  return in.shape == shape ? in : expanded("matmul", in, shape);
}

/// (..., K) as (rows, K) without a copy, where strides allow it.
std::optional<Layout> as_rows(const Layout& in, int64_t rows) {
  const int64_t depth = in.shape.back();
  if (rows * depth == 0) return contiguous_layout({rows, depth});
  return viewed(in, {rows, depth});
}

/// An operand as it lies in some layout: a transposed one needs no tensor of its own.
struct Operand {
  const Tensor& tensor;
  const Layout& layout;
  // NOLINTNEXTLINE(google-explicit-constructor)
  Operand(const Tensor& t) : tensor(t), layout(t.layout()) {}
  Operand(const Tensor& t, const Layout& layout) : tensor(t), layout(layout) {}
  bool is_plain() const { return &layout == &tensor.layout(); }
};

/// out = a b [+ bias] [+ out], or the epilogue of a b [+ bias]. b has rank 2 or more; a's rank is
/// out's, or less where it broadcasts.
void multiply(const Operand& a, const Operand& b, const Tensor& bias, bool accumulate,
              const Tensor& out, Epilogue epilogue = Epilogue::none) {
  if (out.numel() == 0) return;
  const auto run = [&](kernels::View left, kernels::View right, kernels::View row,
                       kernels::View to) {
    if (epilogue == Epilogue::none)
      backend(out.device()).matmul(left, right, row, accumulate, to);
    else
      backend(out.device()).matmul_unary(operation_of(epilogue), left, right, row, to);
  };
  const Tensor row = bias.defined() && !bias.is_contiguous() ? contiguous(bias.detach()) : bias;
  if (a.layout.rank() == 2 && b.layout.rank() == 2) {
    const ViewAs right(b.tensor, b.layout);
    return a.is_plain() ? run(a.tensor, right, row, out)
                        : run(ViewAs(a.tensor, a.layout), right, row, out);
  }
  if (b.layout.rank() == 2 && out.rank() != 2) {
    // One large product instead of many small ones.
    const int64_t rows = out.numel() / out.shape().back();
    if (const std::optional<Layout> flat = as_rows(a.layout, rows)) {
      const Layout flat_out = contiguous_layout({rows, out.shape().back()});
      return run(ViewAs(a.tensor, *flat), ViewAs(b.tensor, b.layout), row, ViewAs(out, flat_out));
    }
  }
  const Layout left = spread_batch(a.layout, out.shape());
  const Layout right = spread_batch(b.layout, out.shape());
  run(ViewAs(a.tensor, left), ViewAs(b.tensor, right), row, out);
}

/// a b, off the tape, as a new tensor.
Tensor multiplied(const Operand& a, const Operand& b, const Shape& shape) {
  Tensor out = Tensor::empty(shape, a.tensor.dtype(), a.tensor.device());
  multiply(a, b, {}, false, out);
  return out;
}

/// g (..., N) times a matrix (N, K), off the tape.
Tensor times_matrix(const Tensor& g, const Operand& matrix) {
  Shape shape = g.shape();
  shape[g.rank() - 1] = matrix.layout.shape[1];
  return multiplied(g, matrix, shape);
}

void check_operands(const char* op, const Tensor& a, const Tensor& b) {
  check_same_device(op, a, b);
  for (const Tensor* t : {&a, &b}) {
    if (t->rank() == 0) {
      throw ShapeError(
          fmt::format("{}: {} has rank 0; rank 1 or more is accepted", op, t == &a ? "a" : "b"));
    }
  }
  const int axis_b = std::max(0, b.rank() - 2);
  if (a.shape().back() != b.shape()[axis_b]) {
    throw ShapeError(fmt::format(
        "{}: inner sizes differ: a is {}, b is {}; axis {} of a ({}) must equal axis {} of b ({})",
        op, a.shape().to_string(), b.shape().to_string(), a.rank() - 1, a.shape().back(), axis_b,
        b.shape()[axis_b]));
  }
}

/// Shape of the product of matrices (ranks 2 and more).
Shape product_shape(const char* op, const Tensor& a, const Tensor& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape shape = Dims::filled(rank, 1);
  for (int i = 0; i < rank - 2; ++i) {
    const int ia = i - (rank - a.rank());
    const int ib = i - (rank - b.rank());
    const int64_t na = ia < 0 ? 1 : a.shape()[ia];
    const int64_t nb = ib < 0 ? 1 : b.shape()[ib];
    if (na != nb && na != 1 && nb != 1) {
      throw ShapeError(
          fmt::format("{}: batch axes do not broadcast: a is {}, b is {}; axis {} of a "
                      "({}) and axis {} of b ({}) must be equal or 1",
                      op, a.shape().to_string(), b.shape().to_string(), ia, na, ib, nb));
    }
    shape[i] = na == 1 ? nb : na;
  }
  shape[rank - 2] = a.shape()[a.rank() - 2];
  shape[rank - 1] = b.shape().back();
  return shape;
}

/// (..., N) as (rows, N).
Tensor rows_of(const Tensor& x) {
  if (x.rank() == 2) return x;
  int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.shape()[i];
  return reshape(x, {rows, x.shape().back()});
}

/// The sum over axis 0 of a[i] b[i], without the products in memory.
Tensor sum_of_products(const Tensor& a, const Tensor& b) {
  const int64_t n = a.shape()[0];
  Shape shape = product_shape("matmul", a, b);
  shape.erase(0);
  Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  const auto rest = [](Layout l) {
    l.shape.erase(0);
    l.strides.erase(0);
    return l;
  };
  Layout left = spread_batch(rest(a.layout()), shape);
  Layout right = spread_batch(rest(b.layout()), shape);
  if (n == 0) backend(out.device()).fill(out, 0);
  for (int64_t i = 0; i < n && out.numel() > 0; ++i) {
    backend(out.device()).matmul(ViewAs(a, left), ViewAs(b, right), {}, i > 0, out);
    left.offset += a.strides()[0];
    right.offset += b.strides()[0];
  }
  if (recording(a, b)) {
    record("sum_of_products", out, {a, b}, {save(a, b.requires_grad()), save(b, a.requires_grad())},
           [](Backward& r) {
             if (r.needs(0)) r.set(0, matmul(r.grad(), transpose(r.saved(1))));
             if (r.needs(1)) r.set(1, matmul(transpose(r.saved(0)), r.grad()));
           });
  }
  return out;
}

/// Below this size of a gradient, a batch of products and their sum is faster than one call a
/// product.
constexpr int64_t kFewElements = 1024;

/// Gradient of a for (..., M, K) where b has `lead` more axes, all of which a was repeated over.
Tensor product_rule_a(const Tensor& g, const Tensor& b, int lead) {
  const int rank = b.rank();
  if (rank == 2 && !mode().recording)
    return times_matrix(g, {b, transposed("matmul", b.layout(), 0, 1)});
  const Tensor bt = transpose(b);
  if (lead < 1 || g.shape()[rank - 2] * bt.shape().back() < kFewElements) return matmul(g, bt);
  const auto lead_as_one = [&](const Tensor& x) {
    if (lead == 1) return x;
    Shape shape(
        std::span(x.shape().begin() + lead - 1, x.shape().size() - static_cast<size_t>(lead - 1)));
    shape[0] = 1;
    for (int i = 0; i < lead; ++i) shape[0] *= x.shape()[i];
    return reshape(x, shape);
  };
  return sum_of_products(lead_as_one(g), lead_as_one(bt));
}

/// The share of an input of shape (K, N) in a gradient: a^T g for a (M, K) and g (M, N), added to
/// what others gave where that saves memory of its own.
void give_product(Backward& r, int input, const Tensor& a, const Tensor& g) {
  if (mode().recording) return r.set(input, matmul(transpose(a), g));
  const Layout at = transposed("matmul", a.layout(), 0, 1);
  const Shape shape{at.shape[0], g.shape()[1]};
  const Tensor sum = r.sum_so_far(input, shape, g.dtype());
  if (sum.defined()) return multiply({a, at}, g, {}, /*accumulate=*/true, sum);
  r.set(input, multiplied({a, at}, g, shape));
}

/// Gradients of a b for the inputs numbered `first` (a) and `first + 1` (b), saved as 0 and 1.
void product_rule(Backward& r, int first, int rank_a, int rank_b) {
  const Tensor& g = r.grad();
  if (r.needs(first)) r.set(first, product_rule_a(g, r.saved(1), rank_b - rank_a));
  if (r.needs(first + 1)) {
    const Tensor a = r.saved(0);
    // A b without batch axes collects from all of them: one product instead of a batch to sum.
    if (rank_b == 2)
      give_product(r, first + 1, rows_of(a), rows_of(g));
    else
      r.set(first + 1, matmul(transpose(a), g));
  }
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_operands("matmul", a, b);
  if (a.dtype() != b.dtype()) {
    const DType dtype = promote(a.dtype(), b.dtype());
    return matmul(cast(a, dtype), cast(b, dtype));
  }
  check_floating("matmul", a, "a");
  if (a.rank() == 1) return squeeze(matmul(unsqueeze(a, 0), b), b.rank() == 1 ? 0 : -2);
  if (b.rank() == 1) return squeeze(matmul(a, unsqueeze(b, 1)), -1);
  const Tensor out = multiplied(a, b, product_shape("matmul", a, b));
  if (recording(a, b)) {
    record("matmul", out, {a, b}, {save(a, b.requires_grad()), save(b, a.requires_grad())},
           [rank_a = a.rank(), rank_b = b.rank()](Backward& r) {
             product_rule(r, 0, rank_a, rank_b);
           });
  }
  return out;
}

Tensor addmm(const Tensor& c, const Tensor& a, const Tensor& b) {
  check_operands("addmm", a, b);
  check_same_device("addmm", a, c, "a", "c");
  const DType dtype = promote(promote(a.dtype(), b.dtype()), c.dtype());
  if (a.dtype() != dtype || b.dtype() != dtype || c.dtype() != dtype) {
    return addmm(cast(c, dtype), cast(a, dtype), cast(b, dtype));
  }
  check_floating("addmm", a, "a");
  if (a.rank() < 2 || b.rank() < 2) {
    throw ShapeError(fmt::format("addmm: a is {}, b is {}; rank 2 or more is accepted",
                                 a.shape().to_string(), b.shape().to_string()));
  }
  const Shape shape = product_shape("addmm", a, b);
  Tensor out = Tensor::empty(shape, dtype, a.device());
  if (c.rank() == 1 && c.shape()[0] == shape.back()) {
    multiply(a, b, c, false, out);
  } else {
    const Layout spread_c = expanded("addmm: c", c.layout(), shape);
    backend(a.device()).copy(ViewAs(c, spread_c), out);
    multiply(a, b, {}, true, out);
  }
  if (recording(c, a, b)) {
    record("addmm", out, {c, a, b}, {save(a, b.requires_grad()), save(b, a.requires_grad())},
           [rank_a = a.rank(), rank_b = b.rank()](Backward& r) {
             if (r.needs(0)) r.set(0, r.grad());
             product_rule(r, 1, rank_a, rank_b);
           });
  }
  return out;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Epilogue epilogue) {
  check_same_device("linear", x, weight, "x", "weight");
  check_same_device("linear", x, bias, "x", "bias");
  const DType dtype = promote(x.dtype(), weight.dtype());
  if (x.dtype() != dtype || weight.dtype() != dtype || (bias.defined() && bias.dtype() != dtype)) {
    const DType all = bias.defined() ? promote(dtype, bias.dtype()) : dtype;
    return linear(cast(x, all), cast(weight, all), bias.defined() ? cast(bias, all) : bias,
                  epilogue);
  }
  check_floating("linear", x);
  if (x.rank() == 0 || weight.rank() != 2 || x.shape().back() != weight.shape()[1]) {
    throw ShapeError(
        fmt::format("linear: x is {}, weight is {}; the last axis of x must equal axis 1 "
                    "of a weight of rank 2 (out, in)",
                    x.shape().to_string(), weight.shape().to_string()));
  }
  const int64_t outputs = weight.shape()[0];
  if (bias.defined() && bias.shape() != Shape{outputs}) {
    throw ShapeError(
        fmt::format("linear: bias is {}, weight is {}; a bias of shape ({},) is accepted",
                    bias.shape().to_string(), weight.shape().to_string(), outputs));
  }
  const bool records = recording(x, weight, bias), fused = is_fused(epilogue, records);
  Shape shape = x.shape();
  shape[x.rank() - 1] = outputs;
  Tensor out = Tensor::empty(shape, dtype, x.device());
  multiply(x, {weight, transposed("linear", weight.layout(), 0, 1)}, bias, false, out,
           fused ? epilogue : Epilogue::none);
  if (records) {
    const std::array<Tensor, 3> inputs{x, weight, bias};
    const std::array<Saved, 2> saved{save(x, weight.requires_grad()),
                                     save(weight, x.requires_grad())};
    record("linear", std::span(&out, 1), std::span(inputs), std::span(saved), [](Backward& r) {
      const Tensor& g = r.grad();
      if (r.needs(0)) {
        const Tensor weight = r.saved(1);
        const bool off_the_tape = !mode().recording && g.rank() > 1;
        r.set(0, off_the_tape ? times_matrix(g, weight) : matmul(g, weight));
      }
      if (r.needs(1)) {
        const auto rows = [](const Tensor& t) {
          return t.rank() == 1 ? unsqueeze(t, 0) : rows_of(t);
        };
        give_product(r, 1, rows(g), rows(r.saved(0)));
      }
      if (r.needs(2)) r.set(2, g);
    });
  }
  return with_epilogue(out, epilogue, fused);
}

Tensor outer(const Tensor& a, const Tensor& b) {
  if (a.rank() != 1 || b.rank() != 1) {
    throw ShapeError(fmt::format("outer: a is {}, b is {}; rank 1 is accepted",
                                 a.shape().to_string(), b.shape().to_string()));
  }
  if (promote(a.dtype(), b.dtype()) == DType::bfloat16) check_promotion("outer", a, "a", b, "b");
  check_same_device("outer", a, b);
  return unsqueeze(a, 1) * unsqueeze(b, 0);
}

Tensor tensordot(const Tensor& a, const Tensor& b, int64_t n) {
  if (n < 0 || n > std::min(a.rank(), b.rank())) {
    throw ValueError(
        fmt::format("tensordot: n = {} given for a of shape {} and b of shape {}; 0 to the "
                    "smaller rank is accepted",
                    n, a.shape().to_string(), b.shape().to_string()));
  }
  check_promotion("tensordot", a, "a", b, "b");
  check_same_device("tensordot", a, b);
  const int kept = a.rank() - static_cast<int>(n);
  Shape shape;
  int64_t rows = 1;
  int64_t depth = 1;
  int64_t columns = 1;
  for (int i = 0; i < kept; ++i) rows *= a.shape()[i];
  for (int i = 0; i < n; ++i) {
    if (a.shape()[kept + i] != b.shape()[i]) {
      throw ShapeError(
          fmt::format("tensordot: a is {}, b is {}; axis {} of a ({}) must equal axis {} of "
                      "b ({})",
                      a.shape().to_string(), b.shape().to_string(), kept + i, a.shape()[kept + i],
                      i, b.shape()[i]));
    }
    depth *= b.shape()[i];
  }
  if (kept + b.rank() - n > kMaxRank) {
    throw ShapeError(
        fmt::format("tensordot: a is {}, b is {}; the result would have rank {}, at most {} "
                    "is accepted",
                    a.shape().to_string(), b.shape().to_string(), kept + b.rank() - n, kMaxRank));
  }
  for (int i = 0; i < kept; ++i) shape.push_back(a.shape()[i]);
  for (int i = static_cast<int>(n); i < b.rank(); ++i) {
    shape.push_back(b.shape()[i]);
    columns *= b.shape()[i];
  }
  return reshape(matmul(reshape(a, {rows, depth}), reshape(b, {depth, columns})), shape);
}

Tensor cdist(const Tensor& a, const Tensor& b) {
  if (a.rank() < 2 || b.rank() < 2 || a.shape().back() != b.shape().back()) {
    throw ShapeError(
        fmt::format("cdist: a is {}, b is {}; (..., N, D) and (..., M, D) with one D are "
                    "accepted",
                    a.shape().to_string(), b.shape().to_string()));
  }
  if (std::max(a.rank(), b.rank()) >= kMaxRank) {
    throw ShapeError(fmt::format("cdist: a is {}, b is {}; rank {} or less is accepted",
                                 a.shape().to_string(), b.shape().to_string(), kMaxRank - 1));
  }
  check_promotion("cdist", a, "a", b, "b");
  check_same_device("cdist", a, b);
  const DType dtype = promote(a.dtype(), b.dtype());
  const Tensor difference = unsqueeze(cast(a, dtype), -2) - unsqueeze(cast(b, dtype), -3);
  const Tensor squares = sum(square(difference), {-1});
  // The root is taken of 1 where the distance is 0, so that neither order of derivative sees 1 / 0.
  const Tensor zero = equal(squares, 0.0);
  const Tensor safe = where(zero, filled({}, 1, dtype, squares.device()), squares);
  return where(zero, filled({}, 0, dtype, squares.device()), sqrt(safe));
}

}  // namespace flowgrad
