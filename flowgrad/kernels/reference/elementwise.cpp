#include <cmath>

#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/host_functions.h"
#include "flowgrad/kernels/names.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

// The table's expressions become functions inside `scalar`, so that exp(x) means scalar::exp.
namespace scalar {
namespace {

template <class T>
using UnaryFunction = T (*)(T x, T p, T q);
template <class T>
using UnaryDerivative = T (*)(T x, T y, T p, T q);
template <class T>
using BinaryFunction = T (*)(T a, T b);
template <class T>
using BinaryDerivative = T (*)(T g, T a, T b, T y);

template <class T>
UnaryFunction<T> unary_function(UnaryOp op) {
  switch (op) {
#define UNARY(name, saves, zero, value, derivative)                                    \
  case UnaryOp::name:                                                                  \
    return []([[maybe_unused]] T x, [[maybe_unused]] T p, [[maybe_unused]] T q) -> T { \
      return value;                                                                    \
    };
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  }
  return nullptr;
}

template <class T>
UnaryDerivative<T> unary_derivative(UnaryOp op) {
  switch (op) {
#define UNARY(name, saves, zero, value, derivative)                             \
  case UnaryOp::name:                                                           \
    return []([[maybe_unused]] T x, [[maybe_unused]] T y, [[maybe_unused]] T p, \
              [[maybe_unused]] T q) -> T { return derivative; };
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  }
  return nullptr;
}

template <class T>
BinaryFunction<T> binary_function(BinaryOp op) {
  switch (op) {
#define BINARY(name, saves, how, value, grad_a, grad_b) \
  case BinaryOp::name:                                  \
    return [](T a, T b) -> T { return value; };
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
  }
  return nullptr;
}

template <class T>
BinaryDerivative<T> binary_derivative(BinaryOp op, int wrt) {
  switch (op) {
#define BINARY(name, saves, how, value, grad_a, grad_b)                           \
  case BinaryOp::name:                                                            \
    if (wrt == 0) {                                                               \
      return []([[maybe_unused]] T g, [[maybe_unused]] T a, [[maybe_unused]] T b, \
                [[maybe_unused]] T y) -> T { return grad_a; };                    \
    }                                                                             \
    return []([[maybe_unused]] T g, [[maybe_unused]] T a, [[maybe_unused]] T b,   \
              [[maybe_unused]] T y) -> T { return grad_b; };
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
  }
  return nullptr;
}

template <class T>
bool (*predicate_function(PredicateOp op))(T) {
  switch (op) {
#define PREDICATE(name, value) \
  case PredicateOp::name:      \
    return [](T x) { return value; };
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE
  }
  return nullptr;
}

Zero zero_of(UnaryOp op) {
  switch (op) {
#define UNARY(name, saves, zero, value, derivative) \
  case UnaryOp::name:                               \
    return zero;
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  }
  return WEAK;
}

}  // namespace
}  // namespace scalar

using namespace reference;

namespace {

template <class T>
T load(const View& v, int64_t offset) {
  // What the table's line did not save must not be read: NaN makes a wrong line show.
  return v.defined() ? v.as<T>()[offset] : std::numeric_limits<T>::quiet_NaN();
}

}  // namespace

void ReferenceBackend::copy(View in, View out) {
  visit(in.dtype, [&](auto from) {
    visit(out.dtype, [&](auto to) {
      using From = typename decltype(from)::type;
      using To = typename decltype(to)::type;
      const From* x = in.as<From>();
      To* y = out.as<To>();
      for_each(
          *out.shape, [&](int64_t i, int64_t o) { y[o] = convert<To>(x[i]); }, *in.strides,
          *out.strides);
    });
  });
}

void ReferenceBackend::fill(View out, double value) {
  visit(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* y = out.as<T>();
    const T v = convert<T>(value);
    for_each(
        *out.shape, [&](int64_t o) { y[o] = v; }, *out.strides);
  });
}

void ReferenceBackend::arange(View out, double start, double step) {
  visit_numeric("arange", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* y = out.as<T>();
    int64_t i = 0;
    for_each(
        *out.shape, [&](int64_t o) { y[o] = convert<T>(start + static_cast<double>(i++) * step); },
        *out.strides);
  });
}

void ReferenceBackend::add_into(View in, View out) {
  require_dtype("add_into", "in", in, out.dtype);
  visit_numeric("add_into", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* x = in.as<T>();
    T* y = out.as<T>();
    for_each(
        *out.shape,
        [&](int64_t i, int64_t o) {
          if constexpr (std::is_integral_v<T>) {
            y[o] = scalar::wrap(scalar::bits(y[o]) + scalar::bits(x[i]));
          } else {
            y[o] += x[i];
          }
        },
        *in.strides, *out.strides);
  });
}

void ReferenceBackend::unary(UnaryOp op, Params params, View x, View out) {
  require_dtype(name_of(op), "out", out, x.dtype);
  const auto loop = [&]<class T>(auto f, T p, T q) {
    const T* in = x.as<T>();
    T* y = out.as<T>();
    for_each(
        *out.shape, [&](int64_t i, int64_t o) { y[o] = f(in[i], p, q); }, *x.strides, *out.strides);
  };
  if (x.dtype == DType::int64) {
    const auto p = integer_parameter(name_of(op), params.p),
               q = integer_parameter(name_of(op), params.q);
    return scalar::visit_integer(op, [&](auto f) { loop(f, p, q); });
  }
  visit_floating(name_of(op), x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    loop(scalar::unary_function<T>(op), T(params.p), T(params.q));
  });
}

