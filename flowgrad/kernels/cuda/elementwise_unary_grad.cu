#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/strided.cuh"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

namespace scalar {
namespace {

// The compiler drops the loads of what a line does not read.
#define UNARY(name, saves, zero, value, derivative)                                  \
  template <class T>                                                                 \
  struct name##_gradient {                                                           \
    T p, q;                                                                          \
    GPU_INLINE T operator()(T g, [[maybe_unused]] T x, [[maybe_unused]] T y) const { \
      const T slope = derivative;                                                    \
      return times_slope(zero, g, slope);                                            \
    }                                                                                \
  };
#include "flowgrad/kernels/elementwise.def"
#undef UNARY

}  // namespace
}  // namespace scalar

namespace {

template <class T>
void floating_unary_grad(UnaryOp op, T p, T q, const View& g, const View& x, const View& y,
                         const View& out) {
  switch (op) {
#define UNARY(name, saves, zero, value, derivative) \
  case UnaryOp::name:                               \
    return loops::map<T, T, T, T>(scalar::name##_gradient<T>{p, q}, out, g, x, y);
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  }
}

}  // namespace

void CudaBackend::unary_grad(UnaryOp op, Params params, View g, View x, View y, View out) {
  require_dtype(name_of(op), "out", out, g.dtype);
  if (!x.defined()) x = g;
  if (!y.defined()) y = g;
  require_dtype(name_of(op), "x", x, g.dtype);
  require_dtype(name_of(op), "y", y, g.dtype);
  visit_floating(name_of(op), g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    floating_unary_grad<T>(op, static_cast<T>(params.p), static_cast<T>(params.q), g, x, y, out);
  });
}

}  // namespace flowgrad::kernels
