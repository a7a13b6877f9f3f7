#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

using kernels::backend;
using kernels::BinaryOp;
using kernels::ReduceOp;
using kernels::UnaryOp;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The bare reduction: out has the final shape, the kernel sees size 1 on the reduced axes.
Tensor reduced(ReduceOp op, const Tensor& x, const ReducedAxes& axes) {
  Tensor out = Tensor::empty(axes.out, x.dtype(), x.device());
  backend(x.device()).reduce(op, x, ViewAs(out, contiguous_layout(axes.kept)));
  return out;
}

/// The product of all other elements that `mask` multiplies, for each element of x. No division, so
/// zeros are exact; made of recorded scans, so every order is.
Tensor products_of_others(const Tensor& x, unsigned mask) {
  Dims order;
  Shape lanes;
  int64_t count = 1;
  for (int i = 0; i < x.rank(); ++i) {
    if (mask >> i & 1u) continue;
    order.push_back(i);
    lanes.push_back(x.shape()[i]);
  }
  for (int i = 0; i < x.rank(); ++i) {
    if (!(mask >> i & 1u)) continue;
    order.push_back(i);
    count *= x.shape()[i];
  }
  const int axis = lanes.rank();
  lanes.push_back(count);
  Dims inverse = order;
  for (int i = 0; i < order.rank(); ++i) inverse[static_cast<int>(order[i])] = i;
  const Tensor moved = permute(x, order);
  const Tensor flat = reshape(moved, lanes);
  const Tensor before = shifted(cumulative_product(flat, axis, false), axis, 1, 1);
  const Tensor after = shifted(cumulative_product(flat, axis, true), axis, -1, 1);
  return permute(reshape(before * after, moved.shape()), inverse);
}

void check_not_empty(const char* op, const Tensor& x, unsigned mask) {
  for (int i = 0; i < x.rank(); ++i) {
    if ((mask >> i & 1u) && x.shape()[i] == 0) {
      throw ShapeError(
          fmt::format("{}: axis {} of shape {} has no elements; at least one is needed", op, i,
                      x.shape().to_string()));
    }
  }
}

Tensor extreme(const char* name, ReduceOp op, const Tensor& given, const Dims& axes, bool keepdim) {
  if (given.dtype() == DType::boolean) {
    return cast(extreme(name, op, cast(given, DType::int64), axes, keepdim), DType::boolean);
  }
  const Tensor& x = given;
  check_numeric(name, x);
  const ReducedAxes a = reduced_axes(name, x.shape(), axes, keepdim);
  check_not_empty(name, x, a.mask);
  Tensor out = reduced(op, x, a);
  if (recording(x)) {
    record(name, out, {x}, {save(x), save_output(out)}, [kept = a.kept](Backward& r) {
      const Tensor x = r.saved(0).detach();
      const Tensor y = reshape(r.saved(1).detach(), kept);
      // A NaN is an extreme, and equals nothing.
      const Tensor mask = logical_or(equal(x, y), isnan(x));
      const Tensor share = reshape(r.grad(), kept) / sum_to(cast(mask, x.dtype()), kept);
      r.set(0, where(mask, share, filled({}, 0, x.dtype(), x.device())));
    });
  }
  return out;
}

Tensor arg_extreme(const char* name, bool maximum, const Tensor& given, int64_t axis,
                   const ReducedAxes& a) {
  const Tensor x = counted(given);
  check_numeric(name, x);
  check_not_empty(name, x, a.mask);
  Tensor index = Tensor::empty(a.out, DType::int64, x.device());
  backend(x.device())
      .arg_reduce(maximum, x, normalize_axis(name, axis, x.rank()),
                  ViewAs(index, contiguous_layout(a.kept)));
  return index;
}

std::pair<Tensor, Tensor> extreme_with_index(const char* name, bool maximum, const Tensor& x,
                                             int64_t axis, bool keepdim) {
  const int at = normalize_axis(name, axis, x.rank());
  const ReducedAxes a = reduced_axes(name, x.shape(), {axis}, keepdim);
  Tensor index;
  {
    NoGrad off;
    index = arg_extreme(name, maximum, x, axis, a);
  }
  Tensor out = Tensor::empty(a.out, x.dtype(), x.device());
  if (x.rank() == 0) {
    backend(x.device()).copy(x, out);
  } else {
    const Layout kept = contiguous_layout(a.kept);
    backend(x.device()).gather(x, at, ViewAs(index, kept), ViewAs(out, kept));
  }
  if (recording(x)) {
    record(name, out, {x}, {save(index)}, [at, kept = a.kept, shape = x.shape()](Backward& r) {
      r.set(0, scatter_zeros(reshape(r.grad(), kept), at, reshape(r.saved(0), kept), shape));
    });
  }
  return {out, index};
}

Tensor all_or_any(ReduceOp op, const char* name, const Tensor& x, const Dims& axes, bool keepdim) {
  NoGrad off;
  return reduced(op, cast(x, DType::boolean), reduced_axes(name, x.shape(), axes, keepdim));
}

