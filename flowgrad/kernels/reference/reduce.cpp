#include <algorithm>
#include <cmath>

#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/names.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

using namespace reference;

namespace {

template <class T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  } else {
    return a + b;
  }
}

template <class T>
T wrapping_mul(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  } else {
    return a * b;
  }
}

/// fold(accumulated, element) over the reduced axes for every element of out.
template <class T, class A, class F>
void fold_into(const View& x, const View& out, A identity, F&& fold) {
  Shape reduced = *x.shape;
  for (int i = 0; i < x.rank(); ++i) {
    if ((*out.shape)[i] == reduced[i]) reduced[i] = 1;
  }
  for_each(
      *out.shape,
      [&](int64_t start, int64_t o) {
        A value = identity;
        const T* in = x.as<T>() + start;
        for_each(
            reduced, [&](int64_t i) { value = fold(value, static_cast<A>(in[i])); }, *x.strides);
        out.as<T>()[o] = static_cast<T>(value);
      },
      *x.strides, *out.strides);
}

template <class T>
constexpr T lowest() {
  return std::is_integral_v<T> ? std::numeric_limits<T>::min()
                               : -std::numeric_limits<T>::infinity();
}
template <class T>
constexpr T highest() {
  return std::is_integral_v<T> ? std::numeric_limits<T>::max() : std::numeric_limits<T>::infinity();
}

/// log(sum(exp)) of what has been added so far: `top` is the largest, `sum` is relative to it.
struct RunningLogSumExp {
  double top = -std::numeric_limits<double>::infinity();
  double sum = 0;

  void add(double x) {
    if (x == top) {  // covers equal infinities, whose difference is NaN
      sum += 1;
    } else if (x > top) {
      sum = sum * std::exp(top - x) + 1;
      top = x;
    } else {
      sum += std::exp(x - top);
    }
  }
  double value() const { return top + std::log(sum); }
};

/// Positions along an axis in the order of a scan: from the end when reverse.
struct Line {
  int64_t size;
  bool reverse = false;
  int64_t place(int64_t i) const { return reverse ? size - 1 - i : i; }
};

}  // namespace

void ReferenceBackend::reduce(ReduceOp op, View x, View out) {
  require_dtype(name_of(op), "out", out, x.dtype);
  if (op == ReduceOp::any || op == ReduceOp::all) {
    require_dtype(name_of(op), "x", x, DType::boolean);
    if (op == ReduceOp::any) {
      fold_into<bool>(x, out, false, [](bool a, bool b) { return a || b; });
    } else {
      fold_into<bool>(x, out, true, [](bool a, bool b) { return a && b; });
    }
    return;
  }
  visit_numeric(name_of(op), x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    switch (op) {
      case ReduceOp::sum: fold_into<T>(x, out, A(0), wrapping_add<A>); break;
      case ReduceOp::sum_squares:
        fold_into<T>(x, out, A(0),
                     [](A sum, A v) { return wrapping_add(sum, wrapping_mul(v, v)); });
        break;
      case ReduceOp::prod: fold_into<T>(x, out, A(1), wrapping_mul<A>); break;
      case ReduceOp::min: fold_into<T>(x, out, highest<T>(), scalar::min<T>); break;
      default: fold_into<T>(x, out, lowest<T>(), scalar::max<T>); break;
    }
  });
}

void ReferenceBackend::arg_reduce(bool maximum, View x, int axis, View out) {
  const char* op = maximum ? "argmax" : "argmin";
  require_dtype(op, "out", out, DType::int64);
  visit_numeric(op, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t size = size_along(x, axis);
    const int64_t step = stride_along(x, axis);
    for_each(
        *out.shape,
        [&](int64_t start, int64_t o) {
          const T* lane = x.as<T>() + start;
          int64_t best = 0;
          for (int64_t i = 1; i < size; ++i) {
            if (scalar::beats(maximum, lane[i * step], lane[best * step])) best = i;
          }
          out.as<int64_t>()[o] = best;
        },
        *x.strides, *out.strides);
  });
}

void ReferenceBackend::scan(ScanOp op, View x, int axis, bool reverse, View out) {
  require_dtype(name_of(op), "out", out, x.dtype);
  const Line walk{size_along(x, axis), reverse};
  const int64_t step_x = stride_along(x, axis);
  const int64_t step_out = stride_along(out, axis);
  if (op == ScanOp::logsumexp) {
    visit_floating(name_of(op), x.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for_each_lane(
          *x.shape, axis,
          [&](int64_t start, int64_t o) {
            RunningLogSumExp running;
            for (int64_t k = 0; k < walk.size; ++k) {
              const int64_t i = walk.place(k);
              running.add(static_cast<double>(x.as<T>()[start + i * step_x]));
              out.as<T>()[o + i * step_out] = static_cast<T>(running.value());
            }
          },
          *x.strides, *out.strides);
    });
    return;
  }
  visit_numeric(name_of(op), x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const bool sum = op == ScanOp::sum;
    for_each_lane(
        *x.shape, axis,
        [&](int64_t start, int64_t o) {
          A running = sum ? A(0) : A(1);
          for (int64_t k = 0; k < walk.size; ++k) {
            const int64_t i = walk.place(k);
            const A value = static_cast<A>(x.as<T>()[start + i * step_x]);
            running = sum ? wrapping_add(running, value) : wrapping_mul(running, value);
            out.as<T>()[o + i * step_out] = static_cast<T>(running);
          }
        },
        *x.strides, *out.strides);
  });
}

