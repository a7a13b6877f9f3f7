#include <algorithm>
#include <cstdlib>
#include <limits>

#include "flowgrad/kernels/cpu/axis_last.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/integer.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

static_assert(static_cast<int>(ReduceOp::sum) == number::fold_sum &&
              static_cast<int>(ReduceOp::prod) == number::fold_prod &&
              static_cast<int>(ReduceOp::min) == number::fold_min &&
              static_cast<int>(ReduceOp::max) == number::fold_max &&
              static_cast<int>(ReduceOp::sum_squares) == number::fold_squares);

double identity_of(int op) {
  switch (op) {
    case number::fold_sum:
    case number::fold_squares: return 0;
    case number::fold_prod: return 1;
    case number::fold_min: return std::numeric_limits<double>::infinity();
    default: return -std::numeric_limits<double>::infinity();
  }
}
double join(int op, double a, double b) {
  switch (op) {
    case number::fold_sum:
    case number::fold_squares: return a + b;
    case number::fold_prod: return a * b;
    case number::fold_min: return a != a ? a : (a < b ? a : b);
    default: return a != a ? a : (a > b ? a : b);
  }
}

/// Contiguous rows onto contiguous results. The order within a row depends on its length alone.
template <class T>
void reduce_rows(int op, const T* x, int64_t rows, int64_t n, T* out) {
  const ReduceTable<T>& t = reduce_table<T>();
  if (n <= kChunk) {
    return for_row_groups(rows, n, [&](int64_t row, int64_t count) {
      t.fold_rows[op](x + row * n, count, n, n, out + row);
    });
  }
  const int64_t pieces = divide_up(n, kChunk);
  double* const partial = scratch_of<double>(ScratchSlot::partial, rows * pieces);
  for_tasks(rows * pieces, rows * n, [&](int64_t i) {
    const int64_t begin = i % pieces * kChunk;
    partial[i] = t.fold[op](x + i / pieces * n + begin, std::min(kChunk, n - begin));
  });
  for (int64_t r = 0; r < rows; ++r) {
    double value = identity_of(op);
    for (int64_t i = 0; i < pieces; ++i) value = join(op, value, partial[r * pieces + i]);
    out[r] = static_cast<T>(value);
  }
}

/// `batches` matrices of `rows` x `columns` onto `batches` rows: the middle axis goes.
template <class T>
void reduce_columns(int op, const T* x, int64_t batches, int64_t rows, int64_t columns, T* out) {
  constexpr int64_t strip = 256, narrow = 64, few = 16;
  const ReduceTable<T>& t = reduce_table<T>();
  if (batches == 1 && rows <= few && columns <= strip) {
    // The loops below would do the same; their divisions would take longer than the sums.
    double sums[strip];
    t.fold_columns[op](x, rows, columns, columns, sums);
    for (int64_t j = 0; j < columns; ++j) out[j] = static_cast<T>(sums[j]);
    return;
  }
  // A few columns: several rows side by side make one long row, and what is left over is added
  // last.
  const int64_t beside = columns < narrow && rows > few ? std::min(rows, narrow / columns) : 1;
  const int64_t width = columns * beside, height = rows / beside, rest = rows % beside;
  const int64_t depth = std::max<int64_t>(64, 2 * kChunk / std::min(width, strip));
  const int64_t depths = divide_up(height, depth), strips = divide_up(width, strip);
  const int64_t stride = depths * width + columns;
  double* const partial = scratch_of<double>(ScratchSlot::partial, batches * stride);
  for_tasks(batches * depths * strips, batches * rows * columns, [&](int64_t i) {
    const int64_t j = i % strips * strip, d = i / strips % depths, b = i / strips / depths;
    const int64_t row = d * depth, count = std::min(depth, height - row);
    t.fold_columns[op](x + b * rows * columns + row * width + j, count, width,
                       std::min(strip, width - j), partial + b * stride + d * width + j);
  });
  for (int64_t b = 0; b < batches; ++b) {
    const double* p = partial + b * stride;
    double* const tail = partial + b * stride + depths * width;
    if (rest > 0)
      t.fold_columns[op](x + (b * rows + height * beside) * columns, rest, columns, columns, tail);
    for (int64_t j = 0; j < columns; ++j) {
      double value = p[j];
      for (int64_t i = 1; i < depths * beside; ++i) value = join(op, value, p[i * columns + j]);
      if (rest > 0) value = join(op, value, tail[j]);
      out[b * columns + j] = static_cast<T>(value);
    }
  }
}

/// Axes of x, outermost in memory first, neighbours of one kind merged.
struct Pattern {
  struct Axis {
    int64_t size, stride;
    bool reduced;
    int original;
  };
  Axis axis[kMaxRank];
  int rank = 0;

