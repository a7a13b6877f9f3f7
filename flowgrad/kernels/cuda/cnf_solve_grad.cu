#include <algorithm>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/cnf_field.cuh"
#include "flowgrad/kernels/cuda/scratch.h"

namespace flowgrad::kernels {

using namespace cuda::cnf;

namespace {

constexpr int64_t kMostBlocks = 264;  // two for each multiprocessor of a large device

template <class T>
struct Cotangents {
  const T *states, *y, *integral;
  T *y0, *left, *right;
  T* weights;  // a block's share of the weights' gradient, one after the other
};

/// Where the arrays of one stage of kRows rows lie.
template <class T, int kRows>
struct StageArrays {
  T *inputs, *slope, *one, *tangent, *two, *product, *before_two, *before_one;
  GPU_INLINE StageArrays(const Sizes& z, T* rows, int stage) {
    inputs = rows + stage * kRows * adjoint_stage_elements(z);
    slope = inputs + kRows * z.inputs;
    one = slope + kRows * z.dims;
    tangent = one + kRows * z.padded;  // into the trace's product
    two = tangent + kRows * z.padded;
    product = two + kRows * z.padded;         // the trace's product, later its cotangent
    before_two = product + kRows * z.padded;  // cotangents before each tanh
    before_one = before_two + kRows * z.padded;
  }
};

/// One warp's rows.
template <class T, Second kSecond, int kRows>
struct Rows {
  const Solve<T>& s;
  const Cotangents<T>& g;
  const T* weights;
  T* stages;  // StageArrays, then
  T *g_new, *g_sum, *left, *right, *g_left, *g_right;
  int64_t row = 0;
  int lane;

  GPU_INLINE Rows(const Solve<T>& s, const Cotangents<T>& g, const T* weights, T* mine)
      : s(s), g(g), weights(weights), stages(mine), lane(static_cast<int>(threadIdx.x % 32)) {
    const Sizes& z = s.sizes;
    g_new = stages + s.stages * kRows * adjoint_stage_elements(z);
    g_sum = g_new + kRows * z.dims;
    left = g_sum + kRows * z.dims;
    right = left + kRows * z.padded;
    g_left = right + kRows * z.padded;
    g_right = g_left + kRows * z.padded;
  }

  GPU_INLINE bool inside(int r) const { return row + r < s.sizes.n; }

  GPU_INLINE void begin(int64_t first_row) {
    const Sizes& z = s.sizes;
    row = first_row;
    for (int r = 0; r < kRows; ++r) {
      for (int d = lane; d < z.d; d += 32) {
        g_new[r * z.dims + d] = inside(r) ? g.y[(row + r) * z.d + d] : T(0);
      }
      if constexpr (kSecond == Second::same) {
        for (int j = lane; j < z.padded; j += 32) {
          const bool given = inside(r) && j < z.h;
          left[r * z.padded + j] = given ? s.left[(row + r) * z.h + j] : T(0);
          right[r * z.padded + j] = given ? s.right[(row + r) * z.h + j] : T(0);
          g_left[r * z.padded + j] = 0;
          g_right[r * z.padded + j] = 0;
        }
      }
    }
  }

  /// The step's stages again, keeping what their derivatives read.
  GPU_INLINE void replay(int64_t step) {
    const Sizes& z = s.sizes;
    const T* const second = weights + s.places.second;
    const StageArrays<T, kRows> start(z, stages, 0);
    for (int r = 0; r < kRows; ++r) {
      for (int d = lane; d < z.d; d += 32) {
        start.inputs[r * z.inputs + d] =
            inside(r) ? g.states[(step * z.n + row + r) * z.d + d] : T(0);
      }
      if (lane < s.stages) {
        const StageArrays<T, kRows> at(z, stages, lane);
        at.inputs[r * z.inputs + z.d] = s.time_of(step, lane);
        at.inputs[r * z.inputs + z.d + 1] = 1;
      }
    }
    __syncwarp();
    for (int stage = 0; stage < s.stages; ++stage) {
      const StageArrays<T, kRows> at(z, stages, stage);
      widen<kRows>(z, weights + s.places.first, at.inputs, z.inputs, z.d + 2,
                   [&](int r, int j, T sum) {
                     const T h = tanh_of(sum);
                     const int i = r * z.padded + j;
                     at.one[i] = h;
                     at.tangent[i] = kSecond == Second::same ? slope_of(h) * right[i] : slope_of(h);
                   });
      __syncwarp();
      multiply<kSecond, kRows>(z, weights + s.places.middle, second, at.one, at.tangent,
                               [&](int r, int j, T sum, T along) {
                                 const int i = r * z.padded + j;
                                 at.two[i] = tanh_of(sum + weights[s.places.middle_bias + j]);
                                 at.product[i] = along;
                               });
      __syncwarp();
      if (stage + 1 == s.stages) break;
      const StageArrays<T, kRows> next(z, stages, stage + 1);
      const T previous = s.previous[stage + 1];
      narrow<kRows>(z, weights + s.places.last, at.two, [&](int r, int d, T sum) {
        next.inputs[r * z.inputs + d] =
            fma(previous, sum + weights[s.places.last_bias + d], start.inputs[r * z.inputs + d]);
      });
      __syncwarp();
    }
  }

