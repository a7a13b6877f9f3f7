#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "kernels/strided.h"

#include "flowgrad/kernels/reference/reference.h"

/// Windows of every kind: what the CPU's and the device's tests run.
namespace flowgrad::testing {

struct PoolCase {
  int64_t images, channels, height, width;
  kernels::Pooling options;  // kernel, stride, padding, whether that counts
  Size2d windows = 0;        // of an axis whose kernel is 0

  Shape x() const { return {images, channels, height, width}; }
  Shape out() const {
    const auto places = [&](int64_t size, int axis) {
      if (options.kernel[axis] == 0) return windows[axis];
      return (size + 2 * options.padding[axis] - options.kernel[axis]) / options.stride[axis] + 1;
    };
    return {images, channels, places(height, 0), places(width, 1)};
  }
  std::string text() const {
    return "x " + x().to_string() + " kernel " + options.kernel.to_string() + " stride " +
           options.stride.to_string() + " padding " + options.padding.to_string() +
           (options.counts_padding ? "" : " not counted") + " windows " + windows.to_string();
  }
};

inline std::vector<PoolCase> pool_cases() {
  return {
      {1, 1, 1, 1, {{1, 1}, {1, 1}, {0, 0}}},
      {2, 3, 8, 6, {{2, 2}, {2, 2}, {0, 0}}},
      {2, 3, 9, 7, {{2, 2}, {2, 2}, {0, 0}}},    // a row and a column that no window sees
      {2, 3, 9, 11, {{3, 3}, {2, 2}, {1, 1}}},   // overlapping windows
      {1, 2, 12, 13, {{2, 3}, {5, 4}, {0, 0}}},  // rows between the windows
      {3, 1, 7, 40, {{4, 5}, {1, 2}, {2, 0}}},   // windows that see one row
      {1, 2, 5, 5, {{5, 1}, {1, 3}, {2, 0}}},
      {2, 2, 6, 6, {{3, 6}, {3, 6}, {0, 0}}},
      {0, 2, 6, 6, {{2, 2}, {2, 2}, {0, 0}}},
      {2, 3, 9, 11, {{3, 3}, {2, 2}, {1, 1}, false}},
      {1, 2, 7, 40, {{4, 5}, {1, 2}, {2, 1}, false}},
      {1, 1, 3, 2, {{9, 6}, {1, 1}, {4, 3}, false}},    // windows beyond the image on all sides
      {1, 2, 3, 2, {{20, 15}, {1, 2}, {10, 7}}},        // and of more taps than are kept apart
      {40, 9, 20, 15, {{3, 2}, {2, 1}, {1, 1}}},        // more than one thread's part
      {2, 3, 7, 10, {{0, 0}, {0, 0}, {0, 0}}, {3, 4}},  // windows that share an edge
      {1, 2, 3, 2, {{0, 0}, {0, 0}, {0, 0}}, {5, 7}},   // more windows than places
      {2, 1, 12, 9, {{0, 3}, {0, 3}, {0, 0}}, {5, 0}},
      {2, 1, 12, 9, {{3, 0}, {2, 0}, {1, 0}}, {0, 4}},
      {30, 9, 23, 17, {{0, 0}, {0, 0}, {0, 0}}, {7, 7}},
  };
}

/// Few different values, a NaN now and then, and stretches of the least of all: windows whose
/// largest element is one of several.
inline Tensor crowded(const Shape& shape, DType dtype) {
  std::vector<double> v = values(shape, dtype, 3).to_vector<double>();
  for (size_t i = 0; i < v.size(); ++i) {
    if (i / 40 % 3 == 0)
      v[i] = -HUGE_VAL;
    else
      v[i] = v[i] > 1.9 ? std::nan("") : std::round(v[i]);
  }
  return Tensor::from(v, shape, dtype);
}

/// Where the windows of a case have the largest of crowded elements.
inline Tensor places_of_largest(const PoolCase& c) {
  const Tensor out = Tensor::empty(c.out()), index = Tensor::empty(c.out(), DType::int64);
  kernels::reference_backend().max_pool2d(c.options, crowded(c.x(), DType::float32), out, index);
  return index;
}

}  // namespace flowgrad::testing
