#include <algorithm>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/offsets.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/staging.h"
#include "flowgrad/kernels/reference/loops.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// One block a matrix, in double as on the CPU, in shared memory where it fits. Products and
/// differences are rounded one by one, so pivots are chosen as the CPU chooses them.
constexpr std::size_t kMaxShared = 48 << 10;

__device__ double minus_product(double x, double a, double b) {
  return __dsub_rn(x, __dmul_rn(a, b));
}

/// Row, from k on, of the first entry of column k that no other exceeds in magnitude. All lanes of
/// a warp call it and get the same.
__device__ int pivot_row(const double* m, int n, int k) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  double best = -1;
  int row = n;
  for (int i = k + lane; i < n; i += 32) {
    const double x = fabs(m[i * n + k]);
    if (x > best) {
      best = x;
      row = i;
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, best, step);
    const int other_row = __shfl_xor_sync(0xffffffffu, row, step);
    if (other > best || (other == best && other_row < row)) {
      best = other;
      row = other_row;
    }
  }
  // Nothing exceeds NaN.
  const double first = m[k * n + k];
  return row == n || first != first ? k : row;
}

template <class T>
__global__ void __launch_bounds__(256)
    lu_blocks(const T* a, T* lu, int64_t* pivots, T* sign, int n, double* scratch) {
  GPU_DYN_SHARED(double, shared);
  GPU_SHARED(int, found, [1]);
  const auto entry = static_cast<int64_t>(blockIdx.x);
  const int64_t size = static_cast<int64_t>(n) * n;
  double* m = scratch == nullptr ? shared : scratch + entry * size;
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  int64_t* rows = pivots + entry * n;
  for (int64_t i = thread; i < size; i += threads) m[i] = static_cast<double>(a[entry * size + i]);
  for (int i = thread; i < n; i += threads) rows[i] = i;
  double determinant = 1;
  __syncthreads();
  for (int k = 0; k < n; ++k) {
    if (thread < 32) {
      const int row = pivot_row(m, n, k);
      if (thread == 0) found[0] = row;
    }
    __syncthreads();
    const int best = found[0];
    if (best != k) {
      for (int j = thread; j < n; j += threads) {
        const double held = m[k * n + j];
        m[k * n + j] = m[best * n + j];
        m[best * n + j] = held;
      }
      if (thread == 0) {
        const int64_t held = rows[k];
        rows[k] = rows[best];
        rows[best] = held;
      }
      determinant = -determinant;
    }
    __syncthreads();
    const double pivot = m[k * n + k];
    if (pivot != 0.0) {  // or the column below is zero too
      for (int i = k + 1 + thread; i < n; i += threads) m[i * n + k] = m[i * n + k] / pivot;
      __syncthreads();
      for (int i = k + 1 + thread / 32; i < n; i += threads / 32) {
        for (int j = k + 1 + thread % 32; j < n; j += 32) {
          m[i * n + j] = minus_product(m[i * n + j], m[i * n + k], m[k * n + j]);
        }
      }
      __syncthreads();
    }
  }
  for (int64_t i = thread; i < size; i += threads) lu[entry * size + i] = static_cast<T>(m[i]);
  if (thread == 0) sign[entry] = static_cast<T>(determinant);
}

/// failure becomes the least (batch entry, order of its minor that is not positive), as one number.
template <class T>
__global__ void __launch_bounds__(256)
    cholesky_blocks(const T* a, T* out, int n, int64_t first, double* scratch,
                    unsigned long long* failure) {
  GPU_DYN_SHARED(double, shared);
  const int64_t size = static_cast<int64_t>(n) * n;
  const int64_t entry = first + blockIdx.x;
  double* m = scratch == nullptr ? shared : scratch + blockIdx.x * size;
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  for (int i = warp; i < n; i += threads / 32) {
    for (int j = lane; j < n; j += 32) {
      m[i * n + j] = j <= i ? static_cast<double>(a[entry * size + i * n + j]) : 0.0;
    }
  }
  __syncthreads();
  for (int j = 0; j < n; ++j) {
    const double d = m[j * n + j];
    if (!(d > 0.0)) {  // NaN is refused too
      if (thread == 0) {
        atomicMin(failure, static_cast<unsigned long long>(entry) << 32 | (j + 1u));
      }
      break;  // every thread of the block
    }
    const double root = sqrt(d);
    for (int i = j + 1 + thread; i < n; i += threads) m[i * n + j] = m[i * n + j] / root;
    __syncthreads();
    if (thread == 0) m[j * n + j] = root;
    for (int i = j + 1 + warp; i < n; i += threads / 32) {
      for (int c = j + 1 + lane; c <= i; c += 32) {
        m[i * n + c] = minus_product(m[i * n + c], m[i * n + j], m[c * n + j]);
      }
    }
    __syncthreads();
  }
  for (int64_t i = thread; i < size; i += threads) out[entry * size + i] = static_cast<T>(m[i]);
}

