#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

// Operations that put tensors together, take them apart, or move their elements along an axis.
namespace flowgrad {
namespace {

using kernels::backend;

using Pads = std::vector<std::pair<int64_t, int64_t>>;

Layout cropped(Layout in, const Pads& pads) {
  for (int i = 0; i < in.rank(); ++i) {
    const auto& [before, after] = pads[static_cast<size_t>(i)];
    in.offset += before * in.strides[i];
    in.shape[i] -= before + after;
  }
  return in;
}

/// A view without the padding: the reverse of pad.
Tensor crop(const Tensor& x, const Pads& pads) {
  Tensor out = x.with_layout(cropped(x.layout(), pads));
  if (recording(x)) {
    record("crop", out, {x}, {}, [pads](Backward& r) { r.set(0, pad(r.grad(), pads)); });
  }
  return out;
}

/// The parts in one dtype.
std::vector<Tensor> promoted(const char* op, std::span<const Tensor> parts) {
  if (parts.empty())
    throw ShapeError(fmt::format("{}: no tensors given; at least one is needed", op));
  DType dtype = parts[0].dtype();
  for (const Tensor& t : parts) dtype = promote(dtype, t.dtype());
  std::vector<Tensor> out;
  out.reserve(parts.size());
  check_same_device(op, "part", parts);
  for (const Tensor& t : parts) out.push_back(cast(t, dtype));
  return out;
}

/// Views of x that lie one after the other along axis.
std::vector<Tensor> views_along(const char* name, const Tensor& x,
                                const std::vector<int64_t>& sizes, int axis) {
  std::vector<Tensor> out;
  out.reserve(sizes.size());
  Layout layout = x.layout();
  for (int64_t n : sizes) {
    layout.shape[axis] = n;
    out.push_back(x.with_layout(layout));
    layout.offset += n * layout.strides[axis];
  }
  if (recording(x) && !out.empty()) {
    record(name, std::span<const Tensor>(out), std::span(&x, 1), std::span<const Saved>(),
           [axis, n = out.size()](Backward& r) {
             std::vector<Tensor> parts;
             for (size_t i = 0; i < n; ++i) parts.push_back(r.grad_or_zeros(static_cast<int>(i)));
             r.set(0, concat(parts, axis));
           });
  }
  return out;
}

int axis_of(const char* op, const Tensor& x, int64_t axis) {
  if (x.rank() == 0) throw ShapeError(fmt::format("{}: a tensor of rank 0 has no axis", op));
  return normalize_axis(op, axis, x.rank());
}

}  // namespace

Tensor flip(const Tensor& x, const Dims& axes) {
  Layout layout = x.layout();
  unsigned seen = 0;
  for (int64_t given : axes) {
    const int a = axis_of("flip", x, given);
    if (seen >> a & 1u) {
      throw ShapeError(fmt::format("flip: axis {} is named twice in {}", a, axes.to_string()));
    }
    seen |= 1u << a;
    if (x.numel() == 0) continue;
    layout.offset += (layout.shape[a] - 1) * layout.strides[a];
    layout.strides[a] = -layout.strides[a];
  }
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend(x.device()).copy(ViewAs(x, layout), out);
  if (recording(x)) {
    record("flip", out, {x}, {}, [axes](Backward& r) { r.set(0, flip(r.grad(), axes)); });
  }
  return out;
}

Tensor roll(const Tensor& x, int64_t shift, int64_t axis) {
  const int a = normalize_axis("roll", axis, x.rank());
  const int64_t n = x.rank() == 0 || x.shape()[a] == 0 ? 1 : x.shape()[a];
  const int64_t by = (shift % n + n) % n;
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::Backend& b = backend(x.device());
  if (by == 0) {
    b.copy(x, out);
  } else {
    const Layout from = x.layout();
    const Layout to = out.layout();
    b.copy(ViewAs(x, sliced("roll", from, a, 0, n - by, 1)),
           ViewAs(out, sliced("roll", to, a, by, n, 1)));
    b.copy(ViewAs(x, sliced("roll", from, a, n - by, n, 1)),
           ViewAs(out, sliced("roll", to, a, 0, by, 1)));
  }
  if (recording(x)) {
    record("roll", out, {x}, {}, [by, a](Backward& r) { r.set(0, roll(r.grad(), -by, a)); });
  }
  return out;
}

Tensor pad(const Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& pads, double value) {
  if (static_cast<int>(pads.size()) != x.rank()) {
    throw ShapeError(
        fmt::format("pad: {} pairs given for shape {}; one for each of its {} axes is accepted",
                    pads.size(), x.shape().to_string(), x.rank()));
  }
  Shape shape = x.shape();
  for (int i = 0; i < x.rank(); ++i) {
    const auto& [before, after] = pads[static_cast<size_t>(i)];
    if (before < 0 || after < 0) {
      throw ValueError(
          fmt::format("pad: ({}, {}) given for axis {}; amounts of at least 0 are accepted, use "
                      "slice to cut",
                      before, after, i));
    }
    int64_t padded = 0;
    if (__builtin_add_overflow(before, after, &padded) ||
        __builtin_add_overflow(shape[i], padded, &shape[i])) {
      throw ShapeError(
          fmt::format("pad: ({}, {}) given for axis {}; the size overflows", before, after, i));
    }
  }
  Tensor out = filled(shape, value, x.dtype(), x.device());
  backend(x.device()).copy(x, ViewAs(out, cropped(out.layout(), pads)));
  if (recording(x)) {
    record("pad", out, {x}, {}, [pads](Backward& r) { r.set(0, crop(r.grad(), pads)); });
  }
  return out;
}

Tensor concat(std::span<const Tensor> given, int64_t axis) {
  const std::vector<Tensor> parts = promoted("concat", given);
  const Tensor& first = parts[0];
  const int a = axis_of("concat", first, axis);
  Shape shape = first.shape();
  for (size_t k = 1; k < parts.size(); ++k) {
    const Shape& s = parts[k].shape();
    if (s.rank() != shape.rank()) {
      throw ShapeError(
          fmt::format("concat: part {} has shape {} and part 0 {}; the ranks must be equal", k,
                      s.to_string(), first.shape().to_string()));
    }
    for (int i = 0; i < s.rank(); ++i) {
      if (i == a || s[i] == shape[i]) continue;
      throw ShapeError(
          fmt::format("concat: part {} has shape {} and part 0 {}; axis {} must be {}, only axis "
                      "{} may differ",
                      k, s.to_string(), first.shape().to_string(), i, shape[i], a));
    }
    shape[a] += s[a];
  }
  Tensor out = Tensor::empty(shape, first.dtype(), first.device());
  Layout place = out.layout();
  std::vector<int64_t> ends;
  ends.reserve(parts.size());
  for (const Tensor& t : parts) {
    place.shape[a] = t.shape()[a];
    backend(out.device()).copy(t, ViewAs(out, place));
    place.offset += place.shape[a] * place.strides[a];
    ends.push_back((ends.empty() ? 0 : ends.back()) + place.shape[a]);
  }
  if (recording(std::span<const Tensor>(parts))) {
    record("concat", std::span<const Tensor>(&out, 1), std::span<const Tensor>(parts),
           std::span<const Saved>(), [a, ends = std::move(ends)](Backward& r) {
             for (size_t i = 0; i < ends.size(); ++i) {
               const int input = static_cast<int>(i);
               if (r.needs(input))
                 r.set(input, slice(r.grad(), a, i == 0 ? 0 : ends[i - 1], ends[i]));
             }
           });
  }
  return out;
}
Tensor concat(std::initializer_list<Tensor> parts, int64_t axis) {
  return concat(std::span(parts.begin(), parts.size()), axis);
}

Tensor stack(std::span<const Tensor> given, int64_t axis) {
  const std::vector<Tensor> parts = promoted("stack", given);
  const Tensor& first = parts[0];
  const int a = normalize_axis("stack", axis, first.rank() + 1);
  Shape shape = first.shape();
  shape.insert(a, static_cast<int64_t>(parts.size()));
  for (size_t k = 1; k < parts.size(); ++k) {
    if (parts[k].shape() == first.shape()) continue;
    throw ShapeError(fmt::format("stack: part {} has shape {} and part 0 {}; all must be equal", k,
                                 parts[k].shape().to_string(), first.shape().to_string()));
  }
  Tensor out = Tensor::empty(shape, first.dtype(), first.device());
  Layout place = out.layout();
  const int64_t step = place.strides[a];
  place.shape.erase(a);
  place.strides.erase(a);
  for (const Tensor& t : parts) {
    backend(out.device()).copy(t, ViewAs(out, place));
    place.offset += step;
  }
  if (recording(std::span<const Tensor>(parts))) {
    record("stack", std::span<const Tensor>(&out, 1), std::span<const Tensor>(parts),
           std::span<const Saved>(), [a, n = parts.size()](Backward& r) {
             for (size_t i = 0; i < n; ++i) {
               const int input = static_cast<int>(i);
               if (r.needs(input)) r.set(input, select(r.grad(), a, input));
             }
           });
  }
  return out;
}
Tensor stack(std::initializer_list<Tensor> parts, int64_t axis) {
  return stack(std::span(parts.begin(), parts.size()), axis);
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t axis) {
  const int a = axis_of("split", x, axis);
  int64_t left = x.shape()[a];
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0) {
      throw ValueError(
          fmt::format("split: size {} given for part {}; at least 0 is accepted", sizes[i], i));
    }
    left = sizes[i] > left ? -1 : left - sizes[i];
    if (left < 0) break;
  }
  if (left != 0) {
    throw ShapeError(fmt::format(
        "split: sizes [{}] given for axis {} of shape {}; they must add up to {}",
        fmt::join(sizes.begin(), sizes.end(), ", "), a, x.shape().to_string(), x.shape()[a]));
  }
  return views_along("split", x, sizes, a);
}

