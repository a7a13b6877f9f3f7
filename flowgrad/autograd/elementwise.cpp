#include <array>
#include <cmath>
#include <utility>

#include "flowgrad/autograd/expression.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

// Everything here comes from kernels/elementwise.def: public functions, fused first derivatives for
// a plain backward pass, and rules in terms of Expr for gradients that are themselves
// differentiated.
namespace flowgrad {
namespace {

using expression::Expr;
using kernels::BinaryOp;
using kernels::FLAT, kernels::STRONG, kernels::WEAK;
using kernels::Params;
using kernels::UnaryOp;

Tensor unary(UnaryOp op, Params params, const Tensor& x);
void record_unary(UnaryOp op, Params params, const Tensor& x, const Tensor& out);

enum Saves : unsigned { NONE = 0, X = 1, Y = 2, XY = 3, AB = 3, BY = 6, ABY = 7 };
enum How { PLAIN, FUSED };

/// f'(x) as an expression that can be differentiated again.
Expr derivative(UnaryOp op, const Expr& x, const Expr& y, const Expr& p, const Expr& q) {
  using T = Expr;
  (void)q;
  switch (op) {
#define UNARY(name, saves, zero, value, expression) \
  case UnaryOp::name:                               \
    return expression;
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  }
  return Expr(0.0);
}

Expr gradient(BinaryOp op, int wrt, const Expr& g, const Expr& a, const Expr& b, const Expr& y) {
  using T = Expr;
  switch (op) {
#define BINARY(name, saves, how, value, grad_a, grad_b) \
  case BinaryOp::name:                                  \
    return wrt == 0 ? Expr(grad_a) : Expr(grad_b);
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
  }
  return g;
}

struct UnaryLine {
  const char* name;
  unsigned saves;
  kernels::Zero zero;
};
constexpr UnaryLine kUnary[] = {
#define UNARY(name, saves, zero, value, derivative) {#name, saves, zero},
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
};
struct BinaryLine {
  const char* name;
  unsigned saves;
  How how;
};
constexpr BinaryLine kBinary[] = {
#define BINARY(name, saves, how, value, grad_a, grad_b) {#name, saves, how},
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
};

bool keeps_integers(UnaryOp op, Params params) {
  switch (op) {
    case UnaryOp::pow_scalar: return params.p >= 0;
    case UnaryOp::neg:
    case UnaryOp::abs:
    case UnaryOp::sign:
    case UnaryOp::floor:
    case UnaryOp::ceil:
    case UnaryOp::round:
    case UnaryOp::square:
    case UnaryOp::relu:
    case UnaryOp::add_scalar:
    case UnaryOp::mul_scalar:
    case UnaryOp::rsub_scalar:
    case UnaryOp::clamp: return true;
    default: return false;
  }
}

/// The dtype that an operation computes in, for an input of a dtype without that arithmetic.
DType computing_dtype(UnaryOp op, Params params, DType dtype) {
  if (is_floating(dtype)) return dtype;
  // Bounds beyond all integers are none; any other such number makes a result that is no integer.
  const auto is_integer = [op](double v) {
    return v == std::floor(v) && (op == UnaryOp::clamp || (v >= -0x1p63 && v < 0x1p63));
  };
  const bool whole = is_integer(params.p) && is_integer(params.q);
  return keeps_integers(op, params) && whole ? DType::int64 : DType::float32;
}

/// cast without a copy of a handle, whose count of references costs as much as a small kernel:
/// `memory` holds what is not x itself.
const Tensor& cast(const Tensor& x, DType dtype, Tensor& memory) {
  return x.dtype() == dtype ? x : (memory = cast(x, dtype));
}

}  // namespace

Tensor expression::div_zero(const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast_shapes("div", a.shape(), b.shape());
  Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  // The slope of a quotient in its dividend, along a.
  const Spread divisor(b, shape);
  kernels::backend(a.device())
      .binary_grad(BinaryOp::div, 0, Spread(a, shape), {}, divisor, divisor, out);
  if (recording(a, b)) {
    record("div", out, {a, b}, {save(b), save_output(out)}, [](Backward& r) {
      const Tensor b = r.saved(0), y = r.saved(1);
      if (r.needs(0)) r.set(0, div_zero(r.grad(), b));
      if (r.needs(1)) r.set(1, -div_zero(mul_zero(r.grad(), y), b));
    });
  }
  return out;
}

namespace {

Tensor unary(UnaryOp op, Params params, const Tensor& given) {
  Tensor converted;
  const Tensor& x = cast(given, computing_dtype(op, params, given.dtype()), converted);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::backend(x.device()).unary(op, params, x, out);
  if (recording(x)) record_unary(op, params, x, out);
  return out;
}

void record_unary(UnaryOp op, Params params, const Tensor& x, const Tensor& out) {
  const UnaryLine& line = kUnary[static_cast<size_t>(op)];
  record(line.name, out, {x},
         {save(x, line.saves & X), line.saves & Y ? save_output(out) : Saved{}},
         [op, params](Backward& r) {
           const UnaryLine& line = kUnary[static_cast<size_t>(op)];
           const Tensor x = line.saves & X ? r.saved(0) : Tensor();
           const Tensor y = line.saves & Y ? r.saved(1) : Tensor();
           const Tensor& g = r.grad();
           kernels::Backend& backend = kernels::backend(g.device());
           // The slope of x^0 is 0 even for an infinite cotangent, as recorded.
           const bool is_flat = op == UnaryOp::pow_scalar && params.p == 0;
           if (!mode().recording && line.saves != NONE && !is_flat) {
             const Tensor out = r.memory_of_grad();
             backend.unary_grad(op, params, g, x, y, out);
             return r.set(0, out);
           }
           const Expr d = derivative(op, x, y, Expr(params.p), Expr(params.q));
           if (d.is_number()) {
             if (d.c == 0) return r.set(0, zeros_like(g));
             if (mode().recording || d.c == 1) return r.set(0, (Expr(g) * d).t);
             const Tensor out = r.memory_of_grad();
             backend.unary(UnaryOp::mul_scalar, {d.c, 0}, g, out);
             return r.set(0, out);
           }
           const Tensor f = cast(d.t, g.dtype());
           r.set(0, times_slope(line.zero, Expr(g), Expr(f)).t);
         });
}

Tensor empty_like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

/// The gradients of a product, added to what others gave where that saves memory of their own.
void give_factors(Backward& r, const Tensor& a, const Tensor& b) {
  const Tensor& g = r.grad();
  kernels::Backend& backend = kernels::backend(g.device());
  const auto sum_of = [&](int input) {
    return r.needs(input) ? r.sum_so_far(input, g.shape(), g.dtype()) : Tensor();
  };
  // Sums first, so that what needs memory is the last to read g.
  const int first = sum_of(0).defined() ? 0 : 1;
  for (const int input : {first, 1 - first}) {
    if (!r.needs(input)) continue;
    const Spread factor(input == 0 ? b : a, g.shape());
    if (const Tensor sum = sum_of(input); sum.defined()) {
      backend.multiply_add(g, factor, sum);
      continue;
    }
    const bool is_last = input != first || !r.needs(1 - first);
    const Tensor out = is_last ? r.memory_of_grad() : empty_like(g);
    backend.binary(BinaryOp::mul, g, factor, out);
    r.set(input, out);
  }
}

Tensor binary(BinaryOp op, const Tensor& left, const Tensor& right) {
  const BinaryLine& line = kBinary[static_cast<size_t>(op)];
  DType dtype = promote(left.dtype(), right.dtype());
  if (!is_floating(dtype)) {
    const bool real = op == BinaryOp::div || op == BinaryOp::atan2 || op == BinaryOp::logaddexp;
    dtype = real ? DType::float32 : DType::int64;
  }
  Tensor converted[2];
  const Tensor& a = cast(left, dtype, converted[0]);
  const Tensor& b = cast(right, dtype, converted[1]);
  check_same_device(line.name, a, b);
  const Shape shape = broadcast_shapes(line.name, a.shape(), b.shape());
  Tensor out = Tensor::empty(shape, dtype, a.device());
  kernels::backend(a.device()).binary(op, Spread(a, shape), Spread(b, shape), out);
  if (!recording(a, b)) return out;
  // A product reads only the other factor; every other line needs what it says for either side.
  const bool product = op == BinaryOp::mul;
  const bool keep_a = (line.saves & 1) && (!product || b.requires_grad());
  const bool keep_b = (line.saves & 2) && (!product || a.requires_grad());
  record(line.name, out, {a, b},
         {save(a, keep_a), save(b, keep_b), line.saves & 4 ? save_output(out) : Saved{}},
         [op, keep_a, keep_b](Backward& r) {
           const BinaryLine& line = kBinary[static_cast<size_t>(op)];
           const Tensor a = keep_a ? r.saved(0) : Tensor();
           const Tensor b = keep_b ? r.saved(1) : Tensor();
           const Tensor y = line.saves & 4 ? r.saved(2) : Tensor();
           const Tensor& g = r.grad();
           if (op == BinaryOp::mul && !mode().recording) return give_factors(r, a, b);
           for (int wrt = 0; wrt < 2; ++wrt) {
             if (!r.needs(wrt)) continue;
             if (line.how == PLAIN || mode().recording) {
               r.set(wrt, gradient(op, wrt, g, a, b, y).t);
               continue;
             }
             const bool is_last = wrt == 1 || !r.needs(1);
             const Tensor out = is_last ? r.memory_of_grad() : empty_like(g);
             kernels::backend(g.device())
                 .binary_grad(op, wrt, g, Spread(a, g.shape()), Spread(b, g.shape()), y, out);
             r.set(wrt, out);
           }
         });
  return out;
}

}  // namespace

#define UNARY(name, saves, zero, value, derivative) \
  Tensor name(const Tensor& x) { return unary(UnaryOp::name, {}, x); }
#define UNARY_P(name, saves, zero, value, derivative)
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
#undef UNARY_P

#define BINARY(name, saves, how, value, grad_a, grad_b) \
  Tensor name(const Tensor& a, const Tensor& b) { return binary(BinaryOp::name, a, b); }
#include "flowgrad/kernels/elementwise.def"
#undef BINARY

Tensor leaky_relu(const Tensor& x, double slope) {
  return unary(UnaryOp::leaky_relu, {slope, 0}, x);
}
Tensor elu(const Tensor& x, double alpha) { return unary(UnaryOp::elu, {alpha, 0}, x); }
Tensor clamp(const Tensor& x, double low, double high) {
  check_ordered("clamp", low, high);
  return unary(UnaryOp::clamp, {low, high}, x);
}
Tensor hardtanh(const Tensor& x, double low, double high) {
  check_ordered("hardtanh", low, high);
  return unary(UnaryOp::hardtanh, {low, high}, x);
}
Tensor pow(const Tensor& x, double exponent) {
  return unary(UnaryOp::pow_scalar, {exponent, 0}, x);
}

UnaryOp operation_of(Epilogue epilogue) {
  constexpr UnaryOp kOperations[] = {UnaryOp::relu, UnaryOp::tanh, UnaryOp::sigmoid, UnaryOp::silu,
                                     UnaryOp::gelu};
  return kOperations[static_cast<size_t>(epilogue) - 1];
}

bool is_fused(Epilogue epilogue, bool records) {
  if (epilogue == Epilogue::none || !fused_kernels()) return false;
  const bool needs_argument = epilogue == Epilogue::silu || epilogue == Epilogue::gelu;
  // An anomaly is looked for in what the function is taken of, too.
  return !records || !(needs_argument || mode().anomaly != AnomalyCheck::off);
}

Tensor with_epilogue(const Tensor& z, Epilogue epilogue, bool fused) {
  if (epilogue == Epilogue::none) return z;
  if (!fused) return unary(operation_of(epilogue), {}, z);
  if (!z.requires_grad()) return z;
  // The rule of relu reads z, and finds the same slope in its value.
  Tensor out = z.detach();
  record_unary(operation_of(epilogue), {}, z, out);
  return out;
}

Tensor operator-(const Tensor& x) { return neg(x); }
Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
Tensor operator+(const Tensor& a, double b) { return unary(UnaryOp::add_scalar, {b, 0}, a); }
Tensor operator-(const Tensor& a, double b) { return unary(UnaryOp::add_scalar, {-b, 0}, a); }
Tensor operator*(const Tensor& a, double b) { return unary(UnaryOp::mul_scalar, {b, 0}, a); }
Tensor operator/(const Tensor& a, double b) { return unary(UnaryOp::div_scalar, {b, 0}, a); }
Tensor operator+(double a, const Tensor& b) { return unary(UnaryOp::add_scalar, {a, 0}, b); }
Tensor operator-(double a, const Tensor& b) { return unary(UnaryOp::rsub_scalar, {a, 0}, b); }
Tensor operator*(double a, const Tensor& b) { return unary(UnaryOp::mul_scalar, {a, 0}, b); }
Tensor operator/(double a, const Tensor& b) { return unary(UnaryOp::rdiv_scalar, {a, 0}, b); }

}  // namespace flowgrad