void ReferenceBackend::unary_grad(UnaryOp op, Params params, View g, View x, View y, View out) {
  require_dtype(name_of(op), "out", out, g.dtype);
  visit_floating(name_of(op), g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto derivative = scalar::unary_derivative<T>(op);
    const Zero wins = scalar::zero_of(op);
    const T p = T(params.p);
    const T q = T(params.q);
    for_each(
        *out.shape,
        [&](int64_t ig, int64_t ix, int64_t iy, int64_t o) {
          const T slope = derivative(load<T>(x, ix), load<T>(y, iy), p, q);
          const T gradient = g.as<T>()[ig];
          out.as<T>()[o] = scalar::times_slope(wins, gradient, slope);
        },
        *g.strides, x.defined() ? *x.strides : *g.strides, y.defined() ? *y.strides : *g.strides,
        *out.strides);
  });
}

void ReferenceBackend::binary(BinaryOp op, View a, View b, View out) {
  require_dtype(name_of(op), "b", b, a.dtype);
  require_dtype(name_of(op), "out", out, a.dtype);
  const auto loop = [&]<class T>(std::type_identity<T>, auto f) {
    const T* x = a.as<T>();
    const T* y = b.as<T>();
    T* z = out.as<T>();
    for_each(
        *out.shape, [&](int64_t i, int64_t j, int64_t o) { z[o] = f(x[i], y[j]); }, *a.strides,
        *b.strides, *out.strides);
  };
  if (a.dtype == DType::int64) {
    return scalar::visit_integer(op, [&](auto f) { loop(std::type_identity<int64_t>{}, f); });
  }
  visit_floating(name_of(op), a.dtype, [&](auto tag) {
    loop(tag, scalar::binary_function<typename decltype(tag)::type>(op));
  });
}

void ReferenceBackend::binary_grad(BinaryOp op, int wrt, View g, View a, View b, View y, View out) {
  require_dtype(name_of(op), "out", out, g.dtype);
  visit_floating(name_of(op), g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto f = scalar::binary_derivative<T>(op, wrt);
    for_each(
        *out.shape,
        [&](int64_t ig, int64_t ia, int64_t ib, int64_t iy, int64_t o) {
          out.as<T>()[o] = f(g.as<T>()[ig], load<T>(a, ia), load<T>(b, ib), load<T>(y, iy));
        },
        *g.strides, a.defined() ? *a.strides : *g.strides, b.defined() ? *b.strides : *g.strides,
        y.defined() ? *y.strides : *g.strides, *out.strides);
  });
}

void ReferenceBackend::multiply_add(View a, View b, View out) {
  require_dtype("multiply_add", "a", a, out.dtype);
  require_dtype("multiply_add", "b", b, out.dtype);
  visit_floating("multiply_add", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each(
        *out.shape,
        [&](int64_t ia, int64_t ib, int64_t o) {
          const T product = a.as<T>()[ia] * b.as<T>()[ib];
          out.as<T>()[o] += product;
        },
        *a.strides, *b.strides, *out.strides);
  });
}

void ReferenceBackend::compare(CompareOp op, View a, View b, View out) {
  require_dtype(name_of(op), "b", b, a.dtype);
  require_dtype(name_of(op), "out", out, DType::boolean);
  const auto loop = [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* x = a.as<T>();
    const T* y = b.as<T>();
    bool* z = out.as<bool>();
    scalar::visit_comparison(op, [&](auto f) {
      for_each(
          *out.shape, [&](int64_t i, int64_t j, int64_t o) { z[o] = f(x[i], y[j]); }, *a.strides,
          *b.strides, *out.strides);
    });
  };
  if (a.dtype == DType::boolean) return loop(std::type_identity<bool>{});
  visit_numeric(name_of(op), a.dtype, loop);
}

void ReferenceBackend::predicate(PredicateOp op, View x, View out) {
  require_dtype(name_of(op), "out", out, DType::boolean);
  visit_numeric(name_of(op), x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto f = scalar::predicate_function<T>(op);
    for_each(
        *out.shape, [&](int64_t i, int64_t o) { out.as<bool>()[o] = f(x.as<T>()[i]); }, *x.strides,
        *out.strides);
  });
}

void ReferenceBackend::logical(LogicalOp op, View a, View b, View out) {
  require_dtype(name_of(op), "a", a, DType::boolean);
  require_dtype(name_of(op), "b", b, DType::boolean);
  require_dtype(name_of(op), "out", out, DType::boolean);
  const bool* x = a.as<bool>();
  const bool* y = b.as<bool>();
  bool* z = out.as<bool>();
  scalar::visit_logical(op, [&](auto f) {
    for_each(
        *out.shape, [&](int64_t i, int64_t j, int64_t o) { z[o] = f(x[i], y[j]); }, *a.strides,
        *b.strides, *out.strides);
  });
}

void ReferenceBackend::where(View condition, View a, View b, View out) {
  require_dtype("where", "condition", condition, DType::boolean);
  require_dtype("where", "b", b, a.dtype);
  require_dtype("where", "out", out, a.dtype);
  visit(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each(
        *out.shape,
        [&](int64_t c, int64_t i, int64_t j, int64_t o) {
          out.as<T>()[o] = condition.as<bool>()[c] ? a.as<T>()[i] : b.as<T>()[j];
        },
        *condition.strides, *a.strides, *b.strides, *out.strides);
  });
}

}  // namespace flowgrad::kernels
