#include <cstring>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/staging.h"
#include "flowgrad/kernels/cuda/strided.cuh"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/integer.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

namespace scalar {
namespace {

#define BINARY(name, saves, how, value, grad_a, grad_b)       \
  template <class T>                                          \
  struct name##_value {                                       \
    GPU_INLINE T operator()(T a, T b) const { return value; } \
  };
#include "flowgrad/kernels/elementwise.def"
#undef BINARY

// What int64 has besides remainder.
#define INTEGER(name, expression)                                                    \
  struct name##_integer {                                                            \
    GPU_INLINE int64_t operator()(int64_t a, int64_t b) const { return expression; } \
  };
#define INTEGERS                        \
  INTEGER(add, wrap(bits(a) + bits(b))) \
  INTEGER(sub, wrap(bits(a) - bits(b))) \
  INTEGER(mul, wrap(bits(a) * bits(b))) \
  INTEGER(maximum, max(a, b))           \
  INTEGER(minimum, min(a, b))
INTEGERS
#undef INTEGER

/// Notes a divisor of 0 in *found_zero.
struct remainder_integer {
  unsigned* found_zero;
  GPU_INLINE int64_t operator()(int64_t a, int64_t b) const {
    if (b == 0) {
      atomicExch(found_zero, 1u);
      return 0;
    }
    return b == -1 ? int64_t{0} : remainder(a, b);  // the smallest integer % -1 overflows
  }
};

}  // namespace
}  // namespace scalar

namespace {

/// Waits for the result: the refusal of a zero divisor depends on the data.
void integer_remainder(const View& a, const View& b, const View& out) {
  if (out.numel() == 0) return;
  const Scratch flag(sizeof(unsigned));
  gpu::fill_bytes(flag.as<void>(), 0, sizeof(unsigned), gpu::default_stream());
  loops::map<int64_t, int64_t, int64_t>(scalar::remainder_integer{flag.as<unsigned>()}, out, a, b);
  unsigned found_zero = 0;
  Staging::instance().to_host(&found_zero, flag.as<void>(), sizeof found_zero);
  if (found_zero != 0) zero_divisor();
}

void integer_binary(BinaryOp op, const View& a, const View& b, const View& out) {
  if (op == BinaryOp::mul_zero) op = BinaryOp::mul;
  switch (op) {
#define INTEGER(name, expression) \
  case BinaryOp::name:            \
    return loops::map<int64_t, int64_t, int64_t>(scalar::name##_integer{}, out, a, b);
    INTEGERS
#undef INTEGER
    case BinaryOp::remainder: return integer_remainder(a, b, out);
    default: no_integer_form(name_of(op));
  }
}

template <class T>
void floating_binary(BinaryOp op, const View& a, const View& b, const View& out) {
  switch (op) {
#define BINARY(name, saves, how, value, grad_a, grad_b) \
  case BinaryOp::name:                                  \
    return loops::map<T, T, T>(scalar::name##_value<T>{}, out, a, b);
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
  }
}

/// A product that the compiler may not contract.
GPU_INLINE float rounded_product(float a, float b) { return __fmul_rn(a, b); }
GPU_INLINE double rounded_product(double a, double b) { return __dmul_rn(a, b); }
struct MultiplyAdd {
  template <class T>
  GPU_INLINE T operator()(T a, T b, T sum) const {
    return sum + rounded_product(a, b);
  }
};

}  // namespace

void CudaBackend::multiply_add(View a, View b, View out) {
  require_dtype("multiply_add", "a", a, out.dtype);
  require_dtype("multiply_add", "b", b, out.dtype);
  visit_floating("multiply_add", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    loops::map<T, T, T, T>(MultiplyAdd{}, out, a, b, out);
  });
}

void CudaBackend::binary(BinaryOp op, View a, View b, View out) {
  require_dtype(name_of(op), "b", b, a.dtype);
  require_dtype(name_of(op), "out", out, a.dtype);
  if (a.dtype == DType::int64) return integer_binary(op, a, b, out);
  visit_floating(name_of(op), a.dtype,
                 [&](auto tag) { floating_binary<typename decltype(tag)::type>(op, a, b, out); });
}

}  // namespace flowgrad::kernels
