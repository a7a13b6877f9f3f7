#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"
#include "flowgrad/core/tensor_bytes.h"

/// Tensors with awkward layouts, made without any kernel, on the device of what they are made from.
namespace flowgrad::testing {

/// A small source of integers for tests.
class Dice {
 public:
  explicit Dice(uint64_t seed) : seed_(seed) {}
  /// An integer in [low, high].
  int64_t roll(int64_t low, int64_t high) {
    const uint32_t word = Philox::block(seed_, 0, count_++)[0];
    return low + static_cast<int64_t>(word % static_cast<uint64_t>(high - low + 1));
  }
  /// A value in [low, high).
  double real(double low, double high) {
    const auto w = Philox::block(seed_, 1, count_++);
    return low + (high - low) * uniform53(w[0], w[1]);
  }

 private:
  uint64_t seed_;
  uint64_t count_ = 0;
};

/// Calls f(offset) for every element of a layout in row-major order, by division: slow and obvious.
template <class F>
void each_offset(const Layout& l, F&& f) {
  const int64_t n = numel(l.shape);
  for (int64_t i = 0; i < n; ++i) {
    int64_t rest = i;
    int64_t offset = l.offset;
    for (int d = l.rank() - 1; d >= 0; --d) {
      offset += rest % l.shape[d] * l.strides[d];
      rest /= l.shape[d];
    }
    f(offset);
  }
}

/// The same values under a layout with permuted axes, gaps, and some axes stored backwards; never
/// contiguous where it has more than one element.
inline Tensor strided(const Tensor& t, uint64_t seed) {
  Dice dice(seed);
  const int rank = t.rank();
  std::vector<int> order;
  for (int i = 0; i < rank; ++i) order.insert(order.begin() + dice.roll(0, i), i);
  Layout l{t.shape(), Dims::filled(rank, 0), 0};
  int64_t span = 1;
  int64_t origin = dice.roll(0, 3);
  for (int axis : order) {
    const int64_t step = span * dice.roll(1, 2);
    const int64_t size = t.shape()[axis] > 0 ? t.shape()[axis] : 1;
    const bool backwards = dice.roll(0, 2) == 0;
    l.strides[axis] = backwards ? -step : step;
    if (backwards) origin += (size - 1) * step;
    span = step * size;
  }
  if (l.is_contiguous() && numel(l.shape) > 1)
    for (int64_t& stride : l.strides) stride *= 2;
  l.offset = origin;
  int64_t total = origin + 1;
  for (int axis = 0; axis < rank; ++axis) {
    if (l.strides[axis] > 0 && t.shape()[axis] > 0)
      total += (t.shape()[axis] - 1) * l.strides[axis];
  }
  const size_t width = size_of(t.dtype());
  std::vector<std::byte> bytes(static_cast<size_t>(total) * width, std::byte{0x55});
  const TensorBytes from(t);
  size_t i = 0;
  each_offset(l, [&](int64_t o) {
    std::memcpy(bytes.data() + static_cast<size_t>(o) * width, from.span().data() + width * i++,
                width);
  });
  const Tensor flat = Tensor::empty({total}, t.dtype(), t.device());
  copy_from_host(bytes.data(), flat);
  return Tensor::over(flat.storage_ref(), l, t.dtype());
}

/// Values in [low, high) in a contiguous tensor.
inline Tensor values(const Shape& shape, DType dtype, uint64_t seed, double low = -2,
                     double high = 2, Device device = Device::cpu()) {
  Dice dice(seed);
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (double& x : v) x = dice.real(low, high);
  return Tensor::from(v, shape, dtype, device);
}

/// An index tensor with entries below `size`.
inline Tensor indices_below(const Shape& shape, int64_t size, uint64_t seed) {
  Dice dice(seed);
  std::vector<int64_t> v(static_cast<size_t>(numel(shape)));
  for (int64_t& i : v) i = dice.roll(0, size - 1);
  return Tensor::from(v, shape);
}

}  // namespace flowgrad::testing
