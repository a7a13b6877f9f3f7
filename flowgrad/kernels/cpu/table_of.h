#pragma once

#include <optional>

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/cpu/dispatch.h"

/// The chosen instruction set's table for an element type.
namespace flowgrad::kernels::cpu {

/// Calls f with the element type and returns true for the two types that have vector kernels.
template <class F>
bool with_floating(DType dtype, F&& f) {
  if (dtype == DType::float32) {
    f(float{});
    return true;
  }
  if (dtype == DType::float64) {
    f(double{});
    return true;
  }
  return false;
}

/// What a pair of tables, for float and for double, has for T.
template <class T, class Tables>
const auto& half_of(const Tables* tables) {
  if constexpr (sizeof(T) == sizeof(float))
    return tables->f32;
  else
    return tables->f64;
}

template <class T>
const ElementwiseTable<T>& elementwise_table() {
  return half_of<T>(isa().elementwise);
}
/// The kernel of an operation without parameters; null for none.
template <class T>
UnaryKernel<T> unary_kernel(std::optional<UnaryOp> op) {
  return op ? elementwise_table<T>().unary[static_cast<int>(*op)] : nullptr;
}
template <class T>
const ReduceTable<T>& reduce_table() {
  return half_of<T>(isa().reduce);
}
template <class T>
const GemmTable<T>& gemm_table() {
  return half_of<T>(isa().gemm);
}
template <class T>
const FlowTable<T>& flow_table() {
  return half_of<T>(isa().flow);
}
template <class T>
const CnfTable<T>& cnf_table() {
  return half_of<T>(isa().cnf);
}
template <class T>
const ConvTable<T>& conv_table() {
  return half_of<T>(isa().conv);
}
template <class T>
const NormTable<T>& norm_table() {
  return half_of<T>(isa().norm);
}
template <class T>
const ScanTable<T>& scan_table() {
  return half_of<T>(isa().scan);
}
template <class T>
const RandomTable<T>& random_table() {
  return half_of<T>(isa().random);
}
template <class T>
const LstmTable<T>& lstm_table() {
  return half_of<T>(isa().lstm);
}

}  // namespace flowgrad::kernels::cpu
