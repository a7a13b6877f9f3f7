#pragma once

#include <cstddef>
#include <cstdint>

/// Descriptions of matrices for the copy engine of sm_90 (TMA); made on the host, passed to kernels
/// as `const __grid_constant__ gpu::TensorMap`.
namespace flowgrad::gpu {

enum class TensorElement : std::uint8_t { bfloat16, float32 };

/// With bytes64 and bytes128 a row of the box has that many bytes, and boxes start at multiples of
/// 1024 bytes. 16-byte piece c of row r lands at c ^ (r % 8) with bytes128, as wgmma wants it, and
/// at c ^ (r / 2 % 4) with bytes64. Either way piece c of eight rows, the first a multiple of
/// eight, lies in eight different groups of banks.
enum class Swizzle : std::uint8_t { none, bytes64, bytes128 };

struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

/// A row-major matrix in device memory that is copied in boxes. Raises ValueError for what the
/// engine does not take: data and row_bytes must be multiples of 16, a box at most 256 x 256
/// elements and its rows a multiple of 16 bytes.
TensorMap make_tensor_map(const void* data, TensorElement element, std::uint64_t rows,
                          std::uint64_t columns, std::uint64_t row_bytes, unsigned box_rows,
                          unsigned box_columns, Swizzle swizzle);

namespace detail {
/// Of a row of the box; 0 without swizzle.
constexpr unsigned swizzle_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 0 : swizzle == Swizzle::bytes64 ? 64 : 128;
}
/// The checks of make_tensor_map; returns the bytes of an element.
unsigned check_tensor_map(const void* data, TensorElement element, std::uint64_t row_bytes,
                          unsigned box_rows, unsigned box_columns, Swizzle swizzle);
}  // namespace detail

}  // namespace flowgrad::gpu
