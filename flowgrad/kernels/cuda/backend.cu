#include "flowgrad/kernels/cuda/backend.h"

namespace flowgrad::kernels {

Backend& cuda_backend() {
  static CudaBackend instance;
  return instance;
}

}  // namespace flowgrad::kernels