std::vector<Tensor> chunk(const Tensor& x, int64_t n, int64_t axis) {
  const int a = axis_of("chunk", x, axis);
  if (n < 1) throw ValueError(fmt::format("chunk: n = {} given; at least 1 is accepted", n));
  const int64_t total = x.shape()[a];
  const int64_t size = std::max<int64_t>((total - 1) / n + 1, 1);
  std::vector<int64_t> sizes;
  for (int64_t at = 0; at < total; at += size) sizes.push_back(std::min(size, total - at));
  if (sizes.empty()) sizes.push_back(0);
  return views_along("chunk", x, sizes, a);
}

std::vector<Tensor> unbind(const Tensor& x, int64_t axis) {
  const int a = axis_of("unbind", x, axis);
  const int64_t n = x.shape()[a];
  Layout layout = x.layout();
  const int64_t step = layout.strides[a];
  layout.shape.erase(a);
  layout.strides.erase(a);
  std::vector<Tensor> out;
  out.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    out.push_back(x.with_layout(layout));
    layout.offset += step;
  }
  if (recording(x) && n > 0) {
    record("unbind", std::span<const Tensor>(out), std::span(&x, 1), std::span<const Saved>(),
           [a, n](Backward& r) {
             std::vector<Tensor> parts;
             for (int64_t i = 0; i < n; ++i) parts.push_back(r.grad_or_zeros(static_cast<int>(i)));
             r.set(0, stack(parts, a));
           });
  }
  return out;
}

