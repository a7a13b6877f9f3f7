#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

// Operations that only show the same elements in another way, and the ways back.
namespace flowgrad {
namespace {

using kernels::backend;

/// All of x as it is, with a place of its own on the tape: what is asked of a view, its gradient
/// say, must not depend on whether some sizes coincide.
Tensor alias(const char* name, const Tensor& x) {
  Tensor out = x.detach();
  if (recording(x)) record(name, out, {x}, {}, [](Backward& r) { r.set(0, r.grad()); });
  return out;
}

/// x as a new row-major tensor, seen under `shape`.
Tensor packed(const Tensor& x, const Shape& shape) {
  Tensor out = Tensor::empty(shape, x.dtype(), x.device());
  backend(x.device()).copy(x, ViewAs(out, contiguous_layout(x.shape())));
  return out;
}

Tensor reshaped(const char* name, const Tensor& x, const Shape& asked, bool may_copy) {
  const Shape shape = resolve_reshape(name, x.shape(), asked);
  if (shape == x.shape()) return alias(name, x);
  const std::optional<Layout> layout = viewed(x.layout(), shape);
  if (!layout && !may_copy) {
    throw ShapeError(
        fmt::format("{}: shape {} with strides {} has no view of shape {}; use reshape, "
                    "which copies where it must",
                    name, x.shape().to_string(), x.strides().to_string(), shape.to_string()));
  }
  Tensor out = layout ? x.with_layout(*layout) : packed(x, shape);
  if (recording(x)) {
    record(name, out, {x}, {},
           [shape = x.shape()](Backward& r) { r.set(0, reshape(r.grad(), shape)); });
  }
  return out;
}

/// Zeros of `shape` with x in the place of a slice.
Tensor embed_slice(const Tensor& x, const Shape& shape, int axis, int64_t start, int64_t stop,
                   int64_t step) {
  Tensor out = filled(shape, 0, x.dtype(), x.device());
  const Layout place = sliced("slice", out.layout(), axis, start, stop, step);
  backend(x.device()).copy(x, ViewAs(out, place));
  if (recording(x)) {
    record("embed_slice", out, {x}, {}, [axis, start, stop, step](Backward& r) {
      r.set(0, slice(r.grad(), axis, start, stop, step));
    });
  }
  return out;
}

/// Beyond any size: keeps the arithmetic with k from overflowing.
constexpr int64_t kFarDiagonal = int64_t{1} << 60;

/// Layout of diagonal k of the last two axes.
Layout diagonal_of(const Layout& in, int64_t k) {
  const int m = in.rank() - 2;
  const int n = in.rank() - 1;
  const int64_t rows = in.shape[m] - std::max<int64_t>(-k, 0);
  const int64_t columns = in.shape[n] - std::max<int64_t>(k, 0);
  Layout out = in;
  out.shape.erase(n);
  out.strides.erase(n);
  out.shape[m] = std::max<int64_t>(std::min(rows, columns), 0);
  out.strides[m] = in.strides[m] + in.strides[n];
  if (out.shape[m] > 0) out.offset += k >= 0 ? k * in.strides[n] : -k * in.strides[m];
  return out;
}

/// Zeros of `shape` with x on diagonal k of the last two axes.
Tensor embed_diagonal(const Tensor& x, const Shape& shape, int64_t k) {
  Tensor out = filled(shape, 0, x.dtype(), x.device());
  backend(x.device()).copy(x, ViewAs(out, diagonal_of(out.layout(), k)));
  if (recording(x)) {
    record("embed_diagonal", out, {x}, {}, [k](Backward& r) { r.set(0, diag(r.grad(), k)); });
  }
  return out;
}

/// False only where no two indices can name one element.
bool may_overlap(const Layout& l) {
  Dims axes;
  for (int i = 0; i < l.rank(); ++i) {
    if (l.shape[i] == 0) return false;
    if (l.shape[i] > 1) axes.push_back(i);
  }
  const auto stride = [&](int64_t i) { return std::abs(l.strides[static_cast<int>(i)]); };
  std::sort(axes.begin(), axes.end(), [&](int64_t a, int64_t b) { return stride(a) < stride(b); });
  int64_t reach = 0;
  for (int64_t i : axes) {
    if (stride(i) <= reach) return true;
    reach += (l.shape[static_cast<int>(i)] - 1) * stride(i);
  }
  return false;
}

/// x laid into a zeroed storage by `from` (adding where it overlaps) and read out by `to`. `owner`
/// is the layout of the tensor that as_strided showed: an element that it shows n times counts 1 /
/// n.
Tensor relaid(const Tensor& x, const Layout& from, const Layout& to, const Layout& owner) {
  const Extent a = extent_of(from);
  const Extent b = extent_of(to);
  const int64_t begin = std::min(a.begin, b.begin);
  const int64_t size = std::max(a.end, b.end) - begin;
  const auto moved = [&](Layout l) {
    l.offset -= begin;
    if (numel(l.shape) == 0) l.offset = 0;
    return l;
  };
  kernels::Backend& device = backend(x.device());
  const Tensor place = filled({size}, 0, x.dtype(), x.device());
  device.add_into(x, ViewAs(place, moved(from)));
  if (may_overlap(owner)) {
    const Tensor one = filled({}, 1, x.dtype(), x.device());
    const Tensor times = filled({size}, 0, x.dtype(), x.device());
    device.add_into(Spread(one, owner.shape), ViewAs(times, moved(owner)));
    device.binary(kernels::BinaryOp::maximum, times, Spread(one, {size}), times);
    device.binary(kernels::BinaryOp::div, place, times, place);
  }
  Tensor out = Tensor::empty(to.shape, x.dtype(), x.device());
  device.copy(ViewAs(place, moved(to)), out);
  if (recording(x)) {
    record("relaid", out, {x}, {},
           [from, to, owner](Backward& r) { r.set(0, relaid(r.grad(), to, from, owner)); });
  }
  return out;
}

Tensor triangle(const char* name, bool lower, const Tensor& x, int64_t k) {
  if (x.rank() < 2) {
    throw ShapeError(
        fmt::format("{}: shape {} given; rank 2 or more is accepted", name, x.shape().to_string()));
  }
  const int64_t rows = x.size(-2);
  const int64_t columns = x.size(-1);
  kernels::Backend& b = backend(x.device());
  // Element (i, j) lies on or below diagonal k where j <= i + k.
  const Tensor limit = Tensor::empty({rows}, DType::int64, x.device());
  const Tensor column = Tensor::empty({columns}, DType::int64, x.device());
  const Tensor keep = Tensor::empty({rows, columns}, DType::boolean, x.device());
  b.arange(limit, static_cast<double>(std::clamp(k, -rows, columns)), 1);
  b.arange(column, 0, 1);
  b.compare(lower ? kernels::CompareOp::less_equal : kernels::CompareOp::greater_equal,
            Spread(column, keep.shape()), ViewAs(limit, {keep.shape(), {1, 0}, 0}), keep);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor zero = filled({}, 0, x.dtype(), x.device());
  b.where(Spread(keep, x.shape()), x, Spread(zero, x.shape()), out);
  if (recording(x)) {
    record(name, out, {x}, {},
           [name, lower, k](Backward& r) { r.set(0, triangle(name, lower, r.grad(), k)); });
  }
  return out;
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) { return reshaped("reshape", x, shape, true); }
Tensor view(const Tensor& x, const Shape& shape) { return reshaped("view", x, shape, false); }

Tensor permute(const Tensor& x, const Dims& axes) {
  const Layout layout = permuted("permute", x.layout(), axes);
  Dims inverse = axes;
  bool same = true;
  for (int i = 0; i < x.rank(); ++i) {
    const int a = normalize_axis("permute", axes[i], x.rank());
    inverse[a] = i;
    same = same && a == i;
  }
  if (same) return alias("permute", x);
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    record("permute", out, {x}, {},
           [inverse](Backward& r) { r.set(0, permute(r.grad(), inverse)); });
  }
  return out;
}

Tensor transpose(const Tensor& x, int64_t axis0, int64_t axis1) {
  const Layout layout = transposed("transpose", x.layout(), axis0, axis1);
  const int a = normalize_axis("transpose", axis0, x.rank());
  const int b = normalize_axis("transpose", axis1, x.rank());
  if (a == b) return alias("transpose", x);
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    record("transpose", out, {x}, {}, [a, b](Backward& r) { r.set(0, transpose(r.grad(), a, b)); });
  }
  return out;
}

