#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {
namespace {

using kernels::backend;

/// The layout with an axis to index along: a scalar is a row of one.
Layout with_axis(const Layout& in) { return in.rank() == 0 ? Layout{{1}, {1}, in.offset} : in; }

/// As with_axis, cut to the sizes of index on every axis but one: what gather and scatter touch.
Layout beside(const Layout& in, int axis, const Shape& index) {
  Layout out = with_axis(in);
  for (int i = 0; i < index.rank(); ++i) {
    if (i != axis) out.shape[i] = index[i];
  }
  return out;
}

/// An axis and indices along it, all in range.
struct Along {
  int axis;
  Tensor index;
};

/// Checks index for gather and scatter: of x's rank, and no larger than x beside axis.
Along check_beside(const char* op, const Tensor& x, int64_t axis, const Tensor& index) {
  const int at = normalize_axis(op, axis, x.rank());
  check_same_device(op, x, index, "x", "index");
  if (index.rank() != x.rank()) {
    throw ShapeError(fmt::format("{}: index has shape {} and x {}; the ranks must be equal", op,
                                 index.shape().to_string(), x.shape().to_string()));
  }
  for (int i = 0; i < x.rank(); ++i) {
    if (i == at || index.shape()[i] <= x.shape()[i]) continue;
    throw ShapeError(fmt::format(
        "{}: index has shape {} and x {}; axis {} of index ({}) must not exceed "
        "that of x ({})",
        op, index.shape().to_string(), x.shape().to_string(), i, index.shape()[i], x.shape()[i]));
  }
  return {at, checked_index(op, index, x.rank() == 0 ? 1 : x.shape()[at])};
}

/// gather with an index that has been checked.
Tensor gathered(const Tensor& x, int axis, const Tensor& index) {
  Tensor out = Tensor::empty(index.shape(), x.dtype(), x.device());
  backend(x.device())
      .gather(ViewAs(x, beside(x.layout(), axis, index.shape())), axis,
              ViewAs(index, with_axis(index.layout())), ViewAs(out, with_axis(out.layout())));
  if (recording(x)) {
    record("gather", out, {x}, {save(index)}, [axis, shape = x.shape()](Backward& r) {
      r.set(0, scatter_zeros(r.grad(), axis, r.saved(0), shape));
    });
  }
  return out;
}

void check_source(const char* op, const Tensor& x, const Tensor& index, const Tensor& source) {
  check_like(op, "source", source, x);
  if (source.shape() == index.shape()) return;
  throw ShapeError(fmt::format("{}: source has shape {} and index {}; they must be equal", op,
                               source.shape().to_string(), index.shape().to_string()));
}

/// A copy of x to write into.
Tensor copy_of(const Tensor& x) {
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend(x.device()).copy(x, out);
  return out;
}

void scatter_add_into(const Tensor& out, int axis, const Tensor& index, const Tensor& source) {
  backend(out.device())
      .scatter_add(ViewAs(index, with_axis(index.layout())), axis,
                   ViewAs(source, with_axis(source.layout())),
                   ViewAs(out, beside(out.layout(), axis, index.shape())));
}

Along check_rows(const char* op, const Tensor& x, int64_t axis, const Tensor& index) {
  if (x.rank() == 0) throw ShapeError(fmt::format("{}: x has rank 0; at least 1 is accepted", op));
  if (index.rank() != 1) {
    throw ShapeError(
        fmt::format("{}: index has shape {}; rank 1 is accepted", op, index.shape().to_string()));
  }
  const int at = normalize_axis(op, axis, x.rank());
  check_same_device(op, x, index, "x", "index");
  return {at, checked_index(op, index, x.shape()[at])};
}

Tensor add_rows(const Tensor& source, int axis, const Tensor& index, const Shape& shape);

/// index_select with an index that has been checked.
Tensor rows(const Tensor& x, int axis, const Tensor& index) {
  Shape shape = x.shape();
  shape[axis] = index.numel();
  Tensor out = Tensor::empty(shape, x.dtype(), x.device());
  backend(x.device()).index_select(x, axis, index, out);
  if (recording(x)) {
    record("index_select", out, {x}, {save(index)}, [axis, shape = x.shape()](Backward& r) {
      r.set(0, add_rows(r.grad(), axis, r.saved(0), shape));
    });
  }
  return out;
}

/// Zeros of `shape` with source's sub-tensors added at the indices of axis: the reverse of `rows`.
Tensor add_rows(const Tensor& source, int axis, const Tensor& index, const Shape& shape) {
  Tensor out = filled(shape, 0, source.dtype(), source.device());
  backend(source.device()).index_add(index, axis, source, out);
  if (recording(source)) {
    record("add_rows", out, {source}, {save(index)},
           [axis](Backward& r) { r.set(0, rows(r.grad(), axis, r.saved(0))); });
  }
  return out;
}

}  // namespace

Tensor scatter_zeros(const Tensor& source, int axis, const Tensor& index, const Shape& shape) {
  Tensor out = filled(shape, 0, source.dtype(), source.device());
  scatter_add_into(out, axis, index, source);
  if (recording(source)) {
    record("scatter_zeros", out, {source}, {save(index)},
           [axis](Backward& r) { r.set(0, gathered(r.grad(), axis, r.saved(0))); });
  }
  return out;
}

Tensor gather(const Tensor& x, int64_t axis, const Tensor& index) {
  const Along along = check_beside("gather", x, axis, index);
  return gathered(x, along.axis, along.index);
}

