#include <algorithm>

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
    const int64_t group = std::max<int64_t>(1, kChunk / n);
    for_tasks(divide_up(rows, group), rows * n, [&](int64_t i) {
      const int64_t begin = i * group;
      kernel(x + begin * n, std::min(group, rows - begin), n, out + begin);
    });
    return;
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

template <class T>
void cumsum(const View& x, int axis, bool reverse, const View& out) {
  const Lanes l(x, axis);
  if (are_rows(axis, x, out)) {
    const int64_t group = std::max<int64_t>(1, kChunk / l.n);
    return for_tasks(divide_up(l.batches, group), l.numel(), [&](int64_t i) {
      const int64_t row = i * group;
      scan_table<T>().cumsum_rows[reverse ? 1 : 0](x.as<const T>() + row * l.n,
                                                   std::min(group, l.batches - row), l.n,
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

}  // namespace

void CpuBackendFast::arg_reduce(bool maximum, View x, int axis, View out) {
  const bool plain = out.dtype == DType::int64 && out.is_contiguous() && x.numel() > 0;
  if (plain && x.rank() > 0 && x.dtype == DType::float32)
    arg_reduce_floating<float>(maximum, x, axis, out);
  else if (plain && x.rank() > 0 && x.dtype == DType::float64)
    arg_reduce_floating<double>(maximum, x, axis, out);
  else
    ReferenceBackend::arg_reduce(maximum, x, axis, out);
}

void CpuBackendFast::scan(ScanOp op, View x, int axis, bool reverse, View out) {
  const bool plain = op == ScanOp::sum && x.rank() > 0 && x.dtype == out.dtype && x.numel() > 0;
  if (plain && x.dtype == DType::float32)
    cumsum<float>(x, axis, reverse, out);
  else if (plain && x.dtype == DType::float64)
    cumsum<double>(x, axis, reverse, out);
  else
    ReferenceBackend::scan(op, x, axis, reverse, out);
}

}  // namespace flowgrad::kernels