Tensor expand(const Tensor& x, const Shape& shape) {
  const Layout layout = expanded("expand", x.layout(), shape);
  if (layout.shape == x.shape()) return alias("expand", x);
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    // The pass sums over what was broadcast.
    record("expand", out, {x}, {}, [](Backward& r) { r.set(0, r.grad()); });
  }
  return out;
}

Tensor sum_to(const Tensor& given, const Shape& shape) {
  if (given.shape() == shape) return given;
  const Tensor x = counted(given);
  check_numeric("sum_to", x);
  const int lead = x.rank() - shape.rank();
  if (lead < 0) {
    throw ShapeError(
        fmt::format("sum_to: shape {} does not come from broadcasting {}: it has more axes",
                    x.shape().to_string(), shape.to_string()));
  }
  Shape kept = Dims::filled(x.rank(), 1);
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != 1 && shape[i] != x.shape()[lead + i]) {
      throw ShapeError(fmt::format(
          "sum_to: shape {} does not come from broadcasting {}: axis {} ({}) must "
          "be 1 or the size of x on axis {} ({})",
          x.shape().to_string(), shape.to_string(), i, shape[i], lead + i, x.shape()[lead + i]));
    }
    kept[lead + i] = shape[i];
  }
  Tensor out = Tensor::empty(shape, x.dtype(), x.device());
  backend(x.device()).reduce(kernels::ReduceOp::sum, x, ViewAs(out, contiguous_layout(kept)));
  if (recording(x)) {
    record("sum_to", out, {x}, {},
           [from = x.shape()](Backward& r) { r.set(0, expand(r.grad(), from)); });
  }
  return out;
}