Tensor repeat(const Tensor& x, const Dims& counts) {
  const int lead = counts.rank() - x.rank();
  if (lead < 0) {
    throw ShapeError(
        fmt::format("repeat: counts {} given for shape {}; at least one an axis is accepted",
                    counts.to_string(), x.shape().to_string()));
  }
  Shape shape = counts;
  // Axes (count, size) side by side let one expanded copy do it all.
  std::vector<int64_t> from;
  std::vector<int64_t> to;
  for (int i = 0; i < counts.rank(); ++i) {
    if (counts[i] < 0) {
      throw ValueError(
          fmt::format("repeat: count {} given for axis {}; at least 0 is accepted", counts[i], i));
    }
    const int64_t n = i < lead ? 1 : x.shape()[i - lead];
    if (__builtin_mul_overflow(counts[i], n, &shape[i])) {
      throw ShapeError(fmt::format("repeat: counts {} given for shape {}; a size overflows",
                                   counts.to_string(), x.shape().to_string()));
    }
    if (counts[i] != 1 && n != 1) {
      from.push_back(1);
      to.push_back(counts[i]);
    }
    from.push_back(n);
    to.push_back(counts[i] == 1 || n != 1 ? n : counts[i]);
  }
  Tensor out;
  if (to.size() <= kMaxRank) {
    out = reshape(expand(reshape(x, Shape(from)), Shape(to)), shape);
  } else {
    Shape leading = x.shape();
    for (int i = 0; i < lead; ++i) leading.insert(0, 1);
    out = reshape(x, leading);
    for (int i = 0; i < counts.rank(); ++i) {
      if (counts[i] == 1) continue;
      const std::vector<Tensor> copies(static_cast<size_t>(counts[i]), out);
      out = copies.empty() ? slice(out, i, 0, 0) : concat(copies, i);
    }
  }
  return &out.storage() == &x.storage() ? clone(out) : out;
}

}  // namespace flowgrad
