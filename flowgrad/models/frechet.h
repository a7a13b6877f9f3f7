#pragma once

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Frechet distance of two samples of features (N, F) and (M, F), each taken as a normal
/// distribution (Heusel et al. 2017): |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with unbiased
/// covariances. Off the tape, on the host in float64; O(F^3), up to a few hundred features.
/// ShapeError unless both are matrices of one width with at least two rows.
double frechet_distance(const Tensor& a, const Tensor& b);

struct SymmetricEigen {
  Tensor values;   // (N), rising
  Tensor vectors;  // (N, N): column i belongs to value i
};
/// Eigenvalues and orthonormal eigenvectors of a symmetric matrix (N, N) by cyclic Jacobi rotations
/// (Golub & Van Loan 2013, 8.5), in float64 on the host, off the tape. Only the lower triangle is
/// read. ShapeError unless square, ValueError for values that are not finite.
SymmetricEigen symmetric_eigen(const Tensor& a);

}  // namespace flowgrad
