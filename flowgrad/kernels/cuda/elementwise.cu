// Elementwise operations on and to bool, and where. Arithmetic is in elementwise_*.cu.
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/strided.cuh"
#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad::kernels {

namespace scalar {
namespace {

#define COMPARE(name, value)                                     \
  template <class T>                                             \
  struct name##_value {                                          \
    GPU_INLINE bool operator()(T a, T b) const { return value; } \
  };
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE

#define PREDICATE(name, value)                              \
  template <class T>                                        \
  struct name##_value {                                     \
    GPU_INLINE bool operator()(T x) const { return value; } \
  };
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE

}  // namespace
}  // namespace scalar

namespace {

struct Logical {
  LogicalOp op;
  GPU_INLINE bool operator()(bool a, bool b) const {
    return op == LogicalOp::logical_and ? a && b : op == LogicalOp::logical_or ? a || b : a != b;
  }
};

struct Where {
  template <class T>
  GPU_INLINE T operator()(bool condition, T a, T b) const {
    return condition ? a : b;
  }
};

template <class T>
void compare_as(CompareOp op, const View& a, const View& b, const View& out) {
  switch (op) {
#define COMPARE(name, value) \
  case CompareOp::name:      \
    return loops::map<bool, T, T>(scalar::name##_value<T>{}, out, a, b);
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE
  }
}

template <class T>
void predicate_as(PredicateOp op, const View& x, const View& out) {
  switch (op) {
#define PREDICATE(name, value) \
  case PredicateOp::name:      \
    return loops::map<bool, T>(scalar::name##_value<T>{}, out, x);
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE
  }
}

}  // namespace

void CudaBackend::compare(CompareOp op, View a, View b, View out) {
  require_dtype(name_of(op), "b", b, a.dtype);
  require_dtype(name_of(op), "out", out, DType::boolean);
  if (a.dtype == DType::boolean) return compare_as<bool>(op, a, b, out);
  visit_numeric(name_of(op), a.dtype,
                [&](auto tag) { compare_as<typename decltype(tag)::type>(op, a, b, out); });
}

void CudaBackend::predicate(PredicateOp op, View x, View out) {
  require_dtype(name_of(op), "out", out, DType::boolean);
  visit_numeric(name_of(op), x.dtype,
                [&](auto tag) { predicate_as<typename decltype(tag)::type>(op, x, out); });
}

void CudaBackend::logical(LogicalOp op, View a, View b, View out) {
  require_dtype(name_of(op), "a", a, DType::boolean);
  require_dtype(name_of(op), "b", b, DType::boolean);
  require_dtype(name_of(op), "out", out, DType::boolean);
  loops::map<bool, bool, bool>(Logical{op}, out, a, b);
}

void CudaBackend::where(View condition, View a, View b, View out) {
  require_dtype("where", "condition", condition, DType::boolean);
  require_dtype("where", "b", b, a.dtype);
  require_dtype("where", "out", out, a.dtype);
  // Values are moved, not looked at: their size is all that counts.
  switch (size_of(out.dtype)) {
    case 1: return loops::map<uint8_t, bool, uint8_t, uint8_t>(Where{}, out, condition, a, b);
    case 2: return loops::map<uint16_t, bool, uint16_t, uint16_t>(Where{}, out, condition, a, b);
    case 4: return loops::map<uint32_t, bool, uint32_t, uint32_t>(Where{}, out, condition, a, b);
    default: return loops::map<uint64_t, bool, uint64_t, uint64_t>(Where{}, out, condition, a, b);
  }
}

}  // namespace flowgrad::kernels
