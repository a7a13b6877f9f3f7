#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/gpu.cuh"

namespace flowgrad::kernels {

void CudaBackend::unary(UnaryOp, Params, View, View) { throw Error("unary: no CUDA kernel"); }
void CudaBackend::unary_grad(UnaryOp, Params, View, View, View, View) {
  throw Error("unary_grad: no CUDA kernel");
}
void CudaBackend::binary(BinaryOp, View, View, View) { throw Error("binary: no CUDA kernel"); }
void CudaBackend::binary_grad(BinaryOp, int, View, View, View, View, View) {
  throw Error("binary_grad: no CUDA kernel");
}
void CudaBackend::compare(CompareOp, View, View, View) { throw Error("compare: no CUDA kernel"); }
void CudaBackend::predicate(PredicateOp, View, View) { throw Error("predicate: no CUDA kernel"); }
void CudaBackend::logical(LogicalOp, View, View, View) { throw Error("logical: no CUDA kernel"); }
void CudaBackend::where(View, View, View, View) { throw Error("where: no CUDA kernel"); }

}  // namespace flowgrad::kernels
