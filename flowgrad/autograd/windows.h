#pragma once

#include "flowgrad/autograd/support.h"

/// What convolution and pooling share: windows over the rows and columns of images (N, C, H, W).
namespace flowgrad {

struct Window {
  Size2d size, stride = 1, padding = 0, dilation = 1;
};

/// ShapeError unless x is images, DTypeError unless of floating point.
void check_images(const char* op, const Tensor& x);
/// ShapeError unless the images have an element.
void check_not_empty(const char* op, const Tensor& x);
/// ValueError naming the argument where one of its two numbers is below `low`, or beyond 2^24: no
/// sum of some of these overflows, on a device either.
void check_at_least(const char* op, const char* argument, Size2d given, int64_t low);
/// Number of places of the window along both axes; ShapeError where it does not fit. Where it has
/// one place the stride, which is nothing then, becomes 1.
Size2d fit_window(const char* op, const Tensor& x, Window& w);
/// A view (N, C, window height, window width, height, width) of the padded images: what a window
/// that fits shows at every place, without a copy.
Tensor windows(const Tensor& x, const Window& w, Size2d places);

}  // namespace flowgrad
