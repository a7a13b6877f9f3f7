#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/strided.cuh"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

namespace scalar {
namespace {

// The compiler drops the loads of what a line does not read.
#define GRADIENT(type, expression)                                                            \
  template <class T>                                                                          \
  struct type {                                                                               \
    GPU_INLINE T operator()([[maybe_unused]] T g, [[maybe_unused]] T a, [[maybe_unused]] T b, \
                            [[maybe_unused]] T y) const {                                     \
      return expression;                                                                      \
    }                                                                                         \
  };
#define BINARY(name, saves, how, value, grad_a, grad_b) \
  GRADIENT(name##_gradient_a, grad_a)                   \
  GRADIENT(name##_gradient_b, grad_b)
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
#undef GRADIENT

}  // namespace
}  // namespace scalar

namespace {

template <class T>
void floating_binary_grad(BinaryOp op, int wrt, const View& g, const View& a, const View& b,
                          const View& y, const View& out) {
  switch (op) {
#define BINARY(name, saves, how, value, grad_a, grad_b)                                  \
  case BinaryOp::name:                                                                   \
    if (wrt == 0)                                                                        \
      return loops::map<T, T, T, T, T>(scalar::name##_gradient_a<T>{}, out, g, a, b, y); \
    return loops::map<T, T, T, T, T>(scalar::name##_gradient_b<T>{}, out, g, a, b, y);
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
  }
}

}  // namespace

void CudaBackend::binary_grad(BinaryOp op, int wrt, View g, View a, View b, View y, View out) {
  require_dtype(name_of(op), "out", out, g.dtype);
  for (View* v : {&a, &b, &y})
    if (!v->defined()) *v = g;
  require_dtype(name_of(op), "a", a, g.dtype);
  require_dtype(name_of(op), "b", b, g.dtype);
  require_dtype(name_of(op), "y", y, g.dtype);
  visit_floating(name_of(op), g.dtype, [&](auto tag) {
    floating_binary_grad<typename decltype(tag)::type>(op, wrt, g, a, b, y, out);
  });
}

}  // namespace flowgrad::kernels