  Pattern(const View& x, const View& out) {
    for (int d = 0; d < x.rank(); ++d) {
      if ((*x.shape)[d] == 1) continue;
      axis[rank++] = {(*x.shape)[d], (*x.strides)[d], (*out.shape)[d] == 1, d};
    }
    int merged = 0;
    for (int i = 0; i < rank; ++i) {
      Axis& last = axis[std::max(merged - 1, 0)];
      if (merged > 0 && last.reduced == axis[i].reduced &&
          last.stride == axis[i].stride * axis[i].size) {
        last = {last.size * axis[i].size, axis[i].stride, last.reduced, last.original};
      } else {
        axis[merged++] = axis[i];
      }
    }
    rank = merged;
  }
  /// The merged axes lie in memory without gaps.
  bool is_dense() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (axis[i].stride != expected) return false;
      expected *= axis[i].size;
    }
    return true;
  }
  bool is(std::initializer_list<bool> kinds) const {
    if (static_cast<int>(kinds.size()) != rank) return false;
    int i = 0;
    for (bool reduced : kinds)
      if (axis[i++].reduced != reduced) return false;
    return true;
  }
};

/// x with the kept axes first and the reduced axes last, in a fresh tensor.
Tensor kept_then_reduced(const View& x, const View& out) {
  Shape shape;
  Strides strides;
  for (const bool reduced : {false, true}) {
    for (int d = 0; d < x.rank(); ++d) {
      if (((*out.shape)[d] == 1) != reduced) continue;
      shape.push_back((*x.shape)[d]);
      strides.push_back((*x.strides)[d]);
    }
  }
  const Tensor copy = Tensor::empty(shape, x.dtype);
  View from = x;
  from.shape = &shape;
  from.strides = &strides;
  fast_cpu_backend().copy(from, copy);
  return copy;
}

/// `fold` is associative: rows by plain loops, other layouts copied into rows.
template <class Fold>
void reduce_integers(Fold fold, int64_t identity, const View& x, const View& out) {
  if (out.numel() == 0) return;
  const int64_t rows = out.numel(), n = x.numel() / rows;
  const Pattern p(x, out);
  const bool are_rows = p.is_dense() && (p.is({false, true}) || p.is({true}));
  const Tensor copied = are_rows ? Tensor() : kept_then_reduced(x, out);
  const int64_t* const from = are_rows ? x.as<const int64_t>() : copied.data<int64_t>();
  for_tasks(rows, x.numel(), [&](int64_t r) {
    const int64_t* const row = from + r * n;
    // Four at a time, which do not wait for each other.
    int64_t some[4] = {identity, identity, identity, identity}, i = 0;
    for (; i + 4 <= n; i += 4)
      for (int k = 0; k < 4; ++k) some[k] = fold(some[k], row[i + k]);
    for (; i < n; ++i) some[0] = fold(some[0], row[i]);
    out.as<int64_t>()[r] = fold(fold(some[0], some[1]), fold(some[2], some[3]));
  });
}

template <class T>
void reduce_floating(int op, const View& x, const View& out) {
  const int64_t kept = out.numel(), total = x.numel();
  if (kept == 0) return;
  T* const to = out.as<T>();
  if (total == 0) {
    std::fill(to, to + kept, static_cast<T>(identity_of(op)));
    return;
  }
  const Pattern p(x, out);
  const T* const from = x.as<T>();
  if (p.is_dense()) {
    if (p.rank == 0) return reduce_rows(op, from, 1, 1, to);
    if (p.is({true})) return reduce_rows(op, from, 1, total, to);
    if (p.is({false})) return reduce_rows(op, from, total, 1, to);
    if (p.is({false, true})) return reduce_rows(op, from, kept, total / kept, to);
    if (p.is({true, false})) return reduce_columns(op, from, 1, total / kept, kept, to);
    if (p.is({false, true, false}))
      return reduce_columns(op, from, p.axis[0].size, p.axis[1].size, p.axis[2].size, to);
  }
  const Tensor rows = kept_then_reduced(x, out);
  reduce_rows(op, rows.data<T>(), kept, total / kept, to);
}

bool any_byte(const uint8_t* p, int64_t n, uint8_t value) {
  return std::memchr(p, value, static_cast<size_t>(n)) != nullptr;
}

}  // namespace