/// x - mean(x), differentiable.
Tensor centred(const Tensor& x, const Dims& axes) { return x - mean(x, axes, true); }

/// Sum of squared deviations over (count - correction), off the tape and in float64, where squares
/// of float32 neither overflow nor vanish. PyTorch's convention: never divided by a negative
/// number, so too few elements give 0 / 0.
Tensor variance(const char* name, const Tensor& x, const Dims& axes, const ReducedAxes& a,
                double divisor) {
  check_floating(name, x);
  NoGrad off;
  // From the first number on: equal ones have no variance, whatever their mean is rounded to.
  Tensor first = x;
  for (int axis = 0; axis < x.rank() && x.numel() > 0; ++axis)
    if ((a.mask >> axis & 1) != 0) first = slice(first, axis, 0, 1);
  const Tensor d = x - first;
  kernels::Backend& on = backend(x.device());
  on.binary(BinaryOp::sub, d, Spread(mean(d, axes, true), d.shape()), d);
  const Tensor squares = cast(d, DType::float64);
  on.unary(UnaryOp::square, {}, squares, squares);
  return sum(squares, axes, a.out == a.kept) / divisor;
}

double degrees_of_freedom(const char* name, const ReducedAxes& a, double correction) {
  if (!std::isfinite(correction)) {
    throw ValueError(
        fmt::format("{}: correction {} given; a finite number is accepted", name, correction));
  }
  return std::max(0.0, static_cast<double>(a.count) - correction);
}

/// numerator / y, and 0 where y is 0; safe at every order.
Tensor divide_or_zero(const Tensor& numerator, const Tensor& y) {
  const Tensor is_zero = equal(y, 0.0);
  const Tensor one = filled({}, 1, y.dtype(), y.device());
  return where(is_zero, filled({}, 0, y.dtype(), y.device()), numerator / where(is_zero, one, y));
}

}  // namespace

Tensor sum(const Tensor& given, const Dims& axes, bool keepdim) {
  const Tensor x = counted(given);
  check_numeric("sum", x);
  const ReducedAxes a = reduced_axes("sum", x.shape(), axes, keepdim);
  Tensor out = reduced(ReduceOp::sum, x, a);
  if (recording(x)) {
    record("sum", out, {x}, {}, [kept = a.kept, shape = x.shape()](Backward& r) {
      r.set(0, expand(reshape(r.grad(), kept), shape));
    });
  }
  return out;
}

Tensor mean(const Tensor& x, const Dims& axes, bool keepdim) {
  check_floating("mean", x);
  const ReducedAxes a = reduced_axes("mean", x.shape(), axes, keepdim);
  const auto n = static_cast<double>(a.count);
  Tensor out = reduced(ReduceOp::sum, x, a);
  backend(x.device()).unary(UnaryOp::div_scalar, {n, 0}, out, out);
  if (recording(x)) {
    // Of nothing it has no gradient, and 0 / 0 would be one of the cotangent's.
    record("mean", out, {x}, {},
           [n = std::max(n, 1.0), kept = a.kept, shape = x.shape()](Backward& r) {
             r.set(0, expand(reshape(r.grad() / n, kept), shape));
           });
  }
  return out;
}

Tensor prod(const Tensor& given, const Dims& axes, bool keepdim) {
  const Tensor x = counted(given);
  check_numeric("prod", x);
  const ReducedAxes a = reduced_axes("prod", x.shape(), axes, keepdim);
  Tensor out = reduced(ReduceOp::prod, x, a);
  if (recording(x)) {
    record("prod", out, {x}, {save(x)}, [mask = a.mask, kept = a.kept](Backward& r) {
      r.set(0, reshape(r.grad(), kept) * products_of_others(r.saved(0), mask));
    });
  }
  return out;
}

Tensor var(const Tensor& x, const Dims& axes, double correction, bool keepdim) {
  const ReducedAxes a = reduced_axes("var", x.shape(), axes, keepdim);
  const double divisor = degrees_of_freedom("var", a, correction);
  Tensor out = cast(variance("var", x, axes, a, divisor), x.dtype());
  if (recording(x)) {
    // The mean's own share of the gradient is a sum of deviations, which is zero.
    record("var", out, {x}, {save(x)}, [axes, divisor, kept = a.kept](Backward& r) {
      r.set(0, reshape(r.grad() * (2 / divisor), kept) * centred(r.saved(0), axes));
    });
  }
  return out;
}

