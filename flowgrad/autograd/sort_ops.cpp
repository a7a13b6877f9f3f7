#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

using kernels::backend;

/// The first `kept` along axis of the order, all by default.
std::pair<Tensor, Tensor> sorted(const Tensor& x, int axis, bool descending, int64_t kept = -1) {
  Shape shape = x.shape();
  if (kept >= 0 && shape.rank() > 0) shape[axis] = kept;
  Tensor values = Tensor::empty(shape, x.dtype(), x.device());
  Tensor indices = Tensor::empty(shape, DType::int64, x.device());
  backend(x.device()).sort(x, axis, descending, values, indices);
  return {values, indices};
}

/// `values` were taken from x at `indices`, along axis.
void record_taken(const char* name, const Tensor& x, const Tensor& values, const Tensor& indices,
                  int axis, const Shape& kept) {
  if (!recording(x)) return;
  record(name, values, {x}, {save(indices)}, [axis, kept, shape = x.shape()](Backward& r) {
    r.set(0, scatter_zeros(reshape(r.grad(), kept), axis, reshape(r.saved(0), kept), shape));
  });
}

void check_median(const Tensor& x, int64_t size) {
  check_numeric("median", x);
  if (size > 0) return;
  throw ShapeError(
      fmt::format("median: shape {} given; at least one element is needed", x.shape().to_string()));
}

/// Lower median along axis of size 1 there, and its position; a NaN wins.
std::pair<Tensor, Tensor> middle(const Tensor& x, int axis) {
  NoGrad off;
  const auto [values, indices] = sorted(x, axis, false);
  if (x.rank() == 0) return {values, indices};
  const int64_t n = x.shape()[axis];
  const auto at = [&](const Tensor& t, int64_t i) { return slice(t, axis, i, i + 1); };
  const int64_t half = (n - 1) / 2;
  if (!is_floating(x.dtype())) return {clone(at(values, half)), clone(at(indices, half))};
  // Sorting puts NaN last.
  const Tensor nan = isnan(at(values, n - 1));
  return {where(nan, at(values, n - 1), at(values, half)),
          where(nan, at(indices, n - 1), at(indices, half))};
}

}  // namespace

std::pair<Tensor, Tensor> sort(const Tensor& given, int64_t axis, bool descending) {
  const int at = normalize_axis("sort", axis, given.rank());
  const Tensor x = counted(given);
  check_numeric("sort", x);
  auto [values, indices] = sorted(x, at, descending);
  record_taken("sort", x, values, indices, at, x.shape());
  return {cast(values, given.dtype()), indices};
}

std::pair<Tensor, Tensor> topk(const Tensor& given, int64_t k, int64_t axis, bool largest) {
  const int at = normalize_axis("topk", axis, given.rank());
  const Tensor x = counted(given);
  check_numeric("topk", x);
  const int64_t n = x.rank() == 0 ? 1 : x.shape()[at];
  const int64_t fewest = x.rank() == 0 ? 1 : 0;
  if (k < fewest || k > n) {
    throw ValueError(
        fmt::format("topk: k = {} given for axis {} of shape {}; {} to {} are accepted", k, at,
                    x.shape().to_string(), fewest, n));
  }
  auto [values, indices] = sorted(x, at, largest, k);
  record_taken("topk", x, values, indices, at, values.shape());
  return {cast(values, given.dtype()), indices};
}

Tensor median(const Tensor& x) {
  check_median(x, x.numel());
  Tensor out;
  {
    NoGrad off;
    out = reshape(middle(reshape(x, {x.numel()}), 0).first, {});
  }
  if (recording(x)) {
    record("median", out, {x}, {save(x), save_output(out)}, [](Backward& r) {
      const Tensor x = r.saved(0).detach();
      const Tensor y = r.saved(1).detach();
      const Tensor zero = filled({}, 0, x.dtype(), x.device());
      const Tensor mask = is_extreme(x, y);
      r.set(0, where(mask, r.grad() / sum(cast(mask, x.dtype())), zero));
    });
  }
  return out;
}

std::pair<Tensor, Tensor> median(const Tensor& x, int64_t axis, bool keepdim) {
  const int at = normalize_axis("median", axis, x.rank());
  const ReducedAxes a = reduced_axes("median", x.shape(), {axis}, keepdim);
  check_median(x, a.count);
  auto [values, indices] = middle(x, at);
  {
    NoGrad off;
    values = reshape(values, a.out);
    indices = reshape(indices, a.out);
  }
  record_taken("median", x, values, indices, at, a.kept);
  return {values, indices};
}

}  // namespace flowgrad
