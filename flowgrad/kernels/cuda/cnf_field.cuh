#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/gpu.cuh"

/// What the kernels of a continuous flow's solve share: where things lie in shared memory, and the
/// field of kRows rows of the batch by one warp.
///
/// A warp needs no other: after the weights have come, the solve has no barrier of the block.
/// Hidden unit j belongs to lane j % 32, and a weight that a lane reads serves kRows rows and both
/// products, value and trace. A row is summed in one order whatever kRows is.
namespace flowgrad::kernels::cuda::cnf {

constexpr int kWarps = 8;
constexpr unsigned kThreads = kWarps * 32;
constexpr int kUnits = 64;        // hidden units of a warp's tile, two to a lane
constexpr int kMostUnits = 4096;  // more fit in no shared memory, and in int with room to spare

/// The matrix of the trace's product: none without a trace, the middle layer's for an estimate with
/// a probe, one of its own for the exact trace.
enum class Second : uint8_t { none, same, own };

struct Sizes {
  int64_t n = 0;   // rows of the batch
  int d = 0;       // dimensions
  int h = 0;       // hidden units
  int padded = 0;  // h, to a multiple of 32; what is added are zeros
  int groups = 0;  // of four units, in h
  int parts = 0;   // lanes that share a sum for one dimension
  int dims = 0;    // d, to a multiple of four
  int inputs = 0;  // of the first layer: d, the time, 1; to a multiple of four
  int narrow = 0;  // step from one dimension's weights to the next: lanes meet different banks
  int wide = 0;    // step between rows of a hidden x hidden matrix: a unit's row in vectors of 16
                   // bytes and a column across lanes both meet different banks
};

inline int to_vector(int elements) { return (elements + 3) / 4 * 4; }

template <class T>
Sizes sizes_of(int64_t n, int64_t d, int64_t h) {
  Sizes s;
  s.n = n;
  s.d = static_cast<int>(d);
  s.h = static_cast<int>(h);
  s.padded = (s.h + 31) / 32 * 32;
  s.groups = (s.h + 3) / 4;
  s.parts = 32;
  while (s.parts > 1 && 32 / s.parts < s.d) s.parts /= 2;
  s.dims = to_vector(s.d);
  s.inputs = to_vector(s.d + 2);
  s.narrow = s.padded + s.parts;
  s.wide = s.padded + static_cast<int>(16 / sizeof(T));
  return s;
}

/// Elements of a vector of 16 bytes.
template <class T>
constexpr int kVector = static_cast<int>(16 / sizeof(T));

/// Places of the weights in shared memory, in elements.
struct Places {
  int first = 0;  // (d + 2, narrow): weights of x, of the time, and the bias
  int last = 0;   // (d, narrow)
  int middle_bias = 0;
  int last_bias = 0;
  int middle = 0;  // (padded, wide)
  int second = 0;  // as middle, for Second::own
  int end = 0;
};

inline Places places_of(const Sizes& s, Second second) {
  Places p;
  p.last = p.first + to_vector((s.d + 2) * s.narrow);
  p.middle_bias = p.last + to_vector(s.d * s.narrow);
  p.last_bias = p.middle_bias + s.padded;
  p.middle = p.last_bias + to_vector(s.d);
  p.second = p.middle + s.padded * s.wide;
  p.end = p.second + (second == Second::own ? s.padded * s.wide : 0);
  return p;
}

/// Places of the backward pass's sums, behind the weights, and of what its rows need.
struct AdjointPlaces {
  int narrow = 0;  // (2 d + 3, padded): of x by dimension, t, bias, out by dimension, middle_bias
  int last_bias = 0;
  int middle = 0;  // (padded, wide)
  int second = 0;
  int rows = 0;
};

inline AdjointPlaces adjoint_places_of(const Sizes& s, const Places& weights, Second second) {
  AdjointPlaces p;
  p.narrow = weights.end;
  p.last_bias = p.narrow + (2 * s.d + 3) * s.padded;
  p.middle = p.last_bias + s.dims;
  p.second = p.middle + s.padded * s.wide;
  p.rows = p.second + (second == Second::own ? s.padded * s.wide : 0);
  return p;
}

/// Of one row in the backward pass. A stage keeps its inputs, its slope's cotangent and six arrays
/// of hidden units; the row keeps its cotangents, and what a probe adds.
__host__ __device__ inline int adjoint_stage_elements(const Sizes& s) {
  return s.inputs + s.dims + 6 * s.padded;
}
__host__ __device__ inline int adjoint_row_elements(const Sizes& s, Second second, int stages) {
  return stages * adjoint_stage_elements(s) + 2 * s.dims +
         (second == Second::same ? 4 * s.padded : 0);
}

/// A solve as the kernels see it: contiguous arrays of device memory, coefficients in T.
template <class T>
struct Solve {
  Sizes sizes;
  Places places;
  const T *x, *t, *bias, *middle, *middle_bias, *out, *out_bias, *exact, *left, *right;
  int stages;
  int64_t n_steps;
  double t0, h;
  double time[SolveSteps::kMaxStages];
  T previous[SolveSteps::kMaxStages];  // h times the weight of the slope before, in a stage's input
  T weight[SolveSteps::kMaxStages];    // h times the stage's weight in the step

