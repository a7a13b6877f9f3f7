#pragma once

#include "backend_support.cuh"
#include "flowgrad/kernels/cuda/strided.cuh"

/// Sizes and layouts at which elementwise kernels change their ways.
namespace flowgrad::test {

inline const std::vector<int64_t> kSizes{0,  1,  2,   3,   7,   8,    9,    31,
                                         32, 33, 255, 256, 257, 1025, 65537};

/// A contiguous tensor that starts `offset` elements into its storage.
inline Tensor shifted(const Tensor& t, int64_t offset) {
  const size_t width = size_of(t.dtype());
  const auto n = static_cast<size_t>(t.numel());
  auto storage = make_ref<Storage>((n + static_cast<size_t>(offset)) * width, Device::cpu());
  std::memset(storage->data(), 0x55, storage->bytes());
  if (n > 0) {
    std::memcpy(static_cast<char*>(storage->data()) + static_cast<size_t>(offset) * width,
                t.storage().data(), n * width);
  }
  return Tensor::over(storage, {t.shape(), t.strides(), offset}, t.dtype());
}

/// Rows of a contiguous tensor moved apart by `gap` elements: contiguous rows, aligned or not.
inline Tensor with_gaps(const Tensor& t, int64_t gap) {
  const int last = t.rank() - 1;
  Layout wide = t.layout();
  Shape shape = t.shape();
  shape[last] += gap;
  wide.strides = contiguous_layout(shape).strides;
  const Tensor out = testing::values(shape, t.dtype(), 99).with_layout(wide);
  const size_t width = size_of(t.dtype());
  const auto row = static_cast<size_t>(t.shape()[last]) * width;
  const auto n = static_cast<size_t>(t.numel()) * width;
  for (size_t i = 0; i * row < n; ++i) {
    std::memcpy(
        static_cast<char*>(out.storage().data()) + i * (row + static_cast<size_t>(gap) * width),
        static_cast<const char*>(t.storage().data()) + i * row, row);
  }
  return out;
}

/// Lets a launch take `limit` elements only, so that small tensors are cut as huge ones are.
struct SmallLaunches {
  int64_t before = kernels::loops::launch_limit();
  explicit SmallLaunches(int64_t limit) { kernels::loops::launch_limit() = limit; }
  ~SmallLaunches() { kernels::loops::launch_limit() = before; }
};

/// Lets a launch have `limit` blocks only, so that kernels must loop.
struct FewBlocks {
  unsigned before = kernels::loops::grid_limit();
  explicit FewBlocks(unsigned limit) { kernels::loops::grid_limit() = limit; }
  ~FewBlocks() { kernels::loops::grid_limit() = before; }
};

}  // namespace flowgrad::test