  /// The step's cotangents, last stage first.
  GPU_INLINE void reverse(const T (&g_integral)[kRows]) {
    const Sizes& z = s.sizes;
    const StageArrays<T, kRows> end(z, stages, s.stages - 1);
    for (int r = 0; r < kRows; ++r) {
      for (int d = lane; d < z.d; d += 32) {
        const int i = r * z.dims + d;
        end.slope[i] = s.weight[s.stages - 1] * g_new[i];
        g_sum[i] = g_new[i];
      }
    }
    __syncwarp();
    for (int stage = s.stages - 1; stage >= 0; --stage) {
      const StageArrays<T, kRows> at(z, stages, stage);
      widen<kRows>(z, weights + s.places.last, at.slope, z.dims, z.d, [&](int r, int j, T sum) {
        const int i = r * z.padded + j;
        const T h = at.two[i];
        const T slope = slope_of(h);
        const T along = at.product[i];
        T trace = s.weight[stage] * g_integral[r];
        if constexpr (kSecond == Second::same) {
          g_left[i] = fma(trace * slope, along, g_left[i]);
          trace *= left[i];
        }
        at.product[i] = trace * slope;
        at.before_two[i] = fma(T(-2) * h * trace, along, sum) * slope;
      });
      __syncwarp();
      multiply_transposed<kSecond, kRows>(z, weights + s.places.middle, weights + s.places.second,
                                          at.before_two, at.product,
                                          [&](int r, int k, T sum, T along) {
                                            const int i = r * z.padded + k;
                                            const T h = at.one[i];
                                            const T slope = slope_of(h);
                                            if constexpr (kSecond == Second::same) {
                                              g_right[i] = fma(along, slope, g_right[i]);
                                              along *= right[i];
                                            }
                                            at.before_one[i] = fma(T(-2) * h, along, sum) * slope;
                                          });
      __syncwarp();
      const StageArrays<T, kRows> before(z, stages, stage == 0 ? 0 : stage - 1);
      narrow<kRows>(z, weights + s.places.first, at.before_one, [&](int r, int d, T sum) {
        const int i = r * z.dims + d;
        g_sum[i] += sum;
        if (stage > 0) {
          before.slope[i] = fma(s.previous[stage], sum, s.weight[stage - 1] * g_new[i]);
        }
      });
      __syncwarp();
    }
    for (int r = 0; r < kRows; ++r) {
      for (int d = lane; d < z.d; d += 32) g_new[r * z.dims + d] = g_sum[r * z.dims + d];
    }
  }

