#pragma once

#include "flowgrad/kernels/backend.h"

/// How CudaBackend::matmul chooses among its kernels. The depth K is cut into chunks whose length
/// depends on K alone. Every kernel adds the products of a chunk in order, then the sums of the
/// chunks in order, then the bias, then the old value. So the choice never changes a bit of the
/// result, and neither does the number of rows.
namespace flowgrad::kernels::cuda {

enum class MatmulKernel : uint8_t {
  element,  // one thread for each element of out: tiny matrices in any number
  narrow,   // tiles of 128 x 16: few columns
  wide,     // tiles of 16 x 128: few rows
  medium,   // tiles of 64 x 64
  large     // tiles of 128 x 128 (float64: as medium)
};

struct MatmulPlan {
  MatmulKernel kernel = MatmulKernel::element;
  /// Chunks go to blocks of their own, and a second kernel adds them up.
  bool split = false;
  /// Batch entries of one launch: the most that a grid has room for.
  int64_t entries = 65535;
};

/// Elements of K that are summed before they join a total: short chunks keep the error of a sum of
/// float32 small, and at most 32 of them keep the memory of a split product small.
int matmul_chunk(int64_t k);

MatmulPlan plan_matmul(DType dtype, int64_t batch, int64_t m, int64_t n, int64_t k);

/// Products below either are never rounded; see precision.h.
constexpr int64_t kLeastRoundedColumns = 32, kLeastRoundedDepth = 32;

/// As Backend::matmul where the process asked for a lower precision (precision.h) and a kernel of
/// the ladder has it for these sizes on this device; false where not, and nothing is done.
bool multiply_rounded(View a, View b, View bias, bool accumulate, View out);

/// As Backend::matmul in full precision; plan nullptr means plan_matmul's.
void matmul(const MatmulPlan* plan, View a, View b, View bias, bool accumulate, View out);

}  // namespace flowgrad::kernels::cuda
