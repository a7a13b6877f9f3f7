#include <algorithm>
#include <optional>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/gemm.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

template <class T>
void multiply(const View& a, const View& b, const View& bias, bool accumulate, const View& out,
              UnaryKernel<T> f) {
  const int row = out.rank() - 2, column = out.rank() - 1;
  Gemm<T> g;
  g.m = (*out.shape)[row];
  g.n = (*out.shape)[column];
  g.k = (*a.shape)[column];
  g.a = a.as<T>();
  g.a_row = (*a.strides)[row];
  g.a_col = (*a.strides)[column];
  g.b = b.as<T>();
  g.b_row = (*b.strides)[row];
  g.b_col = (*b.strides)[column];
  g.c = out.as<T>();
  g.ldc = g.n;
  g.accumulate = accumulate;
  g.f = f;
  if (bias.defined()) {
    g.bias = bias.as<T>();
    if ((*bias.strides)[0] != 1 && g.n > 1) {
      T* const row_of_bias = scratch_of<T>(ScratchSlot::partial, g.n);
      copy_run(g.bias, (*bias.strides)[0], row_of_bias, 1, g.n, sizeof(T));
      g.bias = row_of_bias;
    }
  }
  if (out.rank() == 2) return gemm(g);
  const Axes batch = matmul_batch(*out.shape, *out.strides, *a.strides, *b.strides);
  if (batch.total == 0) return;
  if (batch.total == 1) return gemm(g);
  if (batch.rank == 1 && batch.stride[2][0] == 0 && batch.stride[1][0] == g.m * g.a_row) {
    // One b for all and the rows of a in one sequence: a single product.
    g.m *= batch.total;
    return gemm(g);
  }
  // Items of the innermost axis are equally far apart.
  const auto range = [&](int64_t begin, int64_t end) {
    const int64_t inner = batch.inner();
    const int64_t step[] = {batch.stride[0][batch.rank - 1], batch.stride[1][batch.rank - 1],
                            batch.stride[2][batch.rank - 1]};
    RowCursor cursor(batch, begin / inner);
    while (begin < end) {
      const int64_t at = begin % inner, count = std::min(inner - at, end - begin);
      Gemm<T> first = g;
      first.c += cursor.offset(0) + at * step[0];
      first.a += cursor.offset(1) + at * step[1];
      first.b += cursor.offset(2) + at * step[2];
      gemm_batch(first, count, step[1], step[2], step[0]);
      begin += count;
      cursor.advance();
    }
  };
  // Many small products: whole ones go to the threads. Few large ones: each is split.
  const int64_t work = std::max<int64_t>(1, g.m * g.n * g.k);
  const bool small = work < (int64_t{1} << 22) && batch.total >= 2 * num_threads();
  if (!small || work * batch.total < kParallelWork) return range(0, batch.total);
  const int64_t chunk = std::max<int64_t>(1, (int64_t{1} << 17) / work);
  parallel_for((batch.total + chunk - 1) / chunk,
               [&](int64_t i) { range(i * chunk, std::min(batch.total, (i + 1) * chunk)); });
}

/// Whether multiply takes these, and has: with f from the table of elementwise kernels, or none.
bool multiplied(const View& a, const View& b, const View& bias, bool accumulate, const View& out,
                std::optional<UnaryOp> op) {
  const bool same = a.dtype == b.dtype && a.dtype == out.dtype &&
                    (!bias.defined() || bias.dtype == out.dtype) && out.is_contiguous();
  return same && with_floating(out.dtype, [&](auto zero) {
           using T = decltype(zero);
           multiply<T>(a, b, bias, accumulate, out, unary_kernel<T>(op));
         });
}

}  // namespace

void CpuBackendFast::matmul(View a, View b, View bias, bool accumulate, View out) {
  if (!multiplied(a, b, bias, accumulate, out, {}))
    ReferenceBackend::matmul(a, b, bias, accumulate, out);
}

void CpuBackendFast::matmul_unary(UnaryOp op, View a, View b, View bias, View out) {
  if (!multiplied(a, b, bias, false, out, op)) Backend::matmul_unary(op, a, b, bias, out);
}

}  // namespace flowgrad::kernels
