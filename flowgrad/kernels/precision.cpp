#include "flowgrad/kernels/precision.h"

#include <atomic>

namespace flowgrad::kernels {
namespace {

std::atomic<MatmulPrecision> chosen{MatmulPrecision::float32};

}  // namespace

MatmulPrecision matmul_precision() { return chosen.load(std::memory_order_relaxed); }

void set_matmul_precision(MatmulPrecision precision) {
  chosen.store(precision, std::memory_order_relaxed);
}

bool rounds_matmul(Device device) {
  return !device.is_cpu() && matmul_precision() != MatmulPrecision::float32;
}

}  // namespace flowgrad::kernels
