#pragma once

#include <string>
#include <vector>

#include "flowgrad/kernels/backend.h"
#include "kernels/strided.h"

/// What the tests of layer normalisation share, on the CPU and on a device.
namespace flowgrad::testing {

struct LayerNormCase {
  int64_t rows, n;
  bool weight = true, bias = true;
  double offset = 0;  // of x

  std::string text() const {
    return std::to_string(rows) + " rows of " + std::to_string(n) + (weight ? ", weight" : "") +
           (bias ? ", bias" : "") + ", offset " + std::to_string(offset);
  }
  Shape shape() const { return {rows, n}; }
  Tensor x(DType dtype) const { return values(shape(), dtype, 1, offset - 2, offset + 3); }
};

/// Lengths around those of registers and of teams of threads, and rows around groups of them.
inline std::vector<LayerNormCase> layer_norm_cases() {
  std::vector<LayerNormCase> cases;
  for (const int64_t n : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 256, 1023, 1025, 3000})
    cases.push_back({1 + n % 6, n, n % 3 != 1, n % 2 == 0});
  for (const int64_t rows : {0, 1, 4, 5, 31, 257, 600, 5000}) cases.push_back({rows, 20});
  cases.push_back({3, 0});
  cases.push_back({70, 70, false, false});
  cases.push_back({9, 300, true, true, 4096});
  return cases;
}

}  // namespace flowgrad::testing