  GPU_INLINE void finish() const {
    const Sizes& z = s.sizes;
    for (int r = 0; r < kRows && inside(r); ++r) {
      for (int d = lane; d < z.d; d += 32) g.y0[(row + r) * z.d + d] = g_new[r * z.dims + d];
      if constexpr (kSecond == Second::same) {
        for (int j = lane; j < z.h; j += 32) {
          g.left[(row + r) * z.h + j] = g_left[r * z.padded + j];
          g.right[(row + r) * z.h + j] = g_right[r * z.padded + j];
        }
      }
    }
  }
};

/// The block's threads add a step's products over all its rows and stages, in a fixed order. A
/// thread owns tiles of 4 x 4 of the hidden x hidden sums and vectors of four of the others.
template <class T, Second kSecond, int kRows>
GPU_INLINE void add_products(const Solve<T>& s, const AdjointPlaces& p, T* shared, int warps) {
  const Sizes& z = s.sizes;
  using Four = gpu::Vec<T, 4>;
  const int step = kRows * adjoint_row_elements(z, kSecond, s.stages);
  const auto each = [&](auto&& use) {
    for (int warp = 0; warp < warps; ++warp) {
      for (int stage = 0; stage < s.stages; ++stage) {
        const StageArrays<T, kRows> at(z, shared + p.rows + warp * step, stage);
#pragma unroll
        for (int r = 0; r < kRows; ++r) use(at, r);
      }
    }
  };
  const int first = static_cast<int>(threadIdx.x);
  for (int tile = first; tile < z.groups * z.groups; tile += kThreads) {
    const int j = tile / z.groups * 4;
    const int k = tile % z.groups * 4;
    T* const to = shared + p.middle + j * z.wide + k;
    T* const to_second = shared + p.second + j * z.wide + k;
    Four sums[4];
    Four seconds[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[i] = gpu::load_vec<4>(to + i * z.wide);
      if constexpr (kSecond == Second::own) seconds[i] = gpu::load_vec<4>(to_second + i * z.wide);
    }
    each([&](const StageArrays<T, kRows>& at, int r) {
      const Four a = gpu::load_vec<4>(at.before_two + r * z.padded + j);
      const Four b = gpu::load_vec<4>(at.one + r * z.padded + k);
      const Four c = gpu::load_vec<4>(at.product + r * z.padded + j);
      const Four e = gpu::load_vec<4>(at.tangent + r * z.padded + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int l = 0; l < 4; ++l) {
          sums[i][l] = fma(a[i], b[l], sums[i][l]);
          Four* const other = kSecond == Second::own ? seconds : sums;
          other[i][l] = fma(c[i], e[l], other[i][l]);
        }
      }
    });
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      gpu::store_vec(to + i * z.wide, sums[i]);
      if constexpr (kSecond == Second::own) gpu::store_vec(to_second + i * z.wide, seconds[i]);
    }
  }
  const int columns = 2 * z.d + 3;
  for (int item = first; item < columns * z.groups; item += kThreads) {
    const int column = item / z.groups;
    const int j = item % z.groups * 4;
    T* const to = shared + p.narrow + column * z.padded + j;
    Four sums = gpu::load_vec<4>(to);
    each([&](const StageArrays<T, kRows>& at, int r) {
      const T* factor = at.inputs + r * z.inputs;
      const T* units = at.before_one;
      if (column < z.d + 2) {
        factor += column;
      } else if (column < columns - 1) {
        factor = at.slope + r * z.dims + column - z.d - 2;
        units = at.two;
      } else {
        factor += z.d + 1;
        units = at.before_two;
      }
      const Four values = gpu::load_vec<4>(units + r * z.padded + j);
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = fma(*factor, values[i], sums[i]);
    });
    gpu::store_vec(to, sums);
  }
  for (int d = first; d < z.d; d += kThreads) {
    T sum = shared[p.last_bias + d];
    each([&](const StageArrays<T, kRows>& at, int r) { sum += at.slope[r * z.dims + d]; });
    shared[p.last_bias + d] = sum;
  }
}

/// Elements of all the weights' gradients.
int64_t weight_elements(const Sizes& z, Second second) {
  const int64_t d = z.d;
  const int64_t h = z.h;
  return 2 * d * h + 3 * h + d + h * h * (second == Second::own ? 2 : 1);
}

/// The block's sums, one after the other in the order of cnf_solve_grad.
template <class T, Second kSecond>
GPU_INLINE void write_sums(const Sizes& z, const AdjointPlaces& p, const T* shared, T* out) {
  const int first = static_cast<int>(threadIdx.x);
  const auto column = [&](int c, int j) { return shared[p.narrow + c * z.padded + j]; };
  const auto square = [&](int place) {
    for (int i = first; i < z.h * z.h; i += kThreads) {
      out[i] = shared[place + i / z.h * z.wide + i % z.h];
    }
    out += z.h * z.h;
  };
  const auto row = [&](int c) {
    for (int j = first; j < z.h; j += kThreads) out[j] = column(c, j);
    out += z.h;
  };
  for (int i = first; i < z.h * z.d; i += kThreads) out[i] = column(i % z.d, i / z.d);
  out += z.h * z.d;
  row(z.d);
  row(z.d + 1);
  square(p.middle);
  row(2 * z.d + 2);
  for (int i = first; i < z.d * z.h; i += kThreads) out[i] = column(z.d + 2 + i / z.h, i % z.h);
  out += z.d * z.h;
  for (int d = first; d < z.d; d += kThreads) out[d] = shared[p.last_bias + d];
  out += z.d;
  if constexpr (kSecond == Second::own) square(p.second);
}

