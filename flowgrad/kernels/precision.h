#pragma once

#include <cstdint>

#include "flowgrad/core/device.h"

namespace flowgrad::kernels {

/// How a device multiplies float32 matrices. tf32 and bf16 round the operands to 11 and 8
/// significant bits, which its matrix units multiply much faster, and add up in float32; products
/// with fewer than 32 columns or less depth than that, and float64, stay exact. The CPU always
/// computes in full.
enum class MatmulPrecision : uint8_t { float32, tf32, bf16 };

/// Of the process; float32 at first.
MatmulPrecision matmul_precision();
void set_matmul_precision(MatmulPrecision precision);

/// Whose kernels multiply matrices on a device. Our own give a row the same bits whatever rows are
/// beside it, which cuBLAS does not promise. The precision above holds for both.
enum class MatmulLibrary : uint8_t { own, cublas };

/// Whether this build can multiply by cuBLAS: CMake's FLOWGRAD_CUBLAS, with FLOWGRAD_GPU=CUDA.
bool built_with_cublas();
/// Of the process; own at first. DeviceError for cublas in a build that has none.
MatmulLibrary matmul_library();
void set_matmul_library(MatmulLibrary library);

/// Whether products on the device round their operands now. An adaptive solver asks this first: its
/// error estimate takes the rounding for stiffness, and its steps shrink without end.
bool rounds_matmul(Device device);

}  // namespace flowgrad::kernels
