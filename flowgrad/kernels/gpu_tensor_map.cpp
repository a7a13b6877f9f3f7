#include "flowgrad/kernels/gpu_tensor_map.h"

#include <string>

#include "flowgrad/core/error.h"

namespace flowgrad::gpu::detail {

unsigned check_tensor_map(const void* data, TensorElement element, std::uint64_t row_bytes,
                          unsigned box_rows, unsigned box_columns, Swizzle swizzle) {
  const unsigned size = element == TensorElement::bfloat16 ? 2 : 4;
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw ValueError("make_tensor_map: " + what);
  };
  require(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "data: must be aligned to 16 bytes");
  require(row_bytes % 16 == 0,
          "row_bytes: " + std::to_string(row_bytes) + " given; a multiple of 16 is needed");
  require(box_rows >= 1 && box_rows <= 256 && box_columns >= 1 && box_columns <= 256,
          "box: " + std::to_string(box_rows) + " x " + std::to_string(box_columns) +
              " given; 1 to 256 each are accepted");
  const unsigned bytes = box_columns * size;
  require(bytes % 16 == 0, "box_columns: a row of the box must be a multiple of 16 bytes, not " +
                               std::to_string(bytes));
  const unsigned swizzled = swizzle_bytes(swizzle);
  require(swizzled == 0 || bytes == swizzled,
          "box_columns: with this swizzle a row of the box has " + std::to_string(swizzled) +
              " bytes, not " + std::to_string(bytes));
  return size;
}

}  // namespace flowgrad::gpu::detail