Tensor squeeze(const Tensor& x, int64_t axis) {
  const Layout layout = squeezed("squeeze", x.layout(), axis);
  if (x.rank() == 0) return alias("squeeze", x);
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    record("squeeze", out, {x}, {}, [at = normalize_axis("squeeze", axis, x.rank())](Backward& r) {
      r.set(0, unsqueeze(r.grad(), at));
    });
  }
  return out;
}

Tensor unsqueeze(const Tensor& x, int64_t axis) {
  Tensor out = x.with_layout(unsqueezed("unsqueeze", x.layout(), axis));
  if (recording(x)) {
    record("unsqueeze", out, {x}, {},
           [at = normalize_axis("unsqueeze", axis, x.rank() + 1)](Backward& r) {
             r.set(0, squeeze(r.grad(), at));
           });
  }
  return out;
}

Tensor flatten(const Tensor& x, int64_t first_axis, int64_t last_axis) {
  const int first = normalize_axis("flatten", first_axis, x.rank());
  const int last = normalize_axis("flatten", last_axis, x.rank());
  if (first > last) {
    throw ShapeError(fmt::format("flatten: first_axis {} comes after last_axis {} in shape {}",
                                 first, last, x.shape().to_string()));
  }
  if (x.rank() == 0) return reshape(x, {1});
  Shape shape;
  for (int i = 0; i < x.rank(); ++i) {
    if (i > first && i <= last) {
      shape[first] *= x.shape()[i];
    } else {
      shape.push_back(x.shape()[i]);
    }
  }
  return reshape(x, shape);
}

Tensor slice(const Tensor& x, int64_t axis, int64_t start, int64_t stop, int64_t step) {
  const Layout layout = sliced("slice", x.layout(), axis, start, stop, step);
  if (layout.shape == x.shape()) return alias("slice", x);
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    const int at = normalize_axis("slice", axis, x.rank());
    record("slice", out, {x}, {}, [shape = x.shape(), at, start, stop, step](Backward& r) {
      r.set(0, embed_slice(r.grad(), shape, at, start, stop, step));
    });
  }
  return out;
}

