#include "flowgrad/kernels/cuda/scan.cuh"

#include <limits>

#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/extreme.cuh"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

template <class T, class A, int Inputs = 1, int Outputs = 1>
struct ScanOf {
  using In = T;
  using Out = T;
  using Value = A;
  static constexpr int kInputs = Inputs;
  static constexpr int kOutputs = Outputs;
  GPU_INLINE bool is_sound(const A&) const { return true; }
};

/// float32 is scanned in double, integers wrap around.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, T>;

template <class T>
struct SumScan : ScanOf<T, Wide<T>> {
  using A = Wide<T>;
  bool product;
  GPU_INLINE A identity() const { return product ? A(1) : A(0); }
  GPU_INLINE A load(T x, T, int64_t) const { return static_cast<A>(x); }
  GPU_INLINE T value(A v) const { return static_cast<T>(v); }
  GPU_INLINE A operator()(A a, A b) const {
    if constexpr (std::is_integral_v<A>) {
      const auto x = static_cast<uint64_t>(a);
      const auto y = static_cast<uint64_t>(b);
      return static_cast<A>(product ? x * y : x + y);
    } else {
      return product ? a * b : a + b;
    }
  }
};

/// The sum of exponentials relative to the largest element, which is never NaN; a NaN is in sum.
struct LogSumExp {
  double top = 0;
  double sum = 0;
};

template <class T>
struct LogSumExpScan : ScanOf<T, LogSumExp> {
  GPU_INLINE LogSumExp identity() const { return {-std::numeric_limits<double>::infinity(), 0}; }
  GPU_INLINE LogSumExp load(T x, T, int64_t) const {
    if (x != x) return {-std::numeric_limits<double>::infinity(), static_cast<double>(x)};
    return {static_cast<double>(x), 1};
  }
  GPU_INLINE T value(const LogSumExp& v) const { return static_cast<T>(v.top + log(v.sum)); }
  GPU_INLINE LogSumExp operator()(const LogSumExp& a, const LogSumExp& b) const {
    if (a.top == b.top) return {a.top, a.sum + b.sum};  // infinities too, whose difference is NaN
    const bool first = a.top > b.top;
    const double top = first ? a.top : b.top;
    const double scale = exp((first ? b.top : a.top) - top);
    return {top, first ? a.sum + b.sum * scale : a.sum * scale + b.sum};
  }
};

/// The extreme and its latest position.
template <class T>
struct ExtremeScan : ScanOf<T, Extreme<T>, 1, 2> {
  using A = Extreme<T>;
  bool maximum;
  GPU_INLINE A identity() const { return {}; }
  GPU_INLINE A load(T x, T, int64_t i) const { return {x, i}; }
  GPU_INLINE T value(const A& v) const { return v.value; }
  GPU_INLINE int64_t at(const A& v) const { return v.at; }
  GPU_INLINE A operator()(const A& a, const A& b) const {
    if (a.at < 0) return b;
    if (b.at < 0) return a;
    const bool later =
        b.value != b.value || !(beats(maximum, a.value, b.value) || a.value != a.value);
    return later ? b : a;
  }
};

/// The map state -> factor * state + term.
struct LinearMap {
  double factor = 1;
  double term = 0;
};

/// Composing maps is the same as applying them one by one unless something is infinite on the way:
/// a factor beyond all numbers may meet a state of zero. Such rows are marked.
template <class T>
struct LinearScan : ScanOf<T, LinearMap, 2> {
  GPU_INLINE LinearMap identity() const { return {}; }
  GPU_INLINE LinearMap load(T a, T b, int64_t i) const {
    // The first element has no predecessor.
    return {i == 0 ? 0.0 : static_cast<double>(a), static_cast<double>(b)};
  }
  GPU_INLINE T value(const LinearMap& v) const { return static_cast<T>(v.term); }
  GPU_INLINE LinearMap operator()(const LinearMap& a, const LinearMap& b) const {
    return {a.factor * b.factor, b.factor * a.term + b.term};
  }
  GPU_INLINE bool is_sound(const LinearMap& v) const {
    return isfinite(v.factor) && isfinite(v.term);
  }
};

