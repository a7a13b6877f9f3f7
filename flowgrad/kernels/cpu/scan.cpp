#include <algorithm>
#include <functional>
#include <type_traits>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/axis_last.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/functions.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

template <class T>
void arg_of_rows(bool maximum, const T* x, int64_t rows, int64_t n, int64_t* out) {
  const auto kernel = scan_table<T>().arg_rows[maximum ? 1 : 0];
  if (n <= kChunk) {
    return for_row_groups(
        rows, n, [&](int64_t row, int64_t count) { kernel(x + row * n, count, n, out + row); });
  }
  const int64_t pieces = divide_up(n, kChunk);
  int64_t* const partial = scratch_of<int64_t>(ScratchSlot::partial, rows * pieces);
  for_tasks(rows * pieces, rows * n, [&](int64_t i) {
    const int64_t begin = i % pieces * kChunk;
    kernel(x + i / pieces * n + begin, 1, std::min(kChunk, n - begin), partial + i);
    partial[i] += begin;
  });
  for (int64_t r = 0; r < rows; ++r, x += n) {
    int64_t best = partial[r * pieces];
    for (int64_t i = 1; i < pieces; ++i) {
      const int64_t at = partial[r * pieces + i];
      if (scalar::beats(maximum, x[at], x[best])) best = at;
    }
    out[r] = best;
  }
}

template <class T>
void arg_reduce_floating(bool maximum, const View& x, int axis, const View& out) {
  const Lanes l(x, axis);
  int64_t* const to = out.as<int64_t>();
  if (are_rows(axis, x)) return arg_of_rows(maximum, x.as<const T>(), l.batches, l.n, to);
  if (!are_columns(axis, x)) {
    const Tensor rows = AxisLast(x, axis).copy();
    return arg_of_rows(maximum, rows.data<T>(), l.batches * l.columns, l.n, to);
  }
  for_strips(l, [&](int64_t batch, int64_t j, int64_t columns) {
    scan_table<T>().arg_columns[maximum ? 1 : 0](x.as<const T>() + batch * l.n * l.columns + j, l.n,
                                                 l.columns, columns, to + batch * l.columns + j);
  });
}

void arg_of_integers(bool maximum, const View& x, const View& out) {
  const Lanes l(x, x.rank() - 1);
  for_row_groups(l.batches, l.n, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      const int64_t* const row = x.as<const int64_t>() + r * l.n;
      int64_t best = row[0], where = 0;
      for (int64_t i = 1; i < l.n; ++i) {
        if (!scalar::beats(maximum, row[i], best)) continue;
        best = row[i];
        where = i;
      }
      out.as<int64_t>()[r] = where;
    }
  });
}

template <class T>
void cumsum(const View& x, int axis, bool reverse, const View& out) {
  const Lanes l(x, axis);
  if (are_rows(axis, x, out)) {
    return for_row_groups(l.batches, l.n, [&](int64_t row, int64_t count) {
      scan_table<T>().cumsum_rows[reverse ? 1 : 0](x.as<const T>() + row * l.n, count, l.n,
                                                   out.as<T>() + row * l.n);
    });
  }
  if (!are_columns(axis, x, out)) {
    const Tensor rows = AxisLast(x, axis).copy();
    cumsum<T>(rows, rows.rank() - 1, reverse, rows);
    return fast_cpu_backend().copy(rows, AxisLast(out, axis).view);
  }
  for_strips(l, [&](int64_t batch, int64_t j, int64_t columns) {
    const int64_t at = batch * l.n * l.columns + j;
    scan_table<T>().cumsum_columns[reverse ? 1 : 0](x.as<const T>() + at, l.n, l.columns, columns,
                                                    out.as<T>() + at);
  });
}

/// Rows with running values of type A by join(running, element), four at a time, which do not wait
/// for each other.
template <class T, class A, class Join>
void scan_rows(const View& x, bool reverse, const View& out, A first, Join join) {
  constexpr int64_t side = 4;
  const Lanes l(x, x.rank() - 1);
  const auto run = [&](int64_t row, auto count) {
    const T* const from = x.as<const T>() + row * l.n;
    T* const to = out.as<T>() + row * l.n;
    A running[count];
    std::fill_n(running, count, first);
    for (int64_t k = 0; k < l.n; ++k) {
      const int64_t i = reverse ? l.n - 1 - k : k;
      for (int r = 0; r < count; ++r) {
        running[r] = join(running[r], static_cast<A>(from[r * l.n + i]));
        to[r * l.n + i] = static_cast<T>(running[r]);
      }
    }
  };
  for_tasks(divide_up(l.batches, side), l.numel(), [&](int64_t i) {
    const int64_t begin = i * side, end = std::min(l.batches, begin + side);
    if (end - begin == side) return run(begin, std::integral_constant<int, side>{});
    for (int64_t row = begin; row < end; ++row) run(row, std::integral_constant<int, 1>{});
  });
}

