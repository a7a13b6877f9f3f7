#pragma once

#include <string>
#include <vector>

#include "kernels/strided.h"

#include "flowgrad/kernels/backend.h"

/// Convolutions of every kind: what the CPU's and the device's tests run.
namespace flowgrad::testing {

struct ConvCase {
  int64_t images, channels, height, width, outputs, kernel_height, kernel_width;
  kernels::Convolution options;  // stride, padding, dilation, groups

  Shape x() const { return {images, channels, height, width}; }
  Shape weight() const { return {outputs, channels / options.groups, kernel_height, kernel_width}; }
  Shape out() const {
    const auto places = [&](int axis, int64_t size, int64_t kernel) {
      const int64_t reach = options.dilation[axis] * (kernel - 1) + 1;
      return (size + 2 * options.padding[axis] - reach) / options.stride[axis] + 1;
    };
    return {images, outputs, places(0, height, kernel_height), places(1, width, kernel_width)};
  }
  std::string text() const {
    return "x " + x().to_string() + " weight " + weight().to_string() + " stride " +
           options.stride.to_string() + " padding " + options.padding.to_string() + " dilation " +
           options.dilation.to_string() + " groups " + std::to_string(options.groups);
  }
};

inline std::vector<ConvCase> conv_cases() {
  return {
      {1, 1, 1, 1, 1, 1, 1, {1, 0, 1, 1}},
      {2, 3, 9, 7, 5, 3, 2, {1, 1, 1, 1}},
      {2, 3, 17, 19, 20, 7, 7, {2, 3, 1, 1}},
      {3, 5, 8, 8, 7, 3, 3, {2, 1, 1, 1}},
      {2, 2, 11, 9, 3, 2, 2, {3, 0, 1, 1}},   // pixels that no window sees
      {1, 2, 5, 6, 3, 1, 1, {4, 2, 1, 1}},    // the same, and windows of padding alone
      {2, 1, 3, 3, 2, 2, 3, {1, 5, 1, 1}},    // padding beyond the kernel
      {1, 4, 10, 9, 6, 3, 3, {1, 2, 2, 2}},   // dilation, groups
      {2, 6, 9, 12, 6, 3, 3, {2, 1, 1, 6}},   // a filter a channel
      {1, 3, 13, 13, 4, 3, 2, {2, 2, 3, 1}},  // dilation and stride share no factor
      {1, 2, 14, 13, 3, 3, 3, {2, 0, 2, 1}},  // and do share one
      {1, 2, 16, 15, 3, 2, 3, {6, 1, 4, 1}},
      {2, 40, 6, 5, 70, 3, 3, {1, 1, 1, 1}},  // more channels than a panel, k beyond a block
      {1, 300, 3, 4, 33, 1, 2, {1, 0, 1, 1}},
      {1, 3, 40, 1000, 20, 3, 3, {2, 1, 1, 1}},  // several blocks of rows
      {1, 2, 64, 32, 9, 3, 3, {1, 1, 1, 1}},     // planes a power of two apart
      {20, 2, 6, 5, 16, 3, 3, {1, 1, 1, 1}},  // several blocks of whole images, outputs as columns
      {9, 4, 5, 5, 32, 3, 3, {1, 1, 1, 2}},
      {300, 1, 2, 2, 2, 2, 2, {1, 0, 1, 1}},
      {2, 3, 9, 14, 4, 2, 3, {{1, 2}, {0, 2}, {2, 1}, 1}},  // each axis its own
      {2, 4, 13, 8, 6, 3, 2, {{3, 1}, {1, 0}, {2, 3}, 2}},  // and taps that some phases lack
      {3, 5, 1, 37, 6, 1, 5, {{1, 2}, {0, 2}, {1, 1}, 1}},  // sequences
      {1, 2, 30, 1, 17, 4, 1, {{2, 5}, {3, 0}, {1, 4}, 1}},
      {1, 3, 40, 1000, 20, 3, 3, {{1, 2}, {2, 0}, {1, 2}, 1}},
      {1, 1, 4, 200, 2, 2, 2, {{3, 1}, {0, 0}, {1, 1}, 1}},      // long rows, few of a phase
      {1, 1, 3, 2100, 2, 2, 2, {{1, 1999}, {0, 0}, {1, 1}, 1}},  // most phases have no tap
      {0, 2, 4, 4, 3, 2, 2, {1, 0, 1, 1}},                       // nothing of each kind
      {2, 0, 4, 4, 3, 2, 2, {1, 0, 1, 1}},
      {2, 2, 4, 4, 0, 2, 2, {1, 0, 1, 1}},
      {1, 2, 0, 4, 3, 2, 2, {1, 1, 1, 1}},
  };
}

}  // namespace flowgrad::testing
