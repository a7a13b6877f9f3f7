#pragma once

#include "flowgrad/core/tensor.h"

/// Checks and small helpers that the files of operations share.
namespace flowgrad {

/// DeviceError where operands live on different devices.
void check_same_device(const char* op, const Tensor& a, const Tensor& b);
/// ValueError unless low <= high.
void check_ordered(const char* op, double low, double high);

/// x shown with a broadcast shape (stride 0), off the tape: what a kernel reads.
inline Tensor spread(const Tensor& x, const Shape& shape) {
  return x.shape() == shape ? x : x.with_layout(expanded("broadcast", x.layout(), shape));
}

}  // namespace flowgrad