/// Whether a running extreme gives way to the next value: to the latest of equals, and to the
/// latest NaN, which no number follows.
template <class T>
bool gives_way(bool maximum, T best, T value) {
  return (maximum ? value >= best : value <= best) | (value != value);
}

template <class T>
void extremes_of_rows(bool maximum, const View& x, const View& values, const View& indices) {
  const Lanes l(x, x.rank() - 1);
  for_row_groups(l.batches, l.n, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      const T* const row = x.as<const T>() + r * l.n;
      T* const to = values.as<T>() + r * l.n;
      int64_t* const at = indices.as<int64_t>() + r * l.n;
      T best = row[0];
      int64_t where = 0;
      for (int64_t i = 0; i < l.n; ++i) {
        const bool next = gives_way(maximum, best, row[i]);
        to[i] = best = next ? row[i] : best;
        at[i] = where = next ? i : where;
      }
    }
  });
}

template <class T>
void extremes_of_columns(bool maximum, const View& x, int axis, const View& values,
                         const View& indices) {
  const Lanes l(x, axis);
  for_strips(l, [&](int64_t batch, int64_t column, int64_t columns) {
    const int64_t begin = batch * l.n * l.columns + column;
    const T* from = x.as<const T>() + begin;
    T* to = values.as<T>() + begin;
    int64_t* at = indices.as<int64_t>() + begin;
    std::copy_n(from, columns, to);
    std::fill_n(at, columns, int64_t{0});
    for (int64_t i = 1; i < l.n; ++i) {
      const T* const best = to;
      const int64_t* const where = at;
      from += l.columns, to += l.columns, at += l.columns;
      for (int64_t j = 0; j < columns; ++j) {
        const bool next = gives_way(maximum, best[j], from[j]);
        to[j] = next ? from[j] : best[j];
        at[j] = next ? i : where[j];
      }
    }
  });
}

}  // namespace

void CpuBackendFast::arg_reduce(bool maximum, View x, int axis, View out) {
  const bool plain = out.dtype == DType::int64 && out.is_contiguous() && x.numel() > 0;
  if (plain && x.rank() > 0 && x.dtype == DType::float32)
    arg_reduce_floating<float>(maximum, x, axis, out);
  else if (plain && x.rank() > 0 && x.dtype == DType::float64)
    arg_reduce_floating<double>(maximum, x, axis, out);
  else if (plain && x.rank() > 0 && x.dtype == DType::int64)
    arg_of_integers(maximum, are_rows(axis, x) ? x : View(AxisLast(x, axis).copy()), out);
  else
    ReferenceBackend::arg_reduce(maximum, x, axis, out);
}

void CpuBackendFast::scan(ScanOp op, View x, int axis, bool reverse, View out) {
  if (op == ScanOp::logsumexp || x.rank() == 0 || x.dtype != out.dtype || x.numel() == 0)
    return ReferenceBackend::scan(op, x, axis, reverse, out);
  const bool sum = op == ScanOp::sum;
  if (sum && x.dtype == DType::float32) return cumsum<float>(x, axis, reverse, out);
  if (sum && x.dtype == DType::float64) return cumsum<double>(x, axis, reverse, out);
  if (!are_rows(axis, x, out)) {
    const Tensor rows = AxisLast(x, axis).copy();
    scan(op, rows, rows.rank() - 1, reverse, rows);
    return copy(rows, AxisLast(out, axis).view);
  }
  const auto times = [](double a, double b) { return a * b; };
  if (x.dtype == DType::float32) return scan_rows<float>(x, reverse, out, 1., times);
  if (x.dtype == DType::float64) return scan_rows<double>(x, reverse, out, 1., times);
  if (x.dtype != DType::int64) return ReferenceBackend::scan(op, x, axis, reverse, out);
  if (sum) return scan_rows<int64_t>(x, reverse, out, uint64_t{0}, std::plus<uint64_t>());
  scan_rows<int64_t>(x, reverse, out, uint64_t{1}, std::multiplies<uint64_t>());
}

void CpuBackendFast::scan_extreme(bool maximum, View x, int axis, View values, View indices) {
  const char* op = maximum ? "cummax" : "cummin";
  require_dtype(op, "values", values, x.dtype);
  require_dtype(op, "indices", indices, DType::int64);
  if (x.rank() == 0 || x.numel() == 0)
    return ReferenceBackend::scan_extreme(maximum, x, axis, values, indices);
  if (are_columns(axis, x, values, indices)) {
    return visit_numeric(op, x.dtype, [&](auto tag) {
      extremes_of_columns<typename decltype(tag)::type>(maximum, x, axis, values, indices);
    });
  }
  if (!are_rows(axis, x, values, indices)) {
    return through_rows(x, axis, values, indices, [&](View rows, View found, View places) {
      scan_extreme(maximum, rows, rows.rank() - 1, found, places);
    });
  }
  visit_numeric(op, x.dtype, [&](auto tag) {
    extremes_of_rows<typename decltype(tag)::type>(maximum, x, values, indices);
  });
}

}  // namespace flowgrad::kernels
