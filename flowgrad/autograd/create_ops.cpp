#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/core/tensor_bytes.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using kernels::backend;

void check_ordered(const char* op, double low, double high) {
  if (low <= high) return;
  throw ValueError(fmt::format("{}: bounds low = {} and high = {} given; low must not exceed high",
                               op, low, high));
}

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  return filled(shape, value, dtype, device);
}
Tensor zeros(const Shape& shape, DType dtype, Device device) {
  return filled(shape, 0, dtype, device);
}
Tensor ones(const Shape& shape, DType dtype, Device device) {
  return filled(shape, 1, dtype, device);
}
Tensor zeros_like(const Tensor& x) { return filled(x.shape(), 0, x.dtype(), x.device()); }
Tensor ones_like(const Tensor& x) { return filled(x.shape(), 1, x.dtype(), x.device()); }
Tensor scalar(double value, DType dtype, Device device) { return filled({}, value, dtype, device); }

Tensor tensor(std::initializer_list<double> values, DType dtype, Device device) {
  return Tensor::from(std::vector<double>(values), {static_cast<int64_t>(values.size())}, dtype,
                      device);
}

Tensor arange(double start, double stop, double step, DType dtype, Device device) {
  if (step == 0 || !std::isfinite(start) || !std::isfinite(stop) || !std::isfinite(step)) {
    throw ValueError(
        fmt::format("arange: start {}, stop {}, step {} given; they must be finite and the step "
                    "not 0",
                    start, stop, step));
  }
  const double n = std::max(0.0, std::ceil((stop - start) / step));
  if (n > 0x1p59) throw ValueError(fmt::format("arange: {} elements asked for", n));
  Tensor t = Tensor::empty({static_cast<int64_t>(n)}, dtype, device);
  backend(t.device()).arange(t, start, step);
  return t;
}

Tensor linspace(double start, double stop, int64_t n, DType dtype, Device device) {
  if (n < 0) throw ValueError(fmt::format("linspace: n = {} given; at least 0 is accepted", n));
  const Tensor out = Tensor::empty({n}, DType::float64);
  double* v = out.data<double>();
  if (n > 0) v[0] = start;
  for (int64_t i = 1; i < n; ++i) {
    // From the nearer end, so that both ends are exact.
    const double step = (stop - start) / static_cast<double>(n - 1);
    v[i] = 2 * i < n ? start + step * static_cast<double>(i)
                     : stop - step * static_cast<double>(n - 1 - i);
  }
  return to(cast(out, dtype), device);
}

Tensor eye(int64_t n, DType dtype, Device device) {
  Tensor t = zeros({n, n}, dtype, device);
  const Tensor diagonal = t.with_layout({{n}, {n + 1}, 0});
  backend(device).fill(diagonal, 1);
  return t;
}

Tensor to(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  const Tensor dense = contiguous(x.detach());
  Tensor out = Tensor::empty(x.shape(), x.dtype(), device);
  if (x.device().is_cpu()) {
    copy_from_host(dense.raw(), out);
  } else if (device.is_cpu()) {
    copy_to_host(dense, out.raw());
  } else {
    copy_from_host(TensorBytes(dense).span().data(), out);
  }
  if (recording(x)) {
    record("to", out, {x}, {}, [from = x.device()](Backward& r) { r.set(0, to(r.grad(), from)); });
  }
  return out;
}

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor out = Tensor::empty(x.shape(), dtype, x.device());
  backend(x.device()).copy(x, out);
  if (recording(x) && is_floating(dtype)) {
    record("cast", out, {x}, {},
           [from = x.dtype()](Backward& r) { r.set(0, cast(r.grad(), from)); });
  }
  return out;
}

Tensor where(const Tensor& condition, const Tensor& given_a, const Tensor& given_b) {
  if (condition.dtype() != DType::boolean) {
    throw DTypeError(
        fmt::format("where: condition is {}; bool is accepted", name_of(condition.dtype())));
  }
  const DType dtype = promote(given_a.dtype(), given_b.dtype());
  const Tensor a = cast(given_a, dtype);
  const Tensor b = cast(given_b, dtype);
  check_same_device("where", a, b);
  check_same_device("where", condition, a, "condition", "a");
  const Shape shape =
      broadcast_shapes("where", condition.shape(), broadcast_shapes("where", a.shape(), b.shape()));
  Tensor out = Tensor::empty(shape, dtype, a.device());
  backend(a.device()).where(Spread(condition, shape), Spread(a, shape), Spread(b, shape), out);
  if (recording(a, b)) {
    record("where", out, {a, b}, {save(condition)}, [](Backward& r) {
      const Tensor zero = filled({}, 0, r.grad().dtype(), r.grad().device());
      const Tensor c = r.saved(0);
      if (r.needs(0)) r.set(0, where(c, r.grad(), zero));
      if (r.needs(1)) r.set(1, where(c, zero, r.grad()));
    });
  }
  return out;
}

