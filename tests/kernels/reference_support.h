#pragma once

#include <cmath>
#include <vector>

#include "flowgrad/kernels/reference/reference.h"

/// What the tests of the reference backend share.
namespace flowgrad::testing {

inline kernels::Backend& be = kernels::reference_backend();
using V = std::vector<double>;
using I = std::vector<int64_t>;

inline Tensor vec(const V& v, DType dtype = DType::float64) {
  return Tensor::from(v, {static_cast<int64_t>(v.size())}, dtype);
}

/// Equal, a NaN to a NaN.
inline bool same(const V& a, const V& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) return false;
  }
  return true;
}

}  // namespace flowgrad::testing
