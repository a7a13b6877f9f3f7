#include "flowgrad/core/tensor_bytes.h"

#include <algorithm>
#include <cstring>

#include "flowgrad/core/device_memory.h"

namespace flowgrad {
namespace {

template <size_t kSize>
void gather(const Layout& l, const std::byte* base, std::byte* out) {
  // The innermost axis is a plain loop; the outer ones count like an odometer.
  const int last = l.rank() - 1;
  const int64_t n = l.shape[last];
  const int64_t step = l.strides[last] * static_cast<int64_t>(kSize);
  const int64_t rows = numel(l.shape) / n;
  Dims index = Dims::filled(l.rank(), 0);
  int64_t offset = l.offset;
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* in = base + offset * static_cast<int64_t>(kSize);
    for (int64_t i = 0; i < n; ++i, out += kSize) std::memcpy(out, in + i * step, kSize);
    for (int d = last - 1; d >= 0; --d) {
      offset += l.strides[d];
      if (++index[d] < l.shape[d]) break;
      offset -= l.strides[d] * l.shape[d];
      index[d] = 0;
    }
  }
}

}  // namespace

HostElements::HostElements(const Tensor& t)
    : layout_(t.layout()), base_(static_cast<const std::byte*>(t.storage().data())) {
  if (t.device().is_cpu()) return;
  const Extent e = extent_of(layout_);
  const size_t item = size_of(t.dtype());
  copy_.resize(static_cast<size_t>(e.end - e.begin) * item);
  if (!copy_.empty()) {
    device_memory(t.device().kind)
        .copy_out(copy_.data(), base_ + static_cast<size_t>(e.begin) * item, copy_.size());
  }
  layout_.offset -= e.begin;
  base_ = copy_.data();
}

TensorBytes::TensorBytes(const Tensor& t) : tensor_(t), elements_(t) {
  const size_t item = size_of(t.dtype());
  const size_t bytes = static_cast<size_t>(t.numel()) * item;
  const Layout& layout = elements_.layout();
  const std::byte* base = elements_.base();
  if (bytes == 0) return;
  if (t.is_contiguous()) {
    span_ = {base + static_cast<size_t>(layout.offset) * item, bytes};
    return;
  }
  copy_.resize(bytes);
  switch (item) {
    case 1: gather<1>(layout, base, copy_.data()); break;
    case 2: gather<2>(layout, base, copy_.data()); break;
    case 4: gather<4>(layout, base, copy_.data()); break;
    default: gather<8>(layout, base, copy_.data()); break;
  }
  span_ = copy_;
}

void copy_to_host(const Tensor& from, void* to) {
  const size_t bytes = static_cast<size_t>(from.numel()) * size_of(from.dtype());
  if (bytes == 0) return;
  if (from.device().is_cpu()) {
    std::memcpy(to, from.raw(), bytes);
  } else {
    device_memory(from.device().kind).copy_out(to, from.raw(), bytes);
  }
}

void copy_from_host(const void* from, const Tensor& to) {
  const size_t bytes = static_cast<size_t>(to.numel()) * size_of(to.dtype());
  if (bytes == 0) return;
  if (to.device().is_cpu()) {
    std::memcpy(to.raw(), from, bytes);
  } else {
    device_memory(to.device().kind).copy_in(to.raw(), from, bytes);
  }
}

std::span<std::byte> writable_bytes(const Tensor& t) {
  return {static_cast<std::byte*>(t.raw()), static_cast<size_t>(t.numel()) * size_of(t.dtype())};
}

std::optional<size_t> first_bad_bool(std::span<const std::byte> bytes) {
  const auto bad =
      std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b > std::byte{1}; });
  if (bad == bytes.end()) return std::nullopt;
  return static_cast<size_t>(bad - bytes.begin());
}

}  // namespace flowgrad
