// float32 products by the ladder's matrix-unit kernels, where the process asked for tf32 or bf16.
#include <algorithm>
#include <optional>

#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/ladder/ladder.h"
#include "flowgrad/kernels/cuda/matmul.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/precision.h"

namespace flowgrad::kernels::cuda {

namespace {

constexpr int64_t kMost = INT32_MAX - 128;  // room to round up to a tile

/// The fastest rung of this precision that runs here, or null.
const LadderRung* rung_of(MatmulPrecision precision) {
  static const gpu::DeviceInfo device = gpu::device_info(0);
  const LadderRung* found = nullptr;
  const auto offer = [&](LadderFunction function) {
    for (const LadderRung& rung : matmul_ladder()) {
      if (rung.run == function && rung.runs_on(device)) found = &rung;
    }
  };
  offer(precision == MatmulPrecision::tf32 ? ladder::tf32 : ladder::bf16);
  offer(precision == MatmulPrecision::tf32 ? ladder::wgmma_tf32 : ladder::wgmma_bf16);
  return found;
}

/// One product of a batch: a matrix of a view with batch axes.
struct Matrix {
  Shape shape;
  Strides strides;
  View view;

  Matrix(const View& v, int64_t entry) {
    const int rank = v.rank();
    int64_t offset = 0;
    for (int d = rank - 3; d >= 0; --d) {
      offset += entry % (*v.shape)[d] * (*v.strides)[d];
      entry /= (*v.shape)[d];
    }
    shape = {(*v.shape)[rank - 2], (*v.shape)[rank - 1]};
    strides = {(*v.strides)[rank - 2], (*v.strides)[rank - 1]};
    view.data = v.as<float>() + offset;
    view.shape = &shape;
    view.strides = &strides;
    view.dtype = v.dtype;
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  bool is_plain() const {
    return view.is_contiguous() && reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  }
};

/// The matrix itself where it lies as the rungs read it, else a copy in scratch memory.
const float* plain(const Matrix& m, std::optional<Scratch>& memory) {
  if (m.is_plain()) return m.view.as<const float>();
  memory.emplace(static_cast<std::size_t>(m.view.numel()) * sizeof(float));
  const Strides dense = contiguous_layout(m.shape).strides;
  View copy = m.view;
  copy.data = memory->as<float>();
  copy.strides = &dense;
  cuda_backend().copy(m.view, copy);
  return memory->as<const float>();
}

}  // namespace

bool multiply_rounded(View a, View b, View bias, bool accumulate, View out) {
  const MatmulPrecision precision = matmul_precision();
  if (precision == MatmulPrecision::float32 || out.dtype != DType::float32) return false;
  const int64_t m = (*a.shape)[a.rank() - 2], k = (*a.shape)[a.rank() - 1],
                n = (*b.shape)[b.rank() - 1];
  // By n and k alone: a row's bits do not depend on the rows beside it.
  if (n < kLeastRoundedColumns || k < kLeastRoundedDepth || std::max({m, n, k}) > kMost)
    return false;
  const LadderRung* const rung = rung_of(precision);
  if (rung == nullptr) return false;
  if (out.numel() == 0) return true;
  for (int64_t entry = 0; entry < out.numel() / (m * n); ++entry) {
    const Matrix of_a(a, entry), of_b(b, entry), to(out, entry);
    std::optional<Scratch> memory_a, memory_b, memory_c;
    const float* const from_a = plain(of_a, memory_a);
    const float* const from_b = plain(of_b, memory_b);
    const bool direct = !bias.defined() && !accumulate && to.is_plain();
    View product = to.view;
    if (!direct) {
      memory_c.emplace(static_cast<std::size_t>(m * n) * sizeof(float));
      product.data = memory_c->as<float>();
    }
    rung->run(from_a, from_b, product.as<float>(), static_cast<int>(m), static_cast<int>(n),
              static_cast<int>(k), gpu::default_stream());
    if (direct) continue;
    if (bias.defined()) {
      const Strides repeated = {0, (*bias.strides)[0]};
      View rows = bias;
      rows.shape = &to.shape;
      rows.strides = &repeated;
      cuda_backend().binary(BinaryOp::add, product, rows, accumulate ? product : to.view);
    }
    if (accumulate) {
      cuda_backend().binary(BinaryOp::add, product, to.view, to.view);
    } else if (!bias.defined()) {
      cuda_backend().copy(product, to.view);
    }
  }
  return true;
}

}  // namespace flowgrad::kernels::cuda
