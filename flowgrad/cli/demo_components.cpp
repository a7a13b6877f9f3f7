#include <algorithm>
#include <numeric>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/demo.h"

namespace flowgrad::cli {

Tensor PrincipalComponents::encode(const Tensor& images) const {
  return matmul(images - mean, basis);
}

Tensor PrincipalComponents::decode(const Tensor& coefficients) const {
  return matmul(coefficients, transpose(basis)) + mean;
}

PrincipalComponents principal_components(const ImageSet& set, int64_t rows, int64_t k,
                                         Generator& generator, Device device) {
  NoGrad off;
  std::vector<int64_t> first(static_cast<size_t>(std::min(rows, set.size())));
  std::iota(first.begin(), first.end(), int64_t{0});
  const Tensor images = to(set.images(first), device);
  PrincipalComponents out;
  out.mean = mean(images, {0});
  const Tensor centred = images - out.mean;
  const Tensor covariance =
      cast(matmul(transpose(centred), centred), DType::float64) / static_cast<double>(first.size());
  Tensor basis = randn({set.kPixels, k}, generator, DType::float64, device);
  constexpr int kIterations = 12;
  for (int i = 0; i < kIterations; ++i) {
    // Columns made orthonormal by Cholesky's factor of their products: Y = Q L^T where Y^T Y = L
    // L^T.
    const Tensor y = matmul(covariance, basis);
    basis = transpose(triangular_solve(cholesky(matmul(transpose(y), y)), transpose(y), false));
  }
  basis = contiguous(basis);
  out.share = (sum(basis * matmul(covariance, basis)) / sum(diag(covariance))).item();
  out.basis = cast(basis, DType::float32);
  return out;
}

}  // namespace flowgrad::cli
