#pragma once

#include "flowgrad/kernels/cpu/dispatch.h"

/// The chosen instruction set's table for an element type.
namespace flowgrad::kernels::cpu {

template <class T>
const ElementwiseTable<T>& elementwise_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().elementwise->f32;
  else
    return isa().elementwise->f64;
}
template <class T>
const ReduceTable<T>& reduce_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().reduce->f32;
  else
    return isa().reduce->f64;
}
template <class T>
const GemmTable<T>& gemm_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().gemm->f32;
  else
    return isa().gemm->f64;
}
template <class T>
const FlowTable<T>& flow_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().flow->f32;
  else
    return isa().flow->f64;
}
template <class T>
const CnfTable<T>& cnf_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().cnf->f32;
  else
    return isa().cnf->f64;
}
template <class T>
const ConvTable<T>& conv_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().conv->f32;
  else
    return isa().conv->f64;
}
template <class T>
const NormTable<T>& norm_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().norm->f32;
  else
    return isa().norm->f64;
}
template <class T>
const ScanTable<T>& scan_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().scan->f32;
  else
    return isa().scan->f64;
}
template <class T>
const LstmTable<T>& lstm_table() {
  if constexpr (sizeof(T) == sizeof(float))
    return isa().lstm->f32;
  else
    return isa().lstm->f64;
}

}  // namespace flowgrad::kernels::cpu
