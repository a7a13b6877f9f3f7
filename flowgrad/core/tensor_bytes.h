#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// The bytes of a CPU tensor in row-major order: the tensor's own where it is contiguous, else a
/// copy. Valid while both this object and the tensor's storage live.
class TensorBytes {
 public:
  explicit TensorBytes(const Tensor& t);
  TensorBytes(TensorBytes&&) = default;  // a moved vector keeps its block, so the span stays valid
  TensorBytes& operator=(TensorBytes&&) = default;
  std::span<const std::byte> span() const { return span_; }

 private:
  std::vector<std::byte> copy_;
  std::span<const std::byte> span_;
};

/// The bytes of a contiguous CPU tensor, to be filled.
std::span<std::byte> writable_bytes(const Tensor& t);

/// Index of the first byte that is neither 0 nor 1, which no bool may hold.
std::optional<size_t> first_bad_bool(std::span<const std::byte> bytes);

}  // namespace flowgrad
