#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/strided.cuh"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/integer.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

// The table's expressions become functions inside `scalar`, so that exp(x) means scalar::exp.
namespace scalar {
namespace {

#define UNARY(name, saves, zero, value, derivative)                       \
  template <class T>                                                      \
  struct name##_value {                                                   \
    T p, q;                                                               \
    GPU_INLINE T operator()([[maybe_unused]] T x) const { return value; } \
  };
#include "flowgrad/kernels/elementwise.def"
#undef UNARY

// What int64 has.
#define INTEGER(name, expression)                                                          \
  struct name##_integer {                                                                  \
    int64_t p, q;                                                                          \
    GPU_INLINE int64_t operator()([[maybe_unused]] int64_t x) const { return expression; } \
  };
#define INTEGERS                                 \
  INTEGER(neg, wrap(-bits(x)))                   \
  INTEGER(abs, x < 0 ? wrap(-bits(x)) : x)       \
  INTEGER(sign, int64_t{x > 0} - int64_t{x < 0}) \
  INTEGER(square, wrap(bits(x) * bits(x)))       \
  INTEGER(pow_scalar, power(x, p))               \
  INTEGER(clamp, max(min(x, q), p))              \
  INTEGER(add_scalar, wrap(bits(x) + bits(p)))   \
  INTEGER(mul_scalar, wrap(bits(x) * bits(p)))   \
  INTEGER(rsub_scalar, wrap(bits(p) - bits(x)))  \
  INTEGER(floor, x)                              \
  INTEGER(ceil, x)                               \
  INTEGER(round, x)                              \
  INTEGER(relu, x > 0 ? x : 0)
INTEGERS
#undef INTEGER

}  // namespace
}  // namespace scalar

namespace {

void integer_unary(UnaryOp op, int64_t p, int64_t q, const View& x, const View& out) {
  switch (op) {
#define INTEGER(name, expression) \
  case UnaryOp::name: return loops::map<int64_t, int64_t>(scalar::name##_integer{p, q}, out, x);
    INTEGERS
#undef INTEGER
    default: no_integer_form(name_of(op));
  }
}

template <class T>
void floating_unary(UnaryOp op, T p, T q, const View& x, const View& out) {
  switch (op) {
#define UNARY(name, saves, zero, value, derivative) \
  case UnaryOp::name:                               \
    return loops::map<T, T>(scalar::name##_value<T>{p, q}, out, x);
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  }
}

}  // namespace

void CudaBackend::unary(UnaryOp op, Params params, View x, View out) {
  require_dtype(name_of(op), "out", out, x.dtype);
  if (x.dtype == DType::int64) {
    return integer_unary(op, integer_parameter(name_of(op), params.p),
                         integer_parameter(name_of(op), params.q), x, out);
  }
  const char* const name = name_of(op);
  // The same value, at a fraction of the price.
  if (op == UnaryOp::pow_scalar && params.p == 2) op = UnaryOp::square;
  visit_floating(name, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    floating_unary<T>(op, static_cast<T>(params.p), static_cast<T>(params.q), x, out);
  });
}

}  // namespace flowgrad::kernels
