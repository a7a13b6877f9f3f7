#include "flowgrad/kernels/cuda/matmul_blas.h"

#include <optional>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/scratch.h"

namespace flowgrad::kernels::cuda {
namespace {

/// A row-major (rows, columns) matrix as a BLAS may read its transpose: with its rows for stored
/// columns, or, transposed, with its columns for them. False where neither stride is 1.
bool store(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
           BlasProduct::Operand* to) {
  if ((columns == 1 || column_stride == 1) && (rows == 1 || row_stride >= columns)) {
    to->transposed = false;
    to->ld = rows == 1 ? columns : row_stride;
    return true;
  }
  if ((rows == 1 || row_stride == 1) && column_stride >= rows) {  // several columns
    to->transposed = true;
    to->ld = column_stride;
    return true;
  }
  return false;
}

/// A view whose matrices a BLAS can read, and the memory of a copy where one was needed.
class Readable {
 public:
  explicit Readable(const View& v) : view_(v) {
    const int row = v.rank() - 2, column = v.rank() - 1;
    if (store((*v.shape)[row], (*v.shape)[column], (*v.strides)[row], (*v.strides)[column],
              &matrix_))
      return;
    // Broadcast entries are copied once.
    shape_ = *v.shape;
    Strides from = *v.strides;
    for (int d = 0; d < row; ++d) {
      if (from[d] == 0) shape_[d] = 1;
    }
    memory_.emplace(static_cast<std::size_t>(numel(shape_)) * size_of(v.dtype));
    strides_ = contiguous_layout(shape_).strides;
    View source = v, copy = v;
    source.shape = copy.shape = &shape_;
    copy.data = memory_->as<void>();
    copy.strides = &strides_;
    cuda_backend().copy(source, copy);
    store(shape_[row], shape_[column], strides_[row], strides_[column], &matrix_);
    for (int d = 0; d < row; ++d) {
      if ((*v.shape)[d] != shape_[d]) strides_[d] = 0;
    }
    view_.data = copy.data;
    view_.strides = &strides_;
  }
  Readable(const Readable&) = delete;
  Readable& operator=(const Readable&) = delete;

  const View& view() const { return view_; }
  BlasProduct::Operand at(int64_t offset, int64_t step) const {
    BlasProduct::Operand o = matrix_;
    o.data = view_.as<const char>() + offset * static_cast<int64_t>(size_of(view_.dtype));
    o.step = step;
    return o;
  }

 private:
  View view_;
  Shape shape_;
  Strides strides_;
  std::optional<Scratch> memory_;
  BlasProduct::Operand matrix_;
};

void products(const std::function<void(const BlasProduct&)>& run, const View& a, const View& b,
              bool accumulate, const View& out) {
  const int row = out.rank() - 2, column = out.rank() - 1;
  const Readable of_a(a), of_b(b);
  BlasProduct p;
  p.m = (*out.shape)[column];
  p.n = (*out.shape)[row];
  p.k = (*a.shape)[column];
  p.keep = accumulate ? 1 : 0;
  p.dtype = out.dtype;
  const Axes axes =
      matmul_batch(*out.shape, *out.strides, *of_a.view().strides, *of_b.view().strides);
  // The innermost axis is a call's own; the others take a call each.
  const int last = axes.rank - 1;
  int64_t steps[3] = {};  // out, a, b
  if (last >= 0) {
    p.batch = axes.size[last];
    for (int i = 0; i < 3; ++i) steps[i] = axes.stride[i][last];
  }
  const BlasProduct::Operand rows = of_a.at(0, 0);
  if (p.batch > 1 && steps[2] == 0 && steps[1] == p.n * rows.ld && !rows.transposed) {
    // One b for all, and the rows of a in one sequence: a single product. Its ld need not be the
    // stride of rows where an entry has only one.
    p.n *= p.batch;
    p.batch = 1;
  }
  p.out_step = steps[0];
  for (int64_t call = 0; call < axes.total / axes.inner(); ++call) {
    int64_t offsets[3] = {}, rest = call;
    for (int d = last - 1; d >= 0; --d) {
      for (int i = 0; i < 3; ++i) offsets[i] += rest % axes.size[d] * axes.stride[i][d];
      rest /= axes.size[d];
    }
    p.left = of_b.at(offsets[2], steps[2]);
    p.right = of_a.at(offsets[1], steps[1]);
    p.out = out.as<char>() + offsets[0] * static_cast<int64_t>(size_of(out.dtype));
    run(p);
  }
}

}  // namespace

void multiply_by_blas(const std::function<void(const BlasProduct&)>& run, View a, View b, View bias,
                      bool accumulate, View out) {
  if (out.numel() == 0) return;
  if ((*a.shape)[a.rank() - 1] > 0) {
    products(run, a, b, accumulate, out);
  } else if (!accumulate) {
    cuda_backend().fill(out, 0);
  }
  if (!bias.defined()) return;
  Strides repeated = Strides::filled(out.rank(), 0);
  repeated[out.rank() - 1] = (*bias.strides)[0];
  View rows = bias;
  rows.shape = out.shape;
  rows.strides = &repeated;
  cuda_backend().binary(BinaryOp::add, out, rows, out);
}

}  // namespace flowgrad::kernels::cuda