Tensor std(const Tensor& x, const Dims& axes, double correction, bool keepdim) {
  const ReducedAxes a = reduced_axes("std", x.shape(), axes, keepdim);
  const double divisor = degrees_of_freedom("std", a, correction);
  Tensor out = variance("std", x, axes, a, divisor);
  backend(x.device()).unary(UnaryOp::sqrt, {}, out, out);
  out = cast(out, x.dtype());
  if (recording(x)) {
    record("std", out, {x}, {save(x), save_output(out)},
           [axes, divisor, kept = a.kept](Backward& r) {
             const Tensor slope = divide_or_zero(r.grad() / divisor, r.saved(1));
             r.set(0, reshape(slope, kept) * centred(r.saved(0), axes));
           });
  }
  return out;
}

Tensor max(const Tensor& x, const Dims& axes, bool keepdim) {
  return extreme("max", ReduceOp::max, x, axes, keepdim);
}
Tensor min(const Tensor& x, const Dims& axes, bool keepdim) {
  return extreme("min", ReduceOp::min, x, axes, keepdim);
}

std::pair<Tensor, Tensor> max_with_index(const Tensor& x, int64_t axis, bool keepdim) {
  return extreme_with_index("max_with_index", true, x, axis, keepdim);
}
std::pair<Tensor, Tensor> min_with_index(const Tensor& x, int64_t axis, bool keepdim) {
  return extreme_with_index("min_with_index", false, x, axis, keepdim);
}

Tensor argmax(const Tensor& x, int64_t axis, bool keepdim) {
  return arg_extreme("argmax", true, x, axis, reduced_axes("argmax", x.shape(), {axis}, keepdim));
}
Tensor argmin(const Tensor& x, int64_t axis, bool keepdim) {
  return arg_extreme("argmin", false, x, axis, reduced_axes("argmin", x.shape(), {axis}, keepdim));
}

Tensor any(const Tensor& x, const Dims& axes, bool keepdim) {
  return all_or_any(ReduceOp::any, "any", x, axes, keepdim);
}
Tensor all(const Tensor& x, const Dims& axes, bool keepdim) {
  return all_or_any(ReduceOp::all, "all", x, axes, keepdim);
}

Tensor logsumexp(const Tensor& x, const Dims& axes, bool keepdim) {
  check_floating("logsumexp", x);
  const ReducedAxes a = reduced_axes("logsumexp", x.shape(), axes, keepdim);
  kernels::Backend& b = backend(x.device());
  Tensor out;
  {
    NoGrad off;
    const ReducedAxes keeping = reduced_axes("logsumexp", x.shape(), axes, true);
    // Infinite extremes are not subtracted: inf - inf is NaN.
    const Tensor zero = filled({}, 0, x.dtype(), x.device());
    Tensor top = a.count == 0 ? filled(a.kept, 0, x.dtype(), x.device())
                              : reduced(ReduceOp::max, x, keeping);
    top = where(isfinite(top), top, zero);
    const Tensor terms = Tensor::empty(x.shape(), x.dtype(), x.device());
    b.binary(BinaryOp::sub, x, Spread(top, x.shape()), terms);
    b.unary(UnaryOp::exp, {}, terms, terms);
    out = reduced(ReduceOp::sum, terms, a);
    b.unary(UnaryOp::log, {}, out, out);
    b.binary(BinaryOp::add, out, ViewAs(top, contiguous_layout(a.out)), out);
  }
  if (recording(x)) {
    record("logsumexp", out, {x}, {save(x), save_output(out)}, [kept = a.kept](Backward& r) {
      // A row of only -inf has no softmax: NaN, unless nobody asks (cotangent 0).
      const Tensor weights = exp(r.saved(0) - reshape(r.saved(1), kept));
      r.set(0, mul_zero(reshape(r.grad(), kept), weights));
    });
  }
  return out;
}

Tensor norm(const Tensor& x, const Dims& axes, double p, bool keepdim) {
  check_floating("norm", x);
  if (!(p >= 1)) throw ValueError(fmt::format("norm: p = {} given; at least 1 is accepted", p));
  const ReducedAxes a = reduced_axes("norm", x.shape(), axes, keepdim);
  if (p == 1 || a.count == 0) return sum(abs(x), axes, keepdim);
  if (p == kInfinity) return max(abs(x), axes, keepdim);
  Tensor out;
  {
    NoGrad off;
    out = p == 2 ? reduced(ReduceOp::sum_squares, x, a) : sum(pow(abs(x), p), axes, keepdim);
    const UnaryOp root = p == 2 ? UnaryOp::sqrt : UnaryOp::pow_scalar;
    backend(x.device()).unary(root, {1 / p, 0}, out, out);
  }
  if (recording(x)) {
    record("norm", out, {x}, {save(x), save_output(out)}, [p, kept = a.kept](Backward& r) {
      const Tensor x = r.saved(0);
      const Tensor y = reshape(r.saved(1), kept);
      const Tensor g = reshape(r.grad(), kept);
      if (p == 2) {
        r.set(0, x * divide_or_zero(g, y));
      } else {
        r.set(0, mul_zero(sign(x) * pow(divide_or_zero(abs(x), y), p - 1), g));
      }
    });
  }
  return out;
}

}  // namespace flowgrad
