#include "flowgrad/kernels/cuda/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/matmul_blas.h"
#include "flowgrad/kernels/cuda/matmul_tile.cuh"
#include "flowgrad/kernels/cuda/scratch.h"

namespace flowgrad::kernels {
namespace cuda {
namespace {

constexpr int kMinChunk = 128;
constexpr int kMaxChunks = 32;
// Blocks that fill a large device once. A constant, though nothing in the result depends on it.
constexpr int64_t kEnoughBlocks = 132;
constexpr int kFew = 16;

template <class T>
using Narrow = MatmulTile<T, 128, 16, sizeof(T) == 4 ? 16 : 8, 4, 4, 8, 4, 4>;
template <class T>
using Wide = MatmulTile<T, 16, 128, sizeof(T) == 4 ? 16 : 8, 4, 4, 4, 8, 4>;
using Medium = MatmulTile<float, 64, 64, 16, 8, 4, 4, 8, 4>;
using Large = MatmulTile<float, 128, 128, 16, 8, 16, 4, 8, 2>;
// Single elements take registers for their places, so fewer of them are on their way.
using LargeAny = MatmulTile<float, 128, 128, 8, 8, 16, 4, 8, 2>;
using Medium64 = MatmulTile<double, 64, 64, 8, 4, 4, 4, 8, 2>;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
bool is_aligned(const T* data) {
  return reinterpret_cast<std::size_t>(data) % 16 == 0;
}

/// Vectors along the axis of stride 1, where every one of them is aligned.
template <class T>
Load load_of(const MatmulOperand<T>& x, const MatmulBatch& batch, const int64_t* batch_strides) {
  constexpr int64_t V = 16 / sizeof(T);
  if (!is_aligned(x.data)) return Load::any;
  for (int axis = 0; axis < batch.rank; ++axis) {
    if (batch_strides[axis] % V != 0) return Load::any;
  }
  if (x.k_stride == 1 && x.x_stride % V == 0) return Load::along_k;
  if (x.x_stride == 1 && x.k_stride % V == 0) return Load::along_x;
  return Load::any;
}

unsigned grid_size(int64_t blocks) {
  if (blocks > INT32_MAX) {
    throw ValueError("matmul: " + std::to_string(blocks) +
                     " blocks are needed; a device accepts at most 2147483647");
  }
  return static_cast<unsigned>(blocks);
}

template <class Tile, Load load_a, Load load_b>
void launch_tile(const MatmulPlan& plan, const MatmulArgs<typename Tile::T>& all, int64_t batch) {
  MatmulArgs<typename Tile::T> p = all;
  const int64_t tiles = ceil_div(p.m, Tile::BM) * ceil_div(p.n, Tile::BN);
  const int chunks = p.partial == nullptr ? 1 : p.n_chunks;
  const bool several = chunks < p.n_chunks;
  const std::size_t totals = several ? sizeof(typename Tile::T) * Tile::BM * Tile::BN : 0;
  for (p.first_entry = 0; p.first_entry < batch; p.first_entry += plan.entries) {
    const int64_t entries = std::min(batch - p.first_entry, plan.entries);
    gpu::launch(
        matmul_tile<Tile, load_a, load_b>,
        dim3(grid_size(tiles), static_cast<unsigned>(chunks), static_cast<unsigned>(entries)),
        dim3(Tile::kThreads), totals, gpu::default_stream(), p);
  }
}

/// The four ways in which both operands come in vectors, or single elements of both.
template <class Tile>
void launch_tile(const MatmulPlan& plan, const MatmulArgs<typename Tile::T>& p, int64_t batch) {
  const Load a = load_of(p.a, p.batch, p.batch.a);
  const Load b = load_of(p.b, p.batch, p.batch.b);
  if (a == Load::any || b == Load::any)
    launch_tile<std::conditional_t<std::is_same_v<Tile, Large>, LargeAny, Tile>, Load::any,
                Load::any>(plan, p, batch);
  else if (a == Load::along_k && b == Load::along_k)
    launch_tile<Tile, Load::along_k, Load::along_k>(plan, p, batch);
  else if (a == Load::along_k)
    launch_tile<Tile, Load::along_k, Load::along_x>(plan, p, batch);
  else if (b == Load::along_k)
    launch_tile<Tile, Load::along_x, Load::along_k>(plan, p, batch);
  else
    launch_tile<Tile, Load::along_x, Load::along_x>(plan, p, batch);
}

template <class T>
void launch(const MatmulPlan& plan, const MatmulArgs<T>& p, int64_t batch) {
  switch (plan.kernel) {
    case MatmulKernel::narrow: return launch_tile<Narrow<T>, Load::any, Load::any>(plan, p, batch);
    case MatmulKernel::wide: return launch_tile<Wide<T>, Load::any, Load::any>(plan, p, batch);
    case MatmulKernel::medium:
    case MatmulKernel::large:
      if constexpr (std::is_same_v<T, double>)
        return launch_tile<Medium64>(plan, p, batch);
      else if (plan.kernel == MatmulKernel::medium)
        return launch_tile<Medium>(plan, p, batch);
      else
        return launch_tile<Large>(plan, p, batch);
    case MatmulKernel::element: break;
  }
  const int64_t total = batch * p.m * p.n;
  gpu::launch(matmul_element<T>,
              dim3(grid_size(ceil_div(total, 128)),
                   static_cast<unsigned>(p.partial == nullptr ? 1 : p.n_chunks)),
              dim3(128), 0, gpu::default_stream(), p, total);
}

int fitting(const char* what, int64_t size) {
  constexpr int64_t kMost = INT32_MAX - 128;  // room to round up to a tile
  if (size > kMost) {
    throw ValueError("matmul: " + std::string(what) + " is " + std::to_string(size) + "; at most " +
                     std::to_string(kMost) + " is accepted");
  }
  return static_cast<int>(size);
}

template <class T>
MatmulOperand<T> operand(const T* data, int64_t x_stride, int64_t k_stride) {
  return {data, x_stride, k_stride, std::abs(k_stride) <= std::abs(x_stride)};
}

template <class T>
void multiply(const MatmulPlan* given, const View& a, const View& b, const View& bias,
              bool accumulate, const View& out) {
  const int row = out.rank() - 2, column = out.rank() - 1;
  if (out.numel() == 0) return;
  MatmulArgs<T> p = {};
  p.a = operand(a.as<T>(), (*a.strides)[row], (*a.strides)[column]);
  p.b = operand(b.as<T>(), (*b.strides)[column], (*b.strides)[row]);
  p.out = out.as<T>();
  p.accumulate = accumulate;
  if (bias.defined()) {
    p.bias = bias.as<T>();
    p.bias_stride = (*bias.strides)[0];
  }
  int64_t m = (*out.shape)[row];
  const Axes axes = matmul_batch(*out.shape, *out.strides, *a.strides, *b.strides);
  int64_t batch = axes.total;
  if (axes.rank == 1 && axes.stride[2][0] == 0 && axes.stride[1][0] == m * p.a.x_stride) {
    // One b for all and the rows of a in one sequence: a single product.
    m *= batch;
    batch = 1;
  } else {
    p.batch.rank = axes.rank;
    for (int i = 0; i < axes.rank; ++i) {
      p.batch.size[i] = axes.size[i];
      p.batch.a[i] = axes.stride[1][i];
      p.batch.b[i] = axes.stride[2][i];
    }
  }
  p.m = fitting("the number of rows", m);
  p.n = fitting("the number of columns", (*out.shape)[column]);
  p.k = fitting("the depth", (*a.shape)[column]);
  p.chunk = matmul_chunk(p.k);
  p.n_chunks = static_cast<int>(std::max<int64_t>(1, ceil_div(p.k, p.chunk)));
  p.vector_out = p.n % (16 / static_cast<int>(sizeof(T))) == 0 && is_aligned(p.out);
  const MatmulPlan plan = given != nullptr ? *given : plan_matmul(out.dtype, batch, p.m, p.n, p.k);
  if (!plan.split || p.n_chunks == 1) return launch(plan, p, batch);

  const int64_t total = batch * p.m * p.n;
  const Scratch sums(static_cast<std::size_t>(total * p.n_chunks) * sizeof(T));
  p.partial = sums.as<T>();
  launch(plan, p, batch);
  gpu::launch(matmul_add_chunks<T>, dim3(grid_size(ceil_div(total, 256))), dim3(256), 0,
              gpu::default_stream(), p, total);
}

void require_dtype(const char* argument, const View& view, DType wanted) {
  if (view.dtype == wanted) return;
  throw DTypeError("matmul: " + std::string(argument) + " is " + name_of(view.dtype) + "; " +
                   name_of(wanted) + " is accepted");
}

void check_product(const View& a, const View& b, const View& bias, const View& out) {
  if (a.dtype != DType::float32 && a.dtype != DType::float64) {
    throw DTypeError("matmul: dtype " + std::string(name_of(a.dtype)) +
                     " given; float32 and float64 are accepted");
  }
  require_dtype("b", b, a.dtype);
  require_dtype("out", out, a.dtype);
  if (bias.defined()) require_dtype("bias", bias, a.dtype);
  if (!out.is_contiguous()) throw ShapeError("matmul: out is not contiguous");
}

/// Of operands that were checked.
void multiply(const MatmulPlan* plan, const View& a, const View& b, const View& bias,
              bool accumulate, const View& out) {
  if (a.dtype == DType::float32)
    multiply<float>(plan, a, b, bias, accumulate, out);
  else
    multiply<double>(plan, a, b, bias, accumulate, out);
}

}  // namespace

int matmul_chunk(int64_t k) {
  const int64_t even = ceil_div(ceil_div(k, kMaxChunks), kMinChunk) * kMinChunk;
  return static_cast<int>(std::max<int64_t>(kMinChunk, even));
}

MatmulPlan plan_matmul(DType dtype, int64_t batch, int64_t m, int64_t n, int64_t k) {
  MatmulPlan plan;
  int64_t blocks = 0;
  const auto tiles = [&](int64_t bm, int64_t bn) {
    return ceil_div(m, bm) * ceil_div(n, bn) * batch;
  };
  if (m <= kFew && n <= kFew) {
    blocks = ceil_div(m * n * batch, 128);
  } else if (n <= kFew) {
    plan.kernel = MatmulKernel::narrow;
    blocks = tiles(128, 16);
  } else if (m <= kFew) {
    plan.kernel = MatmulKernel::wide;
    blocks = tiles(16, 128);
  } else if (dtype == DType::float32 && tiles(128, 128) >= kEnoughBlocks) {
    plan.kernel = MatmulKernel::large;
    blocks = tiles(128, 128);
  } else {
    plan.kernel = MatmulKernel::medium;
    blocks = tiles(64, 64);
  }
  plan.split = blocks < kEnoughBlocks && k > matmul_chunk(k);
  return plan;
}

void matmul(const MatmulPlan* plan, View a, View b, View bias, bool accumulate, View out) {
  check_product(a, b, bias, out);
  multiply(plan, a, b, bias, accumulate, out);
}

}  // namespace cuda

void CudaBackend::matmul(View a, View b, View bias, bool accumulate, View out) {
  cuda::check_product(a, b, bias, out);
  if (cuda::multiply_by_cublas(a, b, bias, accumulate, out)) return;
  if (cuda::multiply_rounded(a, b, bias, accumulate, out)) return;
  cuda::multiply(nullptr, a, b, bias, accumulate, out);
}

}  // namespace flowgrad::kernels
