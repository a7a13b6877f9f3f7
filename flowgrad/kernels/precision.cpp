#include "flowgrad/kernels/precision.h"

#include <atomic>

#include "flowgrad/core/error.h"

namespace flowgrad::kernels {
namespace {

std::atomic<MatmulPrecision> precision_of_products{MatmulPrecision::float32};
std::atomic<MatmulLibrary> library_in_use{MatmulLibrary::own};

}  // namespace

MatmulPrecision matmul_precision() { return precision_of_products.load(std::memory_order_relaxed); }

void set_matmul_precision(MatmulPrecision precision) {
  precision_of_products.store(precision, std::memory_order_relaxed);
}

bool built_with_cublas() {
#if defined(FLOWGRAD_CUBLAS)
  return true;
#else
  return false;
#endif
}

MatmulLibrary matmul_library() { return library_in_use.load(std::memory_order_relaxed); }

void set_matmul_library(MatmulLibrary library) {
  if (library == MatmulLibrary::cublas && !built_with_cublas()) {
    throw DeviceError(
        "matmul: cublas asked for, which this build has not got; build with -DFLOWGRAD_GPU=CUDA "
        "-DFLOWGRAD_CUBLAS=ON, or take our own kernels");
  }
  library_in_use.store(library, std::memory_order_relaxed);
}

bool rounds_matmul(Device device) {
  return !device.is_cpu() && matmul_precision() != MatmulPrecision::float32;
}

}  // namespace flowgrad::kernels