namespace {

Tensor compare(kernels::CompareOp op, const char* name, const Tensor& given_a,
               const Tensor& given_b) {
  const DType dtype = promote(given_a.dtype(), given_b.dtype());
  NoGrad off;
  const Tensor a = cast(given_a, dtype);
  const Tensor b = cast(given_b, dtype);
  check_same_device(name, a, b);
  const Shape shape = broadcast_shapes(name, a.shape(), b.shape());
  Tensor out = Tensor::empty(shape, DType::boolean, a.device());
  backend(a.device()).compare(op, Spread(a, shape), Spread(b, shape), out);
  return out;
}

/// The number as a tensor of a's dtype, or of float64 where an integer could not hold it.
Tensor beside(const Tensor& a, double b) {
  return filled({}, b, is_floating(a.dtype()) ? a.dtype() : DType::float64, a.device());
}

Tensor logical(kernels::LogicalOp op, const char* name, const Tensor& a, const Tensor& b) {
  for (const Tensor* t : {&a, &b}) {
    if (t->dtype() != DType::boolean) {
      throw DTypeError(fmt::format("{}: {} is {}; bool is accepted", name, t == &a ? "a" : "b",
                                   name_of(t->dtype())));
    }
  }
  check_same_device(name, a, b);
  const Shape shape = broadcast_shapes(name, a.shape(), b.shape());
  Tensor out = Tensor::empty(shape, DType::boolean, a.device());
  backend(a.device()).logical(op, Spread(a, shape), Spread(b, shape), out);
  return out;
}

void check_writable(const char* op, const Tensor& x) {
  if (mode().recording && x.requires_grad()) {
    throw GradError(
        fmt::format("{}: the tensor of shape {} is on the tape and cannot be written in place; "
                    "use slice_scatter, where or scatter_add, or write under NoGrad",
                    op, x.shape().to_string()));
  }
  const int repeated = repeated_axis(x.layout());
  if (repeated >= 0) {
    throw ValueError(
        fmt::format("{}: a tensor of shape {} given whose axis {} shows the same elements again; "
                    "one with an element for each place is accepted",
                    op, x.shape().to_string(), repeated));
  }
}

bool may_overlap(const Tensor& a, const Tensor& b) {
  if (&a.storage() != &b.storage()) return false;
  const Extent one = extent_of(a.layout()), other = extent_of(b.layout());
  return one.begin < other.end && other.begin < one.end;
}

}  // namespace

#define COMPARE(name, value)                               \
  Tensor name(const Tensor& a, const Tensor& b) {          \
    return compare(kernels::CompareOp::name, #name, a, b); \
  }                                                        \
  Tensor name(const Tensor& a, double b) { return name(a, beside(a, b)); }
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE

#define PREDICATE(name, value)                                         \
  Tensor name(const Tensor& x) {                                       \
    Tensor out = Tensor::empty(x.shape(), DType::boolean, x.device()); \
    backend(x.device()).predicate(kernels::PredicateOp::name, x, out); \
    return out;                                                        \
  }
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE

Tensor logical_and(const Tensor& a, const Tensor& b) {
  return logical(kernels::LogicalOp::logical_and, "logical_and", a, b);
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return logical(kernels::LogicalOp::logical_or, "logical_or", a, b);
}
Tensor logical_xor(const Tensor& a, const Tensor& b) {
  return logical(kernels::LogicalOp::logical_xor, "logical_xor", a, b);
}
Tensor logical_not(const Tensor& x) {
  return logical(kernels::LogicalOp::logical_xor, "logical_not", x,
                 filled({}, 1, DType::boolean, x.device()));
}

void copy_(const Tensor& x, const Tensor& source) {
  check_writable("copy_", x);
  if (mode().recording && source.requires_grad()) {
    throw GradError(
        fmt::format("copy_: the source of shape {} is on the tape and its gradient would be lost; "
                    "use slice_scatter, where or scatter_add, or copy from source.detach()",
                    source.shape().to_string()));
  }
  if (x.shape() != source.shape()) {
    throw ShapeError(fmt::format("copy_: source of shape {} given for a tensor of shape {}",
                                 source.shape().to_string(), x.shape().to_string()));
  }
  // Places that both show are read before any of them is written.
  backend(x.device()).copy(may_overlap(x, source) ? clone(source) : to(source, x.device()), x);
  x.storage().mark_written("copy_");
}

void fill_(const Tensor& x, double value) {
  check_writable("fill_", x);
  backend(x.device()).fill(x, value);
  x.storage().mark_written("fill_");
}

}  // namespace flowgrad
