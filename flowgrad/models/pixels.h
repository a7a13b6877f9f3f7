#pragma once

#include "flowgrad/models/flow.h"

/// From pixels, which are integers, to data with a density, and back to the likelihood of pixels.
namespace flowgrad {

/// Uniform dequantization (Theis et al. 2016): (x + u) / levels with u ~ U[0, 1) for integers x in
/// {0 .. levels - 1}, any shape and floating dtype; the result is in [0, 1), and 1 - epsilon / 2
/// where rounding would give 1. ValueError for levels below 1 or a value that is no such integer.
Tensor dequantize(const Tensor& x, Generator& generator, int64_t levels = 256);

/// y = logit(alpha + (1 - 2 alpha) x) for rows x (N, D) in [0, 1] (Dinh et al. 2017), which spreads
/// what dequantize gives over the real line. ValueError for alpha outside (0, 0.5).
Transformed to_logits(const Tensor& x, double alpha = 0.05);
/// Its inverse, (sigmoid(y) - alpha) / (1 - 2 alpha).
Transformed from_logits(const Tensor& y, double alpha = 0.05);

/// Bits per dimension of integer pixels, elementwise: (log2(levels) - log_prob / (D ln 2)) for the
/// log-density (N) of dequantized rows (N, dim) in [0, 1); with to_logits in between log_prob is
/// log p(y) + log_det. In expectation an upper bound of the bits that the pixels themselves cost.
Tensor bits_per_dimension(const Tensor& log_prob, int64_t dim, int64_t levels = 256);

}  // namespace flowgrad