template <class T, Second kSecond, int kRows>
__global__ void __launch_bounds__(kThreads, 1)
    reverse_rows(const __grid_constant__ Solve<T> s, const __grid_constant__ Cotangents<T> g,
                 const __grid_constant__ AdjointPlaces p, int warps, int64_t tiles, int64_t share) {
  GPU_DYN_SHARED(T, shared);
  const Sizes& z = s.sizes;
  load_weights<T, kSecond>(s, shared);
  for (int i = s.places.end + static_cast<int>(threadIdx.x); i < p.rows; i += kThreads) {
    shared[i] = 0;
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x / 32);
  const bool has_rows = warp < warps;
  const int step_elements = kRows * adjoint_row_elements(z, kSecond, s.stages);
  Rows<T, kSecond, kRows> rows(s, g, shared,
                               shared + p.rows + (has_rows ? warp : 0) * step_elements);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    T g_integral[kRows] = {};
    if (has_rows) {
      rows.begin((tile * warps + warp) * kRows);
      for (int r = 0; r < kRows; ++r) {
        if (rows.inside(r)) g_integral[r] = g.integral[rows.row + r];
      }
    }
    for (int64_t step = s.n_steps - 1; step >= 0; --step) {
      if (has_rows) {
        rows.replay(step);
        rows.reverse(g_integral);
      }
      __syncthreads();
      add_products<T, kSecond, kRows>(s, p, shared, warps);
      __syncthreads();
    }
    if (has_rows) rows.finish();
  }
  write_sums<T, kSecond>(z, p, shared, g.weights + blockIdx.x * share);
}

/// One thread adds the blocks' shares of one element, in their order.
template <class T>
__global__ void add_shares(const T* __restrict__ shares, int64_t share, int blocks,
                           T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= share) return;
  double sum = 0;
#pragma unroll 8
  for (int b = 0; b < blocks; ++b) sum += static_cast<double>(shares[b * share + i]);
  out[i] = static_cast<T>(sum);
}

template <class T, Second kSecond>
void launch_reverse(const Solve<T>& s, Cotangents<T> g, T* out) {
  const AdjointPlaces p = adjoint_places_of(s.sizes, s.places, kSecond);
  const Tiles tiles = tiles_of(s.sizes.n, 2, shared_limit(), [&](const Tiles& t) {
    const int rows = t.per_block() * adjoint_row_elements(s.sizes, kSecond, s.stages);
    return static_cast<std::size_t>(p.rows + rows) * sizeof(T);
  });
  const int64_t n_tiles = (s.sizes.n + tiles.per_block() - 1) / tiles.per_block();
  const auto blocks = static_cast<unsigned>(std::min(n_tiles, kMostBlocks));
  const int64_t share = weight_elements(s.sizes, kSecond);
  const Scratch shares(static_cast<std::size_t>(share) * blocks * sizeof(T));
  g.weights = shares.as<T>();
  const auto run = [&](auto kernel) {
    gpu::launch(kernel, blocks, kThreads, tiles.shared_bytes, gpu::default_stream(), s, g, p,
                tiles.warps, n_tiles, share);
  };
  if (tiles.rows == 1) {
    run(reverse_rows<T, kSecond, 1>);
  } else {
    run(reverse_rows<T, kSecond, 2>);
  }
  constexpr unsigned kBlock = 128;
  gpu::launch(add_shares<T>, gpu::blocks_for(static_cast<std::size_t>(share), kBlock), kBlock, 0,
              gpu::default_stream(), shares.as<const T>(), share, static_cast<int>(blocks), out);
}

}  // namespace

void CudaBackend::cnf_solve_grad(const CnfField& field, const SolveSteps& steps, View states,
                                 View g_y, View g_integral, View g_y0, View g_left, View g_right,
                                 View g_weights) {
  visit_floating("cnf_solve_grad", g_y.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (g_y.numel() == 0) return fill(g_weights, 0);
    const Second second = second_of(field);
    const Solve<T> s = solve_of<T>(field, steps, (*g_y.shape)[0], second);
    const Cotangents<T> g{states.as<const T>(),
                          g_y.as<const T>(),
                          g_integral.as<const T>(),
                          g_y0.as<T>(),
                          g_left.as<T>(),
                          g_right.as<T>(),
                          nullptr};
    if (second == Second::own) {
      launch_reverse<T, Second::own>(s, g, g_weights.as<T>());
    } else {
      launch_reverse<T, Second::same>(s, g, g_weights.as<T>());
    }
  });
}

}  // namespace flowgrad::kernels