  GPU_INLINE T time_of(int64_t step, int stage) const {
    return static_cast<T>(t0 + static_cast<double>(step) * h + time[stage] * h);
  }
};

template <class T>
Solve<T> solve_of(const CnfField& f, const SolveSteps& steps, int64_t n, Second second) {
  Solve<T> s;
  s.sizes = sizes_of<T>(n, (*f.x.shape)[1], (*f.x.shape)[0]);
  s.places = places_of(s.sizes, second);
  s.x = f.x.as<const T>();
  s.t = f.t.as<const T>();
  s.bias = f.bias.as<const T>();
  s.middle = f.middle.as<const T>();
  s.middle_bias = f.middle_bias.as<const T>();
  s.out = f.out.as<const T>();
  s.out_bias = f.out_bias.as<const T>();
  s.exact = f.exact.as<const T>();
  s.left = f.left.as<const T>();
  s.right = f.right.as<const T>();
  s.stages = steps.stages;
  s.n_steps = steps.n_steps;
  s.t0 = steps.t0;
  s.h = steps.h;
  for (int i = 0; i < SolveSteps::kMaxStages; ++i) {
    s.time[i] = steps.time[i];
    s.previous[i] = static_cast<T>(steps.h * steps.previous[i]);
    s.weight[i] = static_cast<T>(steps.h * steps.weight[i]);
  }
  return s;
}

inline Second second_of(const CnfField& f) {
  if (f.exact.defined()) return Second::own;
  return f.left.defined() ? Second::same : Second::none;
}

/// Warps of a block that have rows, and how many rows each has.
struct Tiles {
  int warps = 1;
  int rows = 1;
  std::size_t shared_bytes = 0;
  int per_block() const { return warps * rows; }
};

/// Enough blocks to keep a large device busy, as many rows to a warp as that leaves, and no more
/// shared memory than there is; warps = 0 where not even one row fits.
template <class Bytes>
Tiles tiles_of(int64_t n, int most_rows, std::size_t limit, Bytes&& bytes) {
  constexpr int64_t kBlocksWanted = 128;
  const int64_t rows = (n + kBlocksWanted - 1) / kBlocksWanted;
  Tiles t;
  t.warps = static_cast<int>(rows < 1 ? 1 : rows < kWarps ? rows : kWarps);
  while (t.rows < most_rows && int64_t{t.rows} * kWarps < rows) t.rows *= 2;
  while (t.warps > 0) {
    t.shared_bytes = bytes(t);
    if (t.shared_bytes <= limit) return t;
    if (t.rows > 1) {
      t.rows /= 2;
    } else {
      t.warps /= 2;
    }
  }
  return t;
}

/// Shared memory that a block may ask for.
inline std::size_t shared_limit() {
  static const std::size_t bytes = gpu::device_info(0).shared_bytes_per_block;
  return bytes;
}

GPU_INLINE float tanh_of(float x) { return tanhf(x); }
GPU_INLINE double tanh_of(double x) { return tanh(x); }
/// The derivative of tanh where it is y.
template <class T>
GPU_INLINE T slope_of(T y) {
  return fma(-y, y, T(1));
}

/// All threads bring the weights; a barrier must follow.
template <class T, Second kSecond>
GPU_INLINE void load_weights(const Solve<T>& s, T* shared) {
  const Sizes& z = s.sizes;
  const int first = static_cast<int>(threadIdx.x);
  for (int i = first; i < (z.d + 2) * z.padded; i += kThreads) {
    const int d = i / z.padded;
    const int j = i % z.padded;
    T value = 0;
    if (j < z.h) value = d < z.d ? s.x[j * z.d + d] : d == z.d ? s.t[j] : s.bias[j];
    shared[s.places.first + d * z.narrow + j] = value;
  }
  for (int i = first; i < z.d * z.padded; i += kThreads) {
    const int d = i / z.padded;
    const int j = i % z.padded;
    shared[s.places.last + d * z.narrow + j] = j < z.h ? s.out[d * z.h + j] : T(0);
  }
  for (int i = first; i < z.padded; i += kThreads) {
    shared[s.places.middle_bias + i] = i < z.h ? s.middle_bias[i] : T(0);
  }
  for (int i = first; i < z.d; i += kThreads) shared[s.places.last_bias + i] = s.out_bias[i];
  for (int i = first; i < z.padded * z.padded; i += kThreads) {
    const int j = i / z.padded;
    const int k = i % z.padded;
    const bool inside = j < z.h && k < z.h;
    shared[s.places.middle + j * z.wide + k] = inside ? s.middle[j * z.h + k] : T(0);
    if constexpr (kSecond == Second::own) {
      shared[s.places.second + j * z.wide + k] = inside ? s.exact[j * z.h + k] : T(0);
    }
  }
}

/// run(halves, unit) for tiles of 64 hidden units, two to a lane (unit and unit + 32), and for a
/// last one of 32.
template <class Run>
GPU_INLINE void each_tile(const Sizes& z, Run&& run) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int first = 0;
  for (; first + 64 <= z.padded; first += 64) {
    run(std::integral_constant<int, 2>(), first + lane);
  }
  if (first < z.padded) run(std::integral_constant<int, 1>(), first + lane);
}

