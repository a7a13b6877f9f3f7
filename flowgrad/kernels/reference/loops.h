#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/checks.h"

/// What every reference kernel needs: walking strided views, lanes along an axis.
namespace flowgrad::kernels::reference {

/// Calls f(offset, ...) for every element of shape in row-major order, one offset for each of the
/// strides, counted in elements.
template <class F, class... S>
void for_each(const Shape& shape, F&& f, const S&... strides) {
  constexpr size_t n = sizeof...(S);
  if (numel(shape) == 0) return;
  const int rank = shape.rank();
  const std::array<const Strides*, n> all{&strides...};
  std::array<int64_t, n> start{};
  std::array<int64_t, n> step{};
  const int64_t inner = rank == 0 ? 1 : shape.back();
  for (size_t k = 0; k < n; ++k) step[k] = rank == 0 ? 0 : all[k]->back();
  Dims index = Dims::filled(rank, 0);
  const bool unit_steps = std::all_of(step.begin(), step.end(), [](int64_t s) { return s == 1; });
  while (true) {
    std::array<int64_t, n> at = start;
    if (unit_steps) {  // known steps: a loop that the compiler can make fast
      for (int64_t i = 0; i < inner; ++i) std::apply([&](auto... from) { f(from + i...); }, start);
    } else {
      for (int64_t i = 0; i < inner; ++i) {
        std::apply(f, at);
        for (size_t k = 0; k < n; ++k) at[k] += step[k];
      }
    }
    int d = rank - 2;
    for (; d >= 0; --d) {
      for (size_t k = 0; k < n; ++k) start[k] += (*all[k])[d];
      if (++index[d] < shape[d]) break;
      for (size_t k = 0; k < n; ++k) start[k] -= (*all[k])[d] * shape[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

/// Size and stride along axis; a scalar has one lane of one element.
inline int64_t size_along(const View& v, int axis) { return v.rank() == 0 ? 1 : (*v.shape)[axis]; }
inline int64_t stride_along(const View& v, int axis) {
  return v.rank() == 0 ? 0 : (*v.strides)[axis];
}

/// As for_each, for the first element of every lane along axis.
template <class F, class... S>
void for_each_lane(const Shape& shape, int axis, F&& f, const S&... strides) {
  Shape heads = shape;
  if (shape.rank() > 0 && shape[axis] > 0) heads[axis] = 1;
  for_each(heads, f, strides...);
}

/// `strides` with 0 along axis: the place of an element but for its position on that axis.
inline Strides without_axis(const View& v, int axis) {
  Strides s = *v.strides;
  if (s.rank() > 0) s[axis] = 0;
  return s;
}

/// float and double accumulate in double, integers in themselves.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, float>, double, T>;

}  // namespace flowgrad::kernels::reference
