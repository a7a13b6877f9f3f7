#include <fmt/format.h>

#include <limits>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

using kernels::backend;
using kernels::ScanOp;

Tensor scanned(ScanOp op, const Tensor& x, int axis, bool reverse) {
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend(x.device()).scan(op, x, axis, reverse, out);
  return out;
}

Tensor cumulative_sum(const Tensor& x, int axis, bool reverse) {
  Tensor out = scanned(ScanOp::sum, x, axis, reverse);
  if (recording(x)) {
    record("cumsum", out, {x}, {},
           [axis, reverse](Backward& r) { r.set(0, cumulative_sum(r.grad(), axis, !reverse)); });
  }
  return out;
}

std::pair<Tensor, Tensor> running_extreme(const char* name, bool maximum, const Tensor& given,
                                          int64_t axis) {
  const int at = normalize_axis(name, axis, given.rank());
  const Tensor x = counted(given);
  check_numeric(name, x);
  Tensor values = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor indices = Tensor::empty(x.shape(), DType::int64, x.device());
  backend(x.device()).scan_extreme(maximum, x, at, values, indices);
  if (recording(x)) {
    record(name, values, {x}, {save(indices)}, [at](Backward& r) {
      r.set(0, scatter_zeros(r.grad(), at, r.saved(0), r.grad().shape()));
    });
  }
  return {cast(values, given.dtype()), indices};
}

}  // namespace

Tensor shifted(const Tensor& x, int axis, int by, double edge) {
  if (x.rank() == 0) return filled({}, edge, x.dtype(), x.device());
  const int64_t n = x.shape()[axis];
  if (n == 0) return x;
  std::vector<std::pair<int64_t, int64_t>> pads(static_cast<size_t>(x.rank()), {0, 0});
  (by > 0 ? pads[static_cast<size_t>(axis)].first : pads[static_cast<size_t>(axis)].second) = 1;
  return pad(by > 0 ? slice(x, axis, 0, n - 1) : slice(x, axis, 1, n), pads, edge);
}

Tensor cumulative_product(const Tensor& x, int axis, bool reverse) {
  Tensor out = scanned(ScanOp::prod, x, axis, reverse);
  if (recording(x)) {
    // dx_i = (product before i) (g_i + x_(i+1) (g_(i+1) + x_(i+2) (...))): no division, so exact at
    // zeros.
    record("cumprod", out, {x}, {save(x), save_output(out)}, [axis, reverse](Backward& r) {
      const int forward = reverse ? -1 : 1;
      const Tensor rest =
          linear_scan(shifted(r.saved(0), axis, -forward, 0), r.grad(), axis, !reverse);
      r.set(0, shifted(r.saved(1), axis, forward, 1) * rest);
    });
  }
  return out;
}

Tensor cumsum(const Tensor& given, int64_t axis) {
  const Tensor x = counted(given);
  check_numeric("cumsum", x);
  return cumulative_sum(x, normalize_axis("cumsum", axis, x.rank()), false);
}

Tensor cumprod(const Tensor& given, int64_t axis) {
  const Tensor x = counted(given);
  check_numeric("cumprod", x);
  return cumulative_product(x, normalize_axis("cumprod", axis, x.rank()), false);
}

Tensor logcumsumexp(const Tensor& x, int64_t axis) {
  check_floating("logcumsumexp", x);
  const int at = normalize_axis("logcumsumexp", axis, x.rank());
  Tensor out = scanned(ScanOp::logsumexp, x, at, false);
  if (recording(x)) {
    // dx_i = exp(x_i - y_i) T_i with T_i = g_i + exp(y_i - y_(i+1)) T_(i+1): every exponent is at
    // most 0.
    record("logcumsumexp", out, {x}, {save(x), save_output(out)}, [at](Backward& r) {
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      const Tensor y = r.saved(1);
      const Tensor nothing = filled({}, -kInfinity, y.dtype(), y.device());
      const Tensor zero = filled({}, 0, y.dtype(), y.device());
      // exp(a - b): 0 where a is -inf whatever b is, and 1 where both are +inf.
      const auto ratio = [&](const Tensor& a, const Tensor& b) {
        return exp(where(equal(a, nothing), nothing, where(equal(a, b), zero, a - b)));
      };
      const Tensor rest = linear_scan(ratio(y, shifted(y, at, -1, kInfinity)), r.grad(), at, true);
      r.set(0, ratio(r.saved(0), y) * rest);
    });
  }
  return out;
}

std::pair<Tensor, Tensor> cummax(const Tensor& x, int64_t axis) {
  return running_extreme("cummax", true, x, axis);
}
std::pair<Tensor, Tensor> cummin(const Tensor& x, int64_t axis) {
  return running_extreme("cummin", false, x, axis);
}

Tensor linear_scan(const Tensor& given_a, const Tensor& given_b, int64_t axis, bool reverse) {
  const DType dtype = promote(given_a.dtype(), given_b.dtype());
  const Tensor a = cast(given_a, dtype);
  const Tensor b = cast(given_b, dtype);
  if (dtype != DType::float32 && dtype != DType::float64) {
    throw DTypeError(fmt::format("linear_scan: a is {} and b {}; float32 and float64 are accepted",
                                 name_of(given_a.dtype()), name_of(given_b.dtype())));
  }
  check_same_device("linear_scan", a, b);
  const Shape shape = broadcast_shapes("linear_scan", a.shape(), b.shape());
  const int at = normalize_axis("linear_scan", axis, shape.rank());
  Tensor out = Tensor::empty(shape, dtype, a.device());
  backend(a.device()).linear_scan(Spread(a, shape), Spread(b, shape), at, reverse, out);
  if (recording(a, b)) {
    const Saved states = a.requires_grad() ? save_output(out) : Saved{};
    record("linear_scan", out, {a, b}, {save(a), states}, [at, reverse](Backward& r) {
      const int forward = reverse ? -1 : 1;
      const Tensor factors = shifted(expand(r.saved(0), r.grad().shape()), at, -forward, 0);
      const Tensor t = linear_scan(factors, r.grad(), at, !reverse);
      // The first factor has multiplied nothing.
      if (r.needs(0)) r.set(0, mul_zero(shifted(r.saved(1), at, forward, 0), t));
      if (r.needs(1)) r.set(1, t);
    });
  }
  return out;
}

}  // namespace flowgrad