Tensor select(const Tensor& x, int64_t axis, int64_t index) {
  if (x.rank() == 0) throw ShapeError("select: a tensor of rank 0 has no axis to select from");
  const int at = normalize_axis("select", axis, x.rank());
  const int64_t n = x.shape()[at];
  if (index < -n || index >= n) {
    throw ValueError(
        fmt::format("select: index {} given for axis {} of shape {}; {} to {} are accepted", index,
                    at, x.shape().to_string(), -n, n - 1));
  }
  const int64_t i = index < 0 ? index + n : index;
  Layout layout = x.layout();
  layout.offset += i * layout.strides[at];
  layout.shape.erase(at);
  layout.strides.erase(at);
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    record("select", out, {x}, {}, [shape = x.shape(), at, i](Backward& r) {
      r.set(0, embed_slice(unsqueeze(r.grad(), at), shape, at, i, i + 1, 1));
    });
  }
  return out;
}

Tensor slice_scatter(const Tensor& x, const Tensor& source, int64_t axis, int64_t start,
                     int64_t stop, int64_t step) {
  check_like("slice_scatter", "source", source, x);
  Tensor out = packed(x, x.shape());
  const Layout place = sliced("slice_scatter", out.layout(), axis, start, stop, step);
  const Layout values = expanded("slice_scatter", source.layout(), place.shape);
  backend(x.device()).copy(ViewAs(source, values), ViewAs(out, place));
  if (recording(x, source)) {
    record("slice_scatter", out, {x, source}, {}, [axis, start, stop, step](Backward& r) {
      const Tensor& g = r.grad();
      const Tensor zero = filled({}, 0, g.dtype(), g.device());
      if (r.needs(0)) r.set(0, slice_scatter(g, zero, axis, start, stop, step));
      if (r.needs(1)) r.set(1, slice(g, axis, start, stop, step));
    });
  }
  return out;
}

Tensor tril(const Tensor& x, int64_t k) { return triangle("tril", true, x, k); }
Tensor triu(const Tensor& x, int64_t k) { return triangle("triu", false, x, k); }

Tensor diag(const Tensor& x, int64_t given_k) {
  const int64_t k = std::clamp<int64_t>(given_k, -kFarDiagonal, kFarDiagonal);
  if (x.rank() == 0) throw ShapeError("diag: a tensor of rank 0 given; rank 1 or more is accepted");
  if (x.rank() == 1) {
    const int64_t n = x.shape()[0] + std::abs(k);
    return embed_diagonal(x, {n, n}, k);
  }
  Tensor out = x.with_layout(diagonal_of(x.layout(), k));
  if (recording(x)) {
    record("diag", out, {x}, {},
           [shape = x.shape(), k](Backward& r) { r.set(0, embed_diagonal(r.grad(), shape, k)); });
  }
  return out;
}

Tensor as_strided(const Tensor& x, const Shape& shape, const Strides& strides, int64_t offset) {
  if (shape.rank() != strides.rank()) {
    throw ShapeError(
        fmt::format("as_strided: shape {} and strides {} given; one stride an axis is accepted",
                    shape.to_string(), strides.to_string()));
  }
  const Layout layout{shape, strides, offset};
  const Extent e = extent_of(layout);
  const auto have = static_cast<int64_t>(x.storage().bytes() / size_of(x.dtype()));
  if (e.begin < 0 || e.end > have) {
    throw ShapeError(
        fmt::format("as_strided: shape {} with strides {} and offset {} touches elements {} to "
                    "{}; the storage of x has 0 to {}",
                    shape.to_string(), strides.to_string(), offset, e.begin, e.end - 1, have - 1));
  }
  Tensor out = x.with_layout(layout);
  if (recording(x)) {
    record("as_strided", out, {x}, {}, [layout, owner = x.layout()](Backward& r) {
      r.set(0, relaid(r.grad(), layout, owner, owner));
    });
  }
  return out;
}

Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

Tensor clone(const Tensor& x) {
  Tensor out = packed(x, x.shape());
  if (recording(x)) record("clone", out, {x}, {}, [](Backward& r) { r.set(0, r.grad()); });
  return out;
}

}  // namespace flowgrad
