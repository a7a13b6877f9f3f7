#pragma once

#include "flowgrad/core/tensor.h"

/// What the files of linear algebra share; not for users.
namespace flowgrad::linalg {

/// ShapeError unless a is (..., N, N), DTypeError unless it is float32 or float64.
void check_square(const char* op, const Tensor& a);

/// PA = LU in one matrix, row numbers of P and its determinant; off the tape.
struct Factors {
  Tensor lu, pivots, sign;
};
Factors factor(const Tensor& a);

/// The diagonal of the last two axes as a view, off the tape.
Tensor diagonal_of(const Tensor& a);

/// ValueError naming the first batch entry of U with a zero on its diagonal.
void check_invertible(const char* op, const Tensor& u);

/// The inverse, recorded and reported under the name of the operation that needs it.
Tensor inverse_for(const char* op, const Tensor& a);

/// x with two axes of size 1 appended: a number per matrix beside the matrices.
Tensor beside_matrices(const Tensor& x);

}  // namespace flowgrad::linalg
