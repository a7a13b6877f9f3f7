#pragma once

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/integer.h"
#include "flowgrad/kernels/names.h"

/// The functions that both backends of the CPU compute by plain loops, each handed to the loop as a
/// type of its own, so that the compiler sees it there.
namespace flowgrad::kernels::scalar {

/// visit(f) for f(x, p, q), the form that the operation has on int64. DTypeError where it has none.
template <class Visit>
void visit_integer(UnaryOp op, Visit&& visit) {
  using I = int64_t;
  switch (op) {
    case UnaryOp::neg: return visit([](I x, I, I) { return wrap(-bits(x)); });
    case UnaryOp::abs: return visit([](I x, I, I) { return x < 0 ? wrap(-bits(x)) : x; });
    case UnaryOp::sign: return visit([](I x, I, I) { return I{x > 0} - I{x < 0}; });
    case UnaryOp::floor:
    case UnaryOp::ceil:
    case UnaryOp::round: return visit([](I x, I, I) { return x; });
    case UnaryOp::relu: return visit([](I x, I, I) { return x < 0 ? I{0} : x; });
    case UnaryOp::pow_scalar: return visit([](I x, I p, I) { return power(x, p); });
    case UnaryOp::square: return visit([](I x, I, I) { return wrap(bits(x) * bits(x)); });
    case UnaryOp::clamp: return visit([](I x, I p, I q) { return max(min(x, q), p); });
    case UnaryOp::add_scalar: return visit([](I x, I p, I) { return wrap(bits(x) + bits(p)); });
    case UnaryOp::mul_scalar: return visit([](I x, I p, I) { return wrap(bits(x) * bits(p)); });
    case UnaryOp::rsub_scalar: return visit([](I x, I p, I) { return wrap(bits(p) - bits(x)); });
    default: no_integer_form(name_of(op));
  }
}

/// The same for f(a, b).
template <class Visit>
void visit_integer(BinaryOp op, Visit&& visit) {
  using I = int64_t;
  switch (op) {
    case BinaryOp::add: return visit([](I a, I b) { return wrap(bits(a) + bits(b)); });
    case BinaryOp::sub: return visit([](I a, I b) { return wrap(bits(a) - bits(b)); });
    case BinaryOp::mul:
    case BinaryOp::mul_zero: return visit([](I a, I b) { return wrap(bits(a) * bits(b)); });
    case BinaryOp::maximum: return visit([](I a, I b) { return max(a, b); });
    case BinaryOp::minimum: return visit([](I a, I b) { return min(a, b); });
    case BinaryOp::remainder:
      return visit([](I a, I b) {
        if (b == 0) zero_divisor();
        return b == -1 ? I{0} : remainder(a, b);  // the smallest integer % -1 traps
      });
    default: no_integer_form(name_of(op));
  }
}

/// visit(f) for the comparison f(a, b) of two numbers of one type.
template <class Visit>
void visit_comparison(CompareOp op, Visit&& visit) {
  switch (op) {
#define COMPARE(name, value) \
  case CompareOp::name:      \
    return visit([](auto a, auto b) -> bool { return value; });
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE
  }
}

template <class Visit>
void visit_logical(LogicalOp op, Visit&& visit) {
  switch (op) {
    case LogicalOp::logical_and: return visit([](bool a, bool b) -> bool { return a & b; });
    case LogicalOp::logical_or: return visit([](bool a, bool b) -> bool { return a | b; });
    case LogicalOp::logical_xor: return visit([](bool a, bool b) -> bool { return a != b; });
  }
}

}  // namespace flowgrad::kernels::scalar