/// Marked rows again, one step after the other.
template <class T>
__global__ void linear_scan_marked(ScanRows rows, ScanPointers<LinearScan<T>> at,
                                   const int* __restrict__ marks) {
  const int64_t row = thread_number();
  if (row >= rows.rows || marks[row] == 0) return;
  at.go_to(rows, row);
  double state = 0;
  for (int64_t i = 0; i < rows.n; ++i) {
    const auto factor = static_cast<double>(at.x[i * rows.step[2]]);
    const auto term = static_cast<double>(at.x2[i * rows.step[3]]);
    state = i == 0 ? term : factor * state + term;
    at.out[i * rows.step[0]] = static_cast<T>(state);
  }
}

/// The rows of the operands along axis; moves to their last elements, and back from there, when
/// reverse.
template <class Op>
ScanRows scan_setup(ScanPointers<Op>& at, const View& out, const View& out2, const View& x,
                    const View& x2, int axis, bool reverse) {
  const View* const views[] = {&out, &out2, &x, &x2};
  const Strides* strides[4];
  ScanRows rows;
  rows.n = size_along(out, axis);
  int64_t start[4] = {};
  for (int k = 0; k < 4; ++k) {
    strides[k] = views[k]->strides;
    rows.step[k] = stride_along(*views[k], axis);
    if (!reverse) continue;
    start[k] = (rows.n - 1) * rows.step[k];
    rows.step[k] = -rows.step[k];
  }
  rows.kept = ordered_axes(*out.shape, strides, 4, 2, [&](int d) { return d != axis; });
  rows.rows = rows.kept.total;
  using T = typename Op::In;
  at.out = out.as<T>() + start[0];
  at.x = x.as<const T>() + start[2];
  if (Op::kOutputs == 2) at.out2 = out2.as<int64_t>() + start[1];
  if (Op::kInputs == 2) at.x2 = x2.as<const T>() + start[3];
  return rows;
}

}  // namespace

void CudaBackend::scan(ScanOp op, View x, int axis, bool reverse, View out) {
  require_dtype(name_of(op), "out", out, x.dtype);
  const auto run = [&](const auto& fold) {
    using Op = std::decay_t<decltype(fold)>;
    if (out.numel() == 0) return;
    ScanPointers<Op> at;
    const ScanRows rows = scan_setup(at, out, out, x, x, axis, reverse);
    scan_rows(fold, rows, at, nullptr);
  };
  if (op == ScanOp::logsumexp) {
    visit_floating(name_of(op), x.dtype,
                   [&](auto tag) { run(LogSumExpScan<typename decltype(tag)::type>{}); });
  } else {
    visit_numeric(name_of(op), x.dtype, [&](auto tag) {
      SumScan<typename decltype(tag)::type> fold;
      fold.product = op == ScanOp::prod;
      run(fold);
    });
  }
}

void CudaBackend::scan_extreme(bool maximum, View x, int axis, View values, View indices) {
  const char* op = maximum ? "cummax" : "cummin";
  require_dtype(op, "values", values, x.dtype);
  require_dtype(op, "indices", indices, DType::int64);
  visit_numeric(op, x.dtype, [&](auto tag) {
    if (values.numel() == 0) return;
    ExtremeScan<typename decltype(tag)::type> fold;
    fold.maximum = maximum;
    ScanPointers<decltype(fold)> at;
    const ScanRows rows = scan_setup(at, values, indices, x, x, axis, false);
    scan_rows(fold, rows, at, nullptr);
  });
}

void CudaBackend::linear_scan(View a, View b, int axis, bool reverse, View out) {
  require_dtype("linear_scan", "b", b, a.dtype);
  require_dtype("linear_scan", "out", out, a.dtype);
  visit_floating("linear_scan", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (out.numel() == 0) return;
    ScanPointers<LinearScan<T>> at;
    const ScanRows rows = scan_setup(at, out, out, a, b, axis, reverse);
    if (rows.n <= kSegment) {  // one step after the other in any case
      scan_rows(LinearScan<T>{}, rows, at, nullptr);
      return;
    }
    const std::size_t bytes = static_cast<std::size_t>(rows.rows) * sizeof(int);
    const Scratch marks(bytes);
    gpu::fill_bytes(marks.as<int>(), 0, bytes, gpu::default_stream());
    scan_rows(LinearScan<T>{}, rows, at, marks.as<int>());
    gpu::launch(linear_scan_marked<T>, dim3(grid_of(rows.rows, kBlock)), dim3(kBlock), 0,
                gpu::default_stream(), rows, at, marks.as<int>());
  });
}

}  // namespace flowgrad::kernels