void ReferenceBackend::scan_extreme(bool maximum, View x, int axis, View values, View indices) {
  const char* op = maximum ? "cummax" : "cummin";
  require_dtype(op, "values", values, x.dtype);
  require_dtype(op, "indices", indices, DType::int64);
  visit_numeric(op, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t size = size_along(x, axis);
    for_each_lane(
        *x.shape, axis,
        [&](int64_t start, int64_t v, int64_t at) {
          const T* lane = x.as<T>() + start;
          T best{};
          int64_t where = 0;
          for (int64_t i = 0; i < size; ++i) {
            const T value = lane[i * stride_along(x, axis)];
            // The latest of equals wins, and the latest NaN.
            if (i == 0 || scalar::is_nan(value) ||
                !(scalar::beats(maximum, best, value) || scalar::is_nan(best))) {
              best = value;
              where = i;
            }
            values.as<T>()[v + i * stride_along(values, axis)] = best;
            indices.as<int64_t>()[at + i * stride_along(indices, axis)] = where;
          }
        },
        *x.strides, *values.strides, *indices.strides);
  });
}

void ReferenceBackend::linear_scan(View a, View b, int axis, bool reverse, View out) {
  require_dtype("linear_scan", "b", b, a.dtype);
  require_dtype("linear_scan", "out", out, a.dtype);
  visit_floating("linear_scan", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Line walk{size_along(out, axis), reverse};
    for_each_lane(
        *out.shape, axis,
        [&](int64_t ia, int64_t ib, int64_t o) {
          double state = 0;
          for (int64_t k = 0; k < walk.size; ++k) {
            const int64_t i = walk.place(k);
            const auto factor = static_cast<double>(a.as<T>()[ia + i * stride_along(a, axis)]);
            const auto term = static_cast<double>(b.as<T>()[ib + i * stride_along(b, axis)]);
            // The first step has no predecessor: an infinite factor must not meet the zero.
            state = k == 0 ? term : factor * state + term;
            out.as<T>()[o + i * stride_along(out, axis)] = static_cast<T>(state);
          }
        },
        *a.strides, *b.strides, *out.strides);
  });
}

void ReferenceBackend::softmax(bool logarithm, View x, int axis, View out) {
  const char* op = logarithm ? "log_softmax" : "softmax";
  require_dtype(op, "out", out, x.dtype);
  visit_floating(op, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t size = size_along(x, axis);
    for_each_lane(
        *x.shape, axis,
        [&](int64_t start, int64_t o) {
          const auto element = [&](int64_t i) {
            return static_cast<double>(x.as<T>()[start + i * stride_along(x, axis)]);
          };
          double top = lowest<double>();
          for (int64_t i = 0; i < size; ++i) top = scalar::max(top, element(i));
          double sum = 0;
          for (int64_t i = 0; i < size; ++i) sum += std::exp(element(i) - top);
          const double log_sum = std::log(sum);
          for (int64_t i = 0; i < size; ++i) {
            const double shifted = element(i) - top;
            out.as<T>()[o + i * stride_along(out, axis)] =
                static_cast<T>(logarithm ? shifted - log_sum : std::exp(shifted) / sum);
          }
        },
        *x.strides, *out.strides);
  });
}

void ReferenceBackend::softmax_grad(bool logarithm, View g, View y, int axis, View out) {
  const char* op = logarithm ? "log_softmax" : "softmax";
  require_dtype(op, "y", y, g.dtype);
  require_dtype(op, "out", out, g.dtype);
  visit_floating(op, g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t size = size_along(out, axis);
    for_each_lane(
        *out.shape, axis,
        [&](int64_t ig, int64_t iy, int64_t o) {
          const auto cotangent = [&](int64_t i) {
            return static_cast<double>(g.as<T>()[ig + i * stride_along(g, axis)]);
          };
          const auto value = [&](int64_t i) {
            return static_cast<double>(y.as<T>()[iy + i * stride_along(y, axis)]);
          };
          double sum = 0;
          for (int64_t i = 0; i < size; ++i)
            sum += logarithm ? cotangent(i) : cotangent(i) * value(i);
          for (int64_t i = 0; i < size; ++i) {
            out.as<T>()[o + i * stride_along(out, axis)] =
                static_cast<T>(logarithm ? cotangent(i) - std::exp(value(i)) * sum
                                         : value(i) * (cotangent(i) - sum));
          }
        },
        *g.strides, *y.strides, *out.strides);
  });
}

}  // namespace flowgrad::kernels
