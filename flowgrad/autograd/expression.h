#pragma once

#include <utility>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/functions.h"

/// The functions that kernels/elementwise.def may use, over tensors: those of kernels/functions.h
/// by the same names, found by the type of their arguments.
namespace flowgrad::expression {

/// A tensor or a plain number, so that constants of a derivative cost no kernel.
struct Expr {
  Tensor t;
  double c = 0;

  Expr(Tensor tensor) : t(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  explicit Expr(double constant) : c(constant) {}
  bool is_number() const { return !t.defined(); }
};

inline Expr operator-(const Expr& a) { return a.is_number() ? Expr(-a.c) : Expr(-a.t); }
inline Expr operator+(const Expr& a, const Expr& b) {
  if (a.is_number() && b.is_number()) return Expr(a.c + b.c);
  if (a.is_number()) return b.t + a.c;
  return b.is_number() ? a.t + b.c : a.t + b.t;
}
inline Expr operator-(const Expr& a, const Expr& b) {
  if (a.is_number() && b.is_number()) return Expr(a.c - b.c);
  if (a.is_number()) return a.c - b.t;
  return b.is_number() ? a.t - b.c : a.t - b.t;
}
inline Expr operator*(const Expr& a, const Expr& b) {
  if (a.is_number() && b.is_number()) return Expr(a.c * b.c);
  if (a.is_number()) return a.c == 1 ? b : Expr(b.t * a.c);
  if (b.is_number()) return b.c == 1 ? a : Expr(a.t * b.c);
  return a.t * b.t;
}
inline Expr operator/(const Expr& a, const Expr& b) {
  if (a.is_number() && b.is_number()) return Expr(a.c / b.c);
  if (a.is_number()) return a.c / b.t;
  return b.is_number() ? a.t / b.c : a.t / b.t;
}

/// A number as a tensor that stands beside another.
inline Tensor as_tensor(const Expr& e, const Tensor& like) {
  return e.is_number() ? filled({}, e.c, like.dtype(), like.device()) : e.t;
}

#define FLOWGRAD_EXPR_COMPARE(op, function)                                           \
  inline Expr operator op(const Expr& a, const Expr& b) {                             \
    if (a.is_number() && b.is_number()) return Expr(static_cast<double>(a.c op b.c)); \
    if (b.is_number()) return function(a.t, b.c);                                     \
    return a.is_number() ? function(as_tensor(a, b.t), b.t) : function(a.t, b.t);     \
  }
FLOWGRAD_EXPR_COMPARE(==, equal)
FLOWGRAD_EXPR_COMPARE(!=, not_equal)
FLOWGRAD_EXPR_COMPARE(<, less)
FLOWGRAD_EXPR_COMPARE(<=, less_equal)
FLOWGRAD_EXPR_COMPARE(>, greater)
FLOWGRAD_EXPR_COMPARE(>=, greater_equal)
#undef FLOWGRAD_EXPR_COMPARE

#define FLOWGRAD_EXPR_UNARY(name)                                                        \
  inline Expr name(const Expr& a) {                                                      \
    return a.is_number() ? Expr(kernels::scalar::name(a.c)) : Expr(flowgrad::name(a.t)); \
  }
FLOWGRAD_EXPR_UNARY(abs)
FLOWGRAD_EXPR_UNARY(sign)
FLOWGRAD_EXPR_UNARY(floor)
FLOWGRAD_EXPR_UNARY(ceil)
FLOWGRAD_EXPR_UNARY(round)
FLOWGRAD_EXPR_UNARY(exp)
FLOWGRAD_EXPR_UNARY(expm1)
FLOWGRAD_EXPR_UNARY(log)
FLOWGRAD_EXPR_UNARY(log1p)
FLOWGRAD_EXPR_UNARY(sqrt)
FLOWGRAD_EXPR_UNARY(sin)
FLOWGRAD_EXPR_UNARY(cos)
FLOWGRAD_EXPR_UNARY(tan)
FLOWGRAD_EXPR_UNARY(sinh)
FLOWGRAD_EXPR_UNARY(cosh)
FLOWGRAD_EXPR_UNARY(tanh)
FLOWGRAD_EXPR_UNARY(erf)
FLOWGRAD_EXPR_UNARY(erfc)
FLOWGRAD_EXPR_UNARY(sigmoid)
FLOWGRAD_EXPR_UNARY(softplus)
#undef FLOWGRAD_EXPR_UNARY

/// A quotient where an exact zero in a wins over any b, in its derivatives too.
Tensor div_zero(const Tensor& a, const Tensor& b);

#define FLOWGRAD_EXPR_BINARY(name, function)                                          \
  inline Expr name(const Expr& a, const Expr& b) {                                    \
    if (a.is_number() && b.is_number()) return Expr(kernels::scalar::name(a.c, b.c)); \
    const Tensor& like = a.is_number() ? b.t : a.t;                                   \
    return function(as_tensor(a, like), as_tensor(b, like));                          \
  }
FLOWGRAD_EXPR_BINARY(max, maximum)
FLOWGRAD_EXPR_BINARY(min, minimum)
FLOWGRAD_EXPR_BINARY(atan2, flowgrad::atan2)
FLOWGRAD_EXPR_BINARY(remainder, flowgrad::remainder)
FLOWGRAD_EXPR_BINARY(logaddexp, flowgrad::logaddexp)
FLOWGRAD_EXPR_BINARY(mul_zero, flowgrad::mul_zero)
FLOWGRAD_EXPR_BINARY(div_zero, div_zero)
#undef FLOWGRAD_EXPR_BINARY

inline Expr times_slope(kernels::Zero wins, const Expr& g, const Expr& slope) {
  if (wins == kernels::WEAK) return g * slope;
  return wins == kernels::STRONG ? mul_zero(g, slope) : mul_zero(slope, g);
}
inline Expr pow(const Expr& a, const Expr& b) {
  if (!a.is_number() && b.is_number()) return flowgrad::pow(a.t, b.c);
  if (a.is_number() && b.is_number()) return Expr(kernels::scalar::pow(a.c, b.c));
  return flowgrad::pow(as_tensor(a, b.t), b.t);
}
inline Expr select(const Expr& condition, const Expr& a, const Expr& b) {
  if (condition.is_number()) return condition.c != 0 ? a : b;
  if (a.is_number() && b.is_number()) {
    // Of the dtype that the product with the cotangent asks for, found by the caller.
    return cast(condition.t, DType::float64) * Expr(a.c - b.c) + b;
  }
  const Tensor& like = a.is_number() ? b.t : a.t;
  return where(condition.t, as_tensor(a, like), as_tensor(b, like));
}

}  // namespace flowgrad::expression