void CpuBackendFast::reduce(ReduceOp op, View x, View out) {
  const bool plain = x.dtype == out.dtype && out.is_contiguous();
  if (plain && op == ReduceOp::any && out.numel() == 1 && x.is_contiguous() &&
      x.dtype == DType::boolean) {
    *out.as<uint8_t>() = any_byte(x.as<uint8_t>(), x.numel(), 1);
  } else if (plain && op == ReduceOp::all && out.numel() == 1 && x.is_contiguous() &&
             x.dtype == DType::boolean) {
    *out.as<uint8_t>() = !any_byte(x.as<uint8_t>(), x.numel(), 0);
  } else if (plain && op <= ReduceOp::sum_squares && x.dtype == DType::float32) {
    reduce_floating<float>(static_cast<int>(op), x, out);
  } else if (plain && op <= ReduceOp::sum_squares && x.dtype == DType::float64) {
    reduce_floating<double>(static_cast<int>(op), x, out);
  } else if (plain && x.dtype == DType::int64 && op == ReduceOp::sum) {
    const auto add = [](int64_t a, int64_t b) {
      return scalar::wrap(scalar::bits(a) + scalar::bits(b));
    };
    reduce_integers(add, 0, x, out);
  } else if (plain && x.dtype == DType::int64 && op == ReduceOp::min) {
    const auto least = [](int64_t a, int64_t b) { return scalar::min(a, b); };
    reduce_integers(least, std::numeric_limits<int64_t>::max(), x, out);
  } else if (plain && x.dtype == DType::int64 && op == ReduceOp::max) {
    const auto most = [](int64_t a, int64_t b) { return scalar::max(a, b); };
    reduce_integers(most, std::numeric_limits<int64_t>::min(), x, out);
  } else {
    ReferenceBackend::reduce(op, x, out);
  }
}

void CpuBackendFast::softmax(bool logarithm, View x, int axis, View out) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    if (!are_rows(axis, x, out)) {
      const Lanes l(x, axis);
      return for_strips(l, [&](int64_t batch, int64_t j, int64_t columns) {
        const int64_t at = batch * l.n * l.columns + j;
        reduce_table<T>().softmax_columns[logarithm ? 1 : 0](x.as<T>() + at, l.n, l.columns,
                                                             columns, out.as<T>() + at);
      });
    }
    const int64_t n = (*x.shape)[axis], rows = n == 0 ? 0 : x.numel() / n;
    const int64_t group = std::max<int64_t>(1, kChunk / 4 / std::max<int64_t>(n, 1));
    for_tasks(divide_up(rows, group), 4 * x.numel(), [&](int64_t i) {
      const int64_t row = i * group;
      reduce_table<T>().softmax[logarithm ? 1 : 0](x.as<T>() + row * n, std::min(group, rows - row),
                                                   n, out.as<T>() + row * n);
    });
  };
  if (x.rank() == 0 || x.dtype != out.dtype ||
      (x.dtype != DType::float32 && x.dtype != DType::float64))
    return ReferenceBackend::softmax(logarithm, x, axis, out);
  if (!are_rows(axis, x, out) && !are_columns(axis, x, out)) {
    const Tensor y = AxisLast(x, axis).copy();
    softmax(logarithm, y, y.rank() - 1, y);
    return copy(y, AxisLast(out, axis).view);
  }
  if (x.dtype == DType::float32)
    run(float{});
  else
    run(double{});
}

void CpuBackendFast::softmax_grad(bool logarithm, View g, View y, int axis, View out) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    if (!are_rows(axis, y, g, out)) {
      const Lanes l(y, axis);
      return for_strips(l, [&](int64_t batch, int64_t j, int64_t columns) {
        const int64_t at = batch * l.n * l.columns + j;
        reduce_table<T>().softmax_columns_grad[logarithm ? 1 : 0](
            g.as<T>() + at, y.as<T>() + at, l.n, l.columns, columns, out.as<T>() + at);
      });
    }
    const int64_t n = (*y.shape)[axis], rows = n == 0 ? 0 : y.numel() / n;
    const int64_t group = std::max<int64_t>(1, kChunk / 4 / std::max<int64_t>(n, 1));
    for_tasks(divide_up(rows, group), 4 * y.numel(), [&](int64_t i) {
      const int64_t at = i * group * n;
      reduce_table<T>().softmax_grad[logarithm ? 1 : 0](
          g.as<T>() + at, y.as<T>() + at, std::min(group, rows - i * group), n, out.as<T>() + at);
    });
  };
  if (y.rank() == 0 || g.dtype != out.dtype || y.dtype != out.dtype ||
      (out.dtype != DType::float32 && out.dtype != DType::float64))
    return ReferenceBackend::softmax_grad(logarithm, g, y, axis, out);
  if (!are_rows(axis, y, g, out) && !are_columns(axis, y, g, out)) {
    const Tensor rows_g = AxisLast(g, axis).copy(), rows_y = AxisLast(y, axis).copy();
    softmax_grad(logarithm, rows_g, rows_y, rows_y.rank() - 1, rows_g);
    return copy(rows_g, AxisLast(out, axis).view);
  }
  if (out.dtype == DType::float32)
    run(float{});
  else
    run(double{});
}

}  // namespace flowgrad::kernels