/// For each hidden unit of the lane, sum_d weights[d][unit] * in[row][d] over `count` inputs;
/// done(row, unit, sum).
template <int kRows, class T, class Done>
GPU_INLINE void widen(const Sizes& z, const T* weights, const T* in, int step, int count,
                      Done&& done) {
  each_tile(z, [&](auto halves, int unit) {
    constexpr int kHalves = decltype(halves)::value;
    T sum[kHalves][kRows] = {};
#pragma unroll 4
    for (int d = 0; d < count; ++d) {
      T w[kHalves];
#pragma unroll
      for (int half = 0; half < kHalves; ++half) w[half] = weights[d * z.narrow + unit + 32 * half];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const T value = in[r * step + d];
#pragma unroll
        for (int half = 0; half < kHalves; ++half) sum[half][r] = fma(w[half], value, sum[half][r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) done(r, unit + 32 * half, sum[half][r]);
    }
  });
}

/// For each dimension, sum_j weights[dimension][j] * in[row][j]; done(row, dimension, sum) in one
/// lane of those that shared the sum. All lanes take part.
template <int kRows, class T, class Done>
GPU_INLINE void narrow(const Sizes& z, const T* weights, const T* in, Done&& done) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int part = lane % z.parts;
  for (int base = 0; base < z.d; base += 32) {
    const int d = base + lane / z.parts;
    T sum[kRows] = {};
    if (d < z.d) {
#pragma unroll 4
      for (int j = part; j < z.h; j += z.parts) {
        const T w = weights[d * z.narrow + j];
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r] = fma(w, in[r * z.padded + j], sum[r]);
      }
    }
    for (int mask = z.parts / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[r] += __shfl_xor_sync(~0u, sum[r], mask);
    }
    if (d < z.d && part == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) done(r, d, sum[r]);
    }
  }
}

/// The products of one tile's units with kRows rows: sums of the value's and of the trace's.
template <class T, Second kSecond, int kHalves, int kRows>
struct Products {
  T values[kHalves][kRows] = {};
  T traces[kHalves][kRows] = {};

