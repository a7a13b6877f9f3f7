#pragma once

#include <limits>

#include "flowgrad/kernels/backend.h"

namespace flowgrad::kernels {

/// A SamplerStage in the element type of a solve, and what it does to one number of x.
template <class T>
struct SamplerMove {
  T sum_v, x_x, x_y, x_sum, x_v, x_clean, clean_x, clean_v, clip, x_noise;
  int64_t noise;
  bool commit;

  explicit SamplerMove(const SamplerStage& s)
      : sum_v(static_cast<T>(s.sum_v)),
        x_x(static_cast<T>(s.x_x)),
        x_y(static_cast<T>(s.x_y)),
        x_sum(static_cast<T>(s.x_sum)),
        x_v(static_cast<T>(s.x_v)),
        x_clean(static_cast<T>(s.x_clean)),
        clean_x(static_cast<T>(s.clean_x)),
        clean_v(static_cast<T>(s.clean_v)),
        clip(s.clip > 0 ? static_cast<T>(s.clip) : std::numeric_limits<T>::infinity()),
        x_noise(static_cast<T>(s.x_noise)),
        noise(s.noise),
        commit(s.commit) {}

  /// From the network's value v and unit noise z (read where x_noise is not 0).
  FLOWGRAD_HOST_DEVICE void apply(T v, const T& z, T& x, T& y, T& sum) const {
    const T total = sum + sum_v * v;
    T next = x_x * x + x_y * y + x_sum * total + x_v * v;
    if (x_clean != T(0)) {
      const T clean = clean_x * x + clean_v * v;
      // As scalar::max and min: NaN stays.
      const T below = clean > clip ? clip : clean;
      next += x_clean * (below < -clip ? -clip : below);
    }
    if (x_noise != T(0)) next += x_noise * z;
    x = next;
    sum = commit ? T(0) : total;
    if (commit) y = next;
  }
};

}  // namespace flowgrad::kernels