Tensor scatter_add(const Tensor& x, int64_t axis, const Tensor& given, const Tensor& source) {
  check_numeric("scatter_add", x);
  const auto [at, index] = check_beside("scatter_add", x, axis, given);
  check_source("scatter_add", x, index, source);
  Tensor out = copy_of(x);
  scatter_add_into(out, at, index, source);
  if (recording(x, source)) {
    record("scatter_add", out, {x, source}, {save(index, source.requires_grad())},
           [at = at](Backward& r) {
             if (r.needs(0)) r.set(0, r.grad());
             if (r.needs(1)) r.set(1, gathered(r.grad(), at, r.saved(0)));
           });
  }
  return out;
}

Tensor scatter_max(const Tensor& x, int64_t axis, const Tensor& given, const Tensor& source) {
  check_numeric("scatter_max", x);
  const auto [at, index] = check_beside("scatter_max", x, axis, given);
  check_source("scatter_max", x, index, source);
  Tensor out = copy_of(x);
  backend(x.device())
      .scatter_max(ViewAs(index, with_axis(index.layout())), at,
                   ViewAs(source, with_axis(source.layout())),
                   ViewAs(out, beside(out.layout(), at, index.shape())));
  if (recording(x, source)) {
    record("scatter_max", out, {x, source}, {save(x), save(index), save(source), save_output(out)},
           [at = at](Backward& r) {
             const Tensor x = r.saved(0).detach();
             const Tensor index = r.saved(1);
             const Tensor source = r.saved(2).detach();
             const Tensor y = r.saved(3).detach();
             const Tensor from_x = is_extreme(x, y);
             const Tensor from_source = is_extreme(source, gathered(y, at, index));
             const Tensor ties = scatter_zeros(cast(from_source, x.dtype()), at, index, x.shape());
             const Tensor share = r.grad() / (ties + cast(from_x, x.dtype()));
             const Tensor zero = filled({}, 0, x.dtype(), x.device());
             if (r.needs(0)) r.set(0, where(from_x, share, zero));
             if (r.needs(1)) r.set(1, where(from_source, gathered(share, at, index), zero));
           });
  }
  return out;
}

Tensor index_select(const Tensor& x, int64_t axis, const Tensor& index) {
  const Along along = check_rows("index_select", x, axis, index);
  return rows(x, along.axis, along.index);
}

Tensor index_add(const Tensor& x, int64_t axis, const Tensor& given, const Tensor& source) {
  check_numeric("index_add", x);
  const auto [at, index] = check_rows("index_add", x, axis, given);
  check_like("index_add", "source", source, x);
  Shape wanted = x.shape();
  wanted[at] = index.numel();
  if (!(source.shape() == wanted)) {
    throw ShapeError(fmt::format(
        "index_add: source has shape {}; x {} with {} indices on axis {} accepts {}",
        source.shape().to_string(), x.shape().to_string(), index.numel(), at, wanted.to_string()));
  }
  Tensor out = copy_of(x);
  backend(x.device()).index_add(index, at, source, out);
  if (recording(x, source)) {
    record("index_add", out, {x, source}, {save(index, source.requires_grad())},
           [at = at](Backward& r) {
             if (r.needs(0)) r.set(0, r.grad());
             if (r.needs(1)) r.set(1, rows(r.grad(), at, r.saved(0)));
           });
  }
  return out;
}

Tensor embedding(const Tensor& weight, const Tensor& given, std::optional<int64_t> padding_index) {
  if (weight.rank() != 2) {
    throw ShapeError(
        fmt::format("embedding: weight has shape {}; rank 2 (entries, features) is accepted",
                    weight.shape().to_string()));
  }
  const int64_t entries = weight.shape()[0];
  check_same_device("embedding", weight, given, "weight", "index");
  const Tensor index = checked_index("embedding", given, entries);
  if (padding_index && (*padding_index < 0 || *padding_index >= entries)) {
    throw ValueError(fmt::format("embedding: padding_index {} given; 0 to {} are accepted",
                                 *padding_index, entries - 1));
  }
  Shape shape = index.shape();
  shape.push_back(weight.shape()[1]);
  Tensor flat;
  {
    NoGrad off;
    flat = reshape(index, {index.numel()});
  }
  Tensor out = Tensor::empty(shape, weight.dtype(), weight.device());
  const Shape table{index.numel(), weight.shape()[1]};
  backend(weight.device()).index_select(weight, 0, flat, ViewAs(out, contiguous_layout(table)));
  if (recording(weight)) {
    record("embedding", out, {weight}, {save(flat)},
           [table, padding_index, from = weight.shape()](Backward& r) {
             const Tensor index = r.saved(0);
             Tensor g = reshape(r.grad(), table);
             if (padding_index) {
               const Tensor padding =
                   filled({1, 1}, static_cast<double>(*padding_index), DType::int64, g.device());
               g = where(equal(reshape(index, {table[0], 1}), padding),
                         filled({}, 0, g.dtype(), g.device()), g);
             }
             r.set(0, add_rows(g, 0, index, from));
           });
  }
  return out;
}

Tensor one_hot(const Tensor& given, int64_t classes, DType dtype) {
  if (classes < 1)
    throw ValueError(fmt::format("one_hot: classes = {} given; at least 1 is accepted", classes));
  const Tensor index = checked_index("one_hot", given, classes);
  Shape shape = index.shape();
  const int axis = shape.rank();
  shape.push_back(1);
  const Tensor at = reshape(index, shape);
  shape[axis] = classes;
  Tensor out = filled(shape, 0, DType::int64, index.device());
  const Tensor one = filled({}, 1, DType::int64, index.device());
  scatter_add_into(out, axis, at, expand(one, at.shape()));
  return cast(out, dtype);
}

}  // namespace flowgrad
