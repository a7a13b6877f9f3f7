// Tensor maps made by the driver. Only the CUDA build compiles this file.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>
#include <string>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/gpu_tensor_map.h"

namespace flowgrad::gpu {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

TensorMap make_tensor_map(const void* data, TensorElement element, std::uint64_t rows,
                          std::uint64_t columns, std::uint64_t row_bytes, unsigned box_rows,
                          unsigned box_columns, Swizzle swizzle) {
  detail::check_tensor_map(data, element, row_bytes, box_rows, box_columns, swizzle);
  // Asked for by name, so that no program has to link the driver's library.
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    throw DeviceError("make_tensor_map: the driver has no cuTensorMapEncodeTiled");
  }
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  const cuuint64_t sizes[] = {columns, rows};
  const cuuint64_t strides[] = {row_bytes};
  const cuuint32_t box[] = {box_columns, box_rows};
  const cuuint32_t steps[] = {1, 1};
  const CUtensorMapSwizzle pattern = swizzle == Swizzle::bytes128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : swizzle == Swizzle::bytes64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                   : CU_TENSOR_MAP_SWIZZLE_NONE;
  CUtensorMap native;
  const CUresult result =
      encode(&native,
             element == TensorElement::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
             2, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             pattern, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError("make_tensor_map: cuTensorMapEncodeTiled failed with code " +
                      std::to_string(static_cast<int>(result)));
  }
  TensorMap map;
  std::memcpy(&map, &native, sizeof map);
  return map;
}

}  // namespace flowgrad::gpu