/// One block a matrix and `width` right-hand sides, width a power of two up to 32.
template <class T>
__global__ void __launch_bounds__(256)
    solve_blocks(const T* a, const T* b, T* out, int n, int64_t columns, int width, int64_t first,
                 bool upper, bool unit_diagonal, double* scratch) {
  GPU_DYN_SHARED(double, shared);
  const int64_t tiles = (columns + width - 1) / width;
  const int64_t number = first + blockIdx.x;
  const int64_t entry = number / tiles;
  const int64_t column = number % tiles * width + threadIdx.x % width;
  const bool given = column < columns;
  double* x = scratch == nullptr ? shared : scratch + static_cast<int64_t>(blockIdx.x) * n * width;
  const T* m = a + entry * n * n;
  const int64_t at = entry * n * columns + column;
  const int c = static_cast<int>(threadIdx.x) % width;
  const int group = static_cast<int>(threadIdx.x) / width;
  const int groups = static_cast<int>(blockDim.x) / width;
  for (int i = group; i < n; i += groups) {
    x[i * width + c] = given ? static_cast<double>(b[at + i * columns]) : 0.0;
  }
  __syncthreads();
  for (int step = 0; step < n; ++step) {
    const int i = upper ? n - 1 - step : step;
    double solved = x[i * width + c];
    if (!unit_diagonal) solved = solved / static_cast<double>(m[static_cast<int64_t>(i) * n + i]);
    if (group == 0 && given) out[at + i * columns] = static_cast<T>(solved);
    // Row i is not read again: what remains lies above or below it.
    const int begin = upper ? 0 : i + 1;
    const int end = upper ? i : n;
    for (int r = begin + group; r < end; r += groups) {
      const double factor = static_cast<double>(m[static_cast<int64_t>(r) * n + i]);
      x[r * width + c] = minus_product(x[r * width + c], factor, solved);
    }
    __syncthreads();
  }
}

/// A block's working memory: shared, or a share of scratch memory for as many blocks as one launch
/// may have then.
struct Work {
  std::size_t shared_bytes = 0;
  int64_t at_once = 1;
  std::size_t scratch_bytes = 0;
  Work(std::size_t bytes, int64_t blocks) {
    if (bytes <= kMaxShared) {
      shared_bytes = bytes;
      at_once = std::min<int64_t>(blocks, 0x7fffffff);
    } else {
      at_once = std::clamp<int64_t>(static_cast<int64_t>(scratch_limit() / bytes), 1, blocks);
      scratch_bytes = static_cast<std::size_t>(at_once) * bytes;
    }
  }
};

unsigned threads_for(int64_t n) { return n <= 16 ? 32 : n <= 32 ? 128 : 256; }

/// f(first, count, scratch or nullptr) for all blocks, as many at once as there is memory for.
template <class F>
void for_blocks(const Work& work, int64_t blocks, F&& f) {
  const Scratch scratch(work.scratch_bytes);
  double* memory = work.scratch_bytes == 0 ? nullptr : scratch.as<double>();
  for (int64_t first = 0; first < blocks; first += work.at_once) {
    f(first, static_cast<unsigned>(std::min(work.at_once, blocks - first)), memory);
  }
}

}  // namespace

void CudaBackend::lu(View a, View lu, View pivots, View sign) {
  require_lu(a, lu, pivots, sign);
  const int64_t n = a.shape->back();
  const int64_t batch = batch_of_matrices(*a.shape);
  visit_floating("lu", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (batch == 0) return;
    const Work work(static_cast<std::size_t>(n * n) * sizeof(double), batch);
    for_blocks(work, batch, [&](int64_t first, unsigned count, double* scratch) {
      gpu::launch(lu_blocks<T>, count, threads_for(n), work.shared_bytes, gpu::default_stream(),
                  a.as<T>() + first * n * n, lu.as<T>() + first * n * n,
                  pivots.as<int64_t>() + first * n, sign.as<T>() + first, static_cast<int>(n),
                  scratch);
    });
  });
}

void CudaBackend::cholesky(View a, View out) {
  require_dtype("cholesky", "out", out, a.dtype);
  const int64_t n = a.shape->back();
  const int64_t batch = batch_of_matrices(*a.shape);
  visit_floating("cholesky", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (batch == 0 || n == 0) return;
    const gpu::Stream stream = gpu::default_stream();
    const Scratch flag(sizeof(unsigned long long));
    constexpr unsigned long long kNone = ~0ull;
    gpu::fill_bytes(flag.as<void>(), 0xff, sizeof kNone, stream);
    const Work work(static_cast<std::size_t>(n * n) * sizeof(double), batch);
    for_blocks(work, batch, [&](int64_t first, unsigned count, double* scratch) {
      gpu::launch(cholesky_blocks<T>, count, threads_for(n), work.shared_bytes, stream, a.as<T>(),
                  out.as<T>(), static_cast<int>(n), first, scratch, flag.as<unsigned long long>());
    });
    unsigned long long failure = kNone;
    Staging::instance().to_host(&failure, flag.as<void>(), sizeof failure);
    if (failure != kNone) {
      not_positive_definite(static_cast<int64_t>(failure >> 32),
                            static_cast<int64_t>(failure & 0xffffffffu));
    }
  });
}

void CudaBackend::triangular_solve(View a, View b, bool upper, bool unit_diagonal, View out) {
  require_triangular_solve(a, b, out);
  const int64_t n = a.shape->back();
  const int64_t columns = b.shape->back();
  const int64_t batch = batch_of_matrices(*a.shape);
  visit_floating("triangular_solve", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (batch * n * columns == 0) return;
    int width = 1;
    while (width < columns && width < 32) width *= 2;
    const auto threads =
        static_cast<unsigned>(std::clamp<int64_t>((n * width + 31) / 32 * 32, 32, 256));
    const int64_t blocks = batch * ((columns + width - 1) / width);
    const Work work(static_cast<std::size_t>(n * width) * sizeof(double), blocks);
    for_blocks(work, blocks, [&](int64_t first, unsigned count, double* scratch) {
      gpu::launch(solve_blocks<T>, count, threads, work.shared_bytes, gpu::default_stream(),
                  a.as<T>(), b.as<T>(), out.as<T>(), static_cast<int>(n), columns, width, first,
                  upper, unit_diagonal, scratch);
    });
  });
}

}  // namespace flowgrad::kernels
