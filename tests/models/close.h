#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/tensor.h"

namespace flowgrad::testing {

/// Largest |got - want|, relative to max(1, largest |want|); infinite for NaN or another shape.
inline double distance(const Tensor& got, const Tensor& want) {
  if (got.shape() != want.shape()) return std::numeric_limits<double>::infinity();
  const auto a = got.to_vector<double>();
  const auto b = want.to_vector<double>();
  double worst = 0;
  double scale = 1;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(worst, d);
    scale = std::max(scale, std::abs(b[i]));
  }
  return worst / scale;
}

/// A kernel's results and derivatives against those of its twin of plain operations.
inline void agree(const std::vector<Tensor>& got, const std::vector<Tensor>& want) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    INFO("tensor " << i);
    CHECK(got[i].shape() == want[i].shape());
    CHECK(distance(got[i], want[i]) < (got[i].dtype() == DType::float32 ? 1e-5 : 1e-12));
  }
}

}  // namespace flowgrad::testing
