#include "flowgrad/kernels/cuda/reduce.cuh"

#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// A folds to A; elements are converted on the way in, results on the way out.
template <class A>
struct Numbers {
  using Value = A;
  template <class T>
  GPU_INLINE A load(T x, int64_t) const {
    return static_cast<A>(x);
  }
  template <class T>
  GPU_INLINE void store(T* out, A value) const {
    *out = static_cast<T>(value);
  }
};

/// Integers wrap around.
template <class A>
struct Sum : Numbers<A> {
  GPU_INLINE A identity() const { return A(0); }
  GPU_INLINE A operator()(A a, A b) const {
    if constexpr (std::is_integral_v<A>) {
      return static_cast<A>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    } else {
      return a + b;
    }
  }
};

template <class A>
struct Product : Numbers<A> {
  GPU_INLINE A identity() const { return A(1); }
  GPU_INLINE A operator()(A a, A b) const {
    if constexpr (std::is_integral_v<A>) {
      return static_cast<A>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    } else {
      return a * b;
    }
  }
};

template <class A>
struct SumSquares : Sum<A> {
  template <class T>
  GPU_INLINE A load(T x, int64_t) const {
    return Product<A>{}(static_cast<A>(x), static_cast<A>(x));
  }
  GPU_INLINE Sum<A> of_partials() const { return {}; }
};

/// NaN wins. `any` and `all` are the extremes of 0 and 1.
template <class A>
struct Extremum : Numbers<A> {
  A start;
  bool maximum;
  GPU_INLINE A identity() const { return start; }
  GPU_INLINE A operator()(A a, A b) const {
    if (a != a) return a;
    return (maximum ? a > b : a < b) ? a : b;
  }
};

template <class A>
Extremum<A> extremum(bool maximum) {
  using Limits = std::numeric_limits<A>;
  Extremum<A> op;
  op.maximum = maximum;
  if constexpr (std::is_integral_v<A>) {
    op.start = maximum ? Limits::min() : Limits::max();
  } else {
    op.start = maximum ? -Limits::infinity() : Limits::infinity();
  }
  return op;
}

}  // namespace

void CudaBackend::reduce(ReduceOp op, View x, View out) {
  require_dtype(name_of(op), "out", out, x.dtype);
  const bool logical = op == ReduceOp::any || op == ReduceOp::all;
  if (logical) require_dtype(name_of(op), "x", x, DType::boolean);
  if (out.numel() == 0) return;
  const auto is_reduced = [&](int d) { return (*out.shape)[d] != (*x.shape)[d]; };
  const Strides* const strides[] = {out.strides, x.strides};
  const Axes kept = ordered_axes(*out.shape, strides, 2, 1, [&](int d) { return !is_reduced(d); });
  const Axes reduced = ordered_axes(*x.shape, strides + 1, 1, 0, is_reduced);
  if (logical) {
    Extremum<int> fold;
    fold.maximum = op == ReduceOp::any;
    fold.start = fold.maximum ? 0 : 1;
    reduce_axes(fold, x.as<const uint8_t>(), kept, reduced, out.as<uint8_t>());
    return;
  }
  visit_numeric(name_of(op), x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    // float32 adds up in double: ten million elements keep their seven digits.
    using A = std::conditional_t<std::is_same_v<T, float>, double, T>;
    const auto run = [&](const auto& fold) {
      reduce_axes(fold, x.as<const T>(), kept, reduced, out.as<T>());
    };
    switch (op) {
      case ReduceOp::sum: run(Sum<A>{}); break;
      case ReduceOp::prod: run(Product<A>{}); break;
      case ReduceOp::sum_squares: run(SumSquares<A>{}); break;
      default: run(extremum<T>(op == ReduceOp::max)); break;
    }
  });
}

}  // namespace flowgrad::kernels
