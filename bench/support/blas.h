#pragma once

#include <functional>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"

/// BLAS libraries of the machine as peers of our products on the CPU; nothing of the library uses
/// them, and nothing is linked: they are opened by path.
namespace flowgrad::bench {

struct Blas {
  std::string name;
  /// Row-major c (m, n) = a (m, k) b (k, n), float32.
  std::function<void(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k)>
      sgemm;
};

/// Opens NAME=LIBRARY[:SYMBOL]. The symbol is sgemm_ by default; one that ends in 64_ takes 64-bit
/// integers, dnnl_sgemm is oneDNN's. OpenMP threads are set to ours. UsageError names --blas.
Blas open_blas(const std::string& text);

}  // namespace flowgrad::bench
