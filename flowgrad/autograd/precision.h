#pragma once

#include "flowgrad/kernels/precision.h"

/// How float32 matrices are multiplied on a device, for models and solvers.
namespace flowgrad {

using kernels::built_with_cublas;
using kernels::matmul_library;
using kernels::matmul_precision;
using kernels::MatmulLibrary;
using kernels::MatmulPrecision;
using kernels::rounds_matmul;
using kernels::set_matmul_library;
using kernels::set_matmul_precision;

}  // namespace flowgrad
