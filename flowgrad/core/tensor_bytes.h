#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// A tensor's elements where the host can read them: in its own storage on the CPU, else in a copy
/// of the bytes from its first to its last element. Valid while this object and the storage live.
class HostElements {
 public:
  explicit HostElements(const Tensor& t);
  HostElements(HostElements&&) = default;  // a moved vector keeps its block
  HostElements& operator=(HostElements&&) = default;
  /// Where the elements lie relative to `base`.
  const Layout& layout() const { return layout_; }
  const std::byte* base() const { return base_; }

 private:
  Layout layout_;
  std::vector<std::byte> copy_;
  const std::byte* base_;
};

/// The bytes of a tensor in row-major order, in host memory: the tensor's own where it is a
/// contiguous one on the CPU, whose storage this keeps alive, else a copy.
class TensorBytes {
 public:
  explicit TensorBytes(const Tensor& t);
  TensorBytes(TensorBytes&&) = default;  // a moved vector keeps its block, so the span stays valid
  TensorBytes& operator=(TensorBytes&&) = default;
  std::span<const std::byte> span() const { return span_; }

 private:
  Tensor tensor_;
  HostElements elements_;
  std::vector<std::byte> copy_;
  std::span<const std::byte> span_;
};

/// Copies between a contiguous tensor and as many bytes on the host, whatever the tensor's device.
void copy_to_host(const Tensor& from, void* to);
void copy_from_host(const void* from, const Tensor& to);

/// The bytes of a contiguous CPU tensor, to be filled.
std::span<std::byte> writable_bytes(const Tensor& t);

/// Index of the first byte that is neither 0 nor 1, which no bool may hold.
std::optional<size_t> first_bad_bool(std::span<const std::byte> bytes);

}  // namespace flowgrad