  /// Adds the terms of a vector of units: w of the middle matrix and m of the second one for each
  /// half, a and b the rows' elements there, `step` apart.
  template <class W>
  GPU_INLINE void add(const W (&w)[kHalves], const W (&m)[kHalves], const T* a, const T* b,
                      int step) {
    constexpr int kV = kVector<T>;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const auto va = gpu::load_vec<kV>(a + r * step);
      auto vb = va;
      if constexpr (kSecond != Second::none) vb = gpu::load_vec<kV>(b + r * step);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          values[half][r] = fma(w[half][i], va[i], values[half][r]);
          if constexpr (kSecond != Second::none) {
            traces[half][r] = fma(m[half][i], vb[i], traces[half][r]);
          }
        }
      }
    }
  }

  template <class Done>
  GPU_INLINE void finish(int unit, Done&& done) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        done(r, unit + 32 * half, values[half][r], traces[half][r]);
      }
    }
  }
};

/// For each hidden unit of the lane, sum_k middle[unit][k] * a[row][k] and
/// sum_k second[unit][k] * b[row][k]; done(row, unit, first sum, second sum).
template <Second kSecond, int kRows, class T, class Done>
GPU_INLINE void multiply(const Sizes& z, const T* middle, const T* second, const T* a, const T* b,
                         Done&& done) {
  constexpr int kV = kVector<T>;
  each_tile(z, [&](auto halves, int unit) {
    constexpr int kHalves = decltype(halves)::value;
    Products<T, kSecond, kHalves, kRows> sums;
#pragma unroll 2
    for (int k = 0; k < 4 * z.groups; k += kV) {
      gpu::Vec<T, kV> w[kHalves];
      gpu::Vec<T, kV> m[kHalves];
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int at = (unit + 32 * half) * z.wide + k;
        w[half] = gpu::load_vec<kV>(middle + at);
        m[half] = kSecond == Second::own ? gpu::load_vec<kV>(second + at) : w[half];
      }
      sums.add(w, m, a + k, b + k, z.padded);
    }
    sums.finish(unit, done);
  });
}

/// As multiply by the transposed matrices: for each hidden unit of the lane,
/// sum_j middle[j][unit] * a[row][j] and sum_j second[j][unit] * b[row][j].
template <Second kSecond, int kRows, class T, class Done>
GPU_INLINE void multiply_transposed(const Sizes& z, const T* middle, const T* second, const T* a,
                                    const T* b, Done&& done) {
  constexpr int kV = kVector<T>;
  each_tile(z, [&](auto halves, int unit) {
    constexpr int kHalves = decltype(halves)::value;
    Products<T, kSecond, kHalves, kRows> sums;
#pragma unroll 2
    for (int j = 0; j < 4 * z.groups; j += kV) {
      gpu::Vec<T, kV> w[kHalves];
      gpu::Vec<T, kV> m[kHalves];
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
#pragma unroll
        for (int i = 0; i < kV; ++i) {
          const int at = (j + i) * z.wide + unit + 32 * half;
          w[half][i] = middle[at];
          m[half][i] = kSecond == Second::own ? second[at] : w[half][i];
        }
      }
      sums.add(w, m, a + j, b + j, z.padded);
    }
    sums.finish(unit, done);
  });
}

/// A middle matrix of up to 64 x 64 in the registers of a warp: a lane has two units' rows.
struct Held {
  static constexpr int kUnits = 64;
  using Four = gpu::Vec<float, 4>;
  Four rows[2][kUnits / 4];

  GPU_INLINE void load(const Sizes& z, const float* middle) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int k = 0; k < kUnits / 4; ++k) {
        rows[half][k] = gpu::load_vec<4>(middle + (lane + 32 * half) * z.wide + 4 * k);
      }
    }
  }

  /// As the function multiply, to the same bits, of kUnits units.
  template <Second kSecond, int kRows, class Done>
  GPU_INLINE void multiply(const float* a, const float* b, Done&& done) const {
    Products<float, kSecond, 2, kRows> sums;
#pragma unroll
    for (int k = 0; k < kUnits / 4; ++k) {
      const Four w[2] = {rows[0][k], rows[1][k]};
      sums.add(w, w, a + 4 * k, b + 4 * k, kUnits);
    }
    sums.finish(static_cast<int>(threadIdx.x % 32), done);
  }
};

}  // namespace flowgrad::kernels::cuda::cnf
