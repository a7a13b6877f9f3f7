#include "flowgrad/core/layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace flowgrad {

int repeated_axis(const Layout& l) {
  for (int i = 0; i < l.rank(); ++i) {
    if (l.shape[i] > 1 && l.strides[i] == 0) return i;
  }
  return -1;
}

Extent extent_of(const Layout& l) {
  if (numel(l.shape) == 0) return {0, 0};
  int64_t low = l.offset;
  int64_t high = l.offset;
  for (int i = 0; i < l.rank(); ++i) {
    int64_t span = 0;
    int64_t& side = l.strides[i] < 0 ? low : high;
    if (__builtin_mul_overflow(l.shape[i] - 1, l.strides[i], &span) ||
        __builtin_add_overflow(side, span, &side)) {
      throw ShapeError("layout: shape " + l.shape.to_string() + " with strides " +
                       l.strides.to_string() + " reaches beyond 2^63 elements");
    }
  }
  return {low, high + 1};
}

Layout permuted(const char* op, const Layout& in, const Dims& axes) {
  if (axes.rank() != in.rank()) {
    throw ShapeError(
        fmt::format("{}: {} axes {} given for a tensor of shape {}; one for each of its {} axes "
                    "is accepted",
                    op, axes.rank(), axes.to_string(), in.shape.to_string(), in.rank()));
  }
  Layout out{in.shape, in.strides, in.offset};
  unsigned seen = 0;
  for (int i = 0; i < axes.rank(); ++i) {
    const int a = normalize_axis(op, axes[i], in.rank());
    if (seen >> a & 1u) {
      throw ShapeError(fmt::format("{}: axis {} is named twice in {}", op, a, axes.to_string()));
    }
    seen |= 1u << a;
    out.shape[i] = in.shape[a];
    out.strides[i] = in.strides[a];
  }
  return out;
}

Layout transposed(const char* op, const Layout& in, int64_t axis0, int64_t axis1) {
  const int a = normalize_axis(op, axis0, in.rank());
  const int b = normalize_axis(op, axis1, in.rank());
  Layout out = in;
  if (in.rank() == 0) return out;
  std::swap(out.shape[a], out.shape[b]);
  std::swap(out.strides[a], out.strides[b]);
  return out;
}

Layout expanded(const char* op, const Layout& in, const Shape& shape) {
  Layout out{shape, Dims::filled(shape.rank(), 0), in.offset};
  const int lead = shape.rank() - in.rank();
  for (int i = 0; i < shape.rank() && lead >= 0; ++i) {
    if (i < lead) {
      if (shape[i] < 0) {
        throw ShapeError(fmt::format("{}: size {} given for the new axis {}; it must be at least 0",
                                     op, shape[i], i));
      }
      continue;
    }
    const int64_t have = in.shape[i - lead];
    if (out.shape[i] == -1) out.shape[i] = have;
    if (have == out.shape[i]) {
      out.strides[i] = in.strides[i - lead];
    } else if (have != 1 || out.shape[i] < 0) {
      throw ShapeError(
          fmt::format("{}: shape {} does not expand to {}: axis {} ({}) must be 1 or {}", op,
                      in.shape.to_string(), shape.to_string(), i - lead, have, shape[i]));
    }
  }
  if (lead < 0) {
    throw ShapeError(fmt::format("{}: shape {} does not expand to {}: the target has fewer axes",
                                 op, in.shape.to_string(), shape.to_string()));
  }
  return out;
}

Layout sliced(const char* op, const Layout& in, int64_t axis, int64_t start, int64_t stop,
              int64_t step) {
  if (in.rank() == 0) throw ShapeError(fmt::format("{}: a tensor of rank 0 cannot be sliced", op));
  const int a = normalize_axis(op, axis, in.rank());
  if (step < 1) throw ShapeError(fmt::format("{}: step {} given; it must be at least 1", op, step));
  const int64_t n = in.shape[a];
  const auto clip = [n](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + n : i, 0, n); };
  start = clip(start);
  stop = std::max(clip(stop), start);
  Layout out = in;
  const int64_t span = stop - start;
  out.shape[a] = span == 0 ? 0 : (span - 1) / step + 1;
  out.offset += start * in.strides[a];
  out.strides[a] = out.shape[a] > 1 ? in.strides[a] * step : in.strides[a];
  return out;
}

Layout unsqueezed(const char* op, const Layout& in, int64_t axis) {
  const int a = normalize_axis(op, axis, in.rank() + 1);
  Layout out = in;
  out.shape.insert(a, 1);
  out.strides.insert(a, a < in.rank() ? in.shape[a] * in.strides[a] : 1);
  return out;
}

Layout squeezed(const char* op, const Layout& in, int64_t axis) {
  const int a = normalize_axis(op, axis, in.rank());
  Layout out = in;
  if (in.rank() == 0) return out;
  if (in.shape[a] != 1) {
    throw ShapeError(fmt::format("{}: axis {} of shape {} has size {}; only size 1 can be squeezed",
                                 op, a, in.shape.to_string(), in.shape[a]));
  }
  out.shape.erase(a);
  out.strides.erase(a);
  return out;
}

std::optional<Layout> viewed(const Layout& in, const Shape& shape) {
  if (in.is_contiguous()) {
    Layout out = contiguous_layout(shape);
    out.offset = in.offset;
    return out;
  }
  // Match runs of old axes that are contiguous among themselves with runs of new axes.
  Layout out{shape, Dims::filled(shape.rank(), 0), in.offset};
  int n = shape.rank() - 1;
  int64_t run = 1;  // elements of the current run of old axes
  int64_t base = in.rank() > 0 ? in.strides.back() : 1;
  int64_t taken = 1;  // elements of that run that new axes have claimed
  for (int o = in.rank() - 1; o >= 0; --o) {
    run *= in.shape[o];
    const bool last = o == 0;
    if (last || (in.shape[o - 1] != 1 && in.strides[o - 1] != run * base)) {
      while (n >= 0 && (taken < run || shape[n] == 1)) {
        out.strides[n] = taken * base;
        taken *= shape[n];
        --n;
      }
      if (taken != run) return std::nullopt;
      if (!last) {
        base = in.strides[o - 1];
        run = 1;
        taken = 1;
      }
    }
  }
  return n == -1 ? std::optional(out) : std::nullopt;
}

Shape resolve_reshape(const char* op, const Shape& from, const Shape& to) {
  Shape out = to;
  int unknown = -1;
  Shape known = to;
  for (int i = 0; i < to.rank(); ++i) {
    if (to[i] == -1 && unknown < 0) {
      unknown = i;
      known[i] = 1;
    } else if (to[i] < 0) {
      throw ShapeError(
          fmt::format("{}: shape {} given; sizes must be at least 0, and at most one may be -1", op,
                      to.to_string()));
    }
  }
  const int64_t have = numel(from);
  const int64_t rest = numel(known);
  if (unknown >= 0) {
    if (rest == 0 || have % rest != 0) {
      throw ShapeError(
          fmt::format("{}: shape {} ({} elements) cannot become {}: the -1 has no single value", op,
                      from.to_string(), have, to.to_string()));
    }
    out[unknown] = have / rest;
  } else if (rest != have) {
    throw ShapeError(fmt::format("{}: shape {} has {} elements and {} has {}; they must be equal",
                                 op, from.to_string(), have, to.to_string(), rest));
  }
  return out;
}

}  // namespace flowgrad
