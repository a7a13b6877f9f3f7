#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/cnf_field.cuh"

namespace flowgrad::kernels {

using namespace cuda::cnf;

namespace {

/// Shared memory of one row: its inputs of the first layer, the state at the step's start and the
/// step's sum so far; then both layers, and what the trace needs.
template <Second kSecond>
__host__ __device__ constexpr int row_elements(const Sizes& z) {
  constexpr int kPerUnit = kSecond == Second::none ? 2 : kSecond == Second::own ? 3 : 5;
  return z.inputs + 2 * z.dims + kPerUnit * z.padded;
}

/// The lane's share of the integral is summed over the whole solve, and the lanes' shares once at
/// its end. kHeld: the middle matrix stays in registers. states: the state at the start of every
/// step, (n_steps, N, D), or null.
template <class T, Second kSecond, int kRows, bool kHeld>
__global__ void __launch_bounds__(kThreads, 1)
    solve_rows(const __grid_constant__ Solve<T> s, int warps, const T* __restrict__ y0,
               T* __restrict__ y, T* __restrict__ integral, T* __restrict__ states) {
  GPU_DYN_SHARED(T, shared);
  load_weights<T, kSecond>(s, shared);
  __syncthreads();
  const Sizes& z = s.sizes;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * warps + warp) * kRows;
  if (warp >= warps || row >= z.n) return;

  const T* const first = shared + s.places.first;
  const T* const last = shared + s.places.last;
  const T* const middle = shared + s.places.middle;
  const T* const second = shared + s.places.second;
  const T* const middle_bias = shared + s.places.middle_bias;
  const T* const last_bias = shared + s.places.last_bias;
  T* const inputs = shared + s.places.end + warp * kRows * row_elements<kSecond>(z);
  T* const start = inputs + kRows * z.inputs;
  T* const sums = start + kRows * z.dims;
  T* const one = sums + kRows * z.dims;
  T* const two = one + kRows * z.padded;
  T* const tangent = two + kRows * z.padded;  // into the trace's product
  T* const left = tangent + kRows * z.padded;
  T* const right = left + kRows * z.padded;

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const bool inside = row + r < z.n;
    for (int d = lane; d < z.d; d += 32) {
      const T value = inside ? y0[(row + r) * z.d + d] : T(0);
      inputs[r * z.inputs + d] = value;
      start[r * z.dims + d] = value;
    }
    if (lane == 0) {
      inputs[r * z.inputs + z.d] = s.time_of(0, 0);
      inputs[r * z.inputs + z.d + 1] = 1;
    }
    if constexpr (kSecond == Second::same) {
      for (int j = lane; j < z.padded; j += 32) {
        const bool given = inside && j < z.h;
        left[r * z.padded + j] = given ? s.left[(row + r) * z.h + j] : T(0);
        right[r * z.padded + j] = given ? s.right[(row + r) * z.h + j] : T(0);
      }
    }
  }
  T traces[kRows] = {};
  [[maybe_unused]] Held held;
  if constexpr (kHeld) held.load(z, middle);
  __syncwarp();

  for (int64_t step = 0; step < s.n_steps; ++step) {
    if (states != nullptr) {
      for (int r = 0; r < kRows && row + r < z.n; ++r) {
        for (int d = lane; d < z.d; d += 32) {
          states[(step * z.n + row + r) * z.d + d] = inputs[r * z.inputs + d];
        }
      }
    }
    for (int stage = 0; stage < s.stages; ++stage) {
      widen<kRows>(z, first, inputs, z.inputs, z.d + 2, [&](int r, int j, T sum) {
        const T h = tanh_of(sum);
        one[r * z.padded + j] = h;
        if constexpr (kSecond == Second::own) tangent[r * z.padded + j] = slope_of(h);
        if constexpr (kSecond == Second::same) {
          tangent[r * z.padded + j] = slope_of(h) * right[r * z.padded + j];
        }
      });
      __syncwarp();
      const T weight = s.weight[stage];
      T partial[kRows] = {};
      const auto finish = [&](int r, int j, T sum, T along) {
        const T h = tanh_of(sum + middle_bias[j]);
        two[r * z.padded + j] = h;
        if constexpr (kSecond == Second::own) partial[r] = fma(slope_of(h), along, partial[r]);
        if constexpr (kSecond == Second::same) {
          partial[r] = fma(slope_of(h) * left[r * z.padded + j], along, partial[r]);
        }
      };
      if constexpr (kHeld) {
        held.template multiply<kSecond, kRows>(one, tangent, finish);
      } else {
        multiply<kSecond, kRows>(z, middle, second, one, tangent, finish);
      }
      if constexpr (kSecond != Second::none) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) traces[r] = fma(weight, partial[r], traces[r]);
      }
      __syncwarp();
      const bool at_end = stage + 1 == s.stages;
      const T previous = at_end ? T(0) : s.previous[stage + 1];
      narrow<kRows>(z, last, two, [&](int r, int d, T sum) {
        const T slope = sum + last_bias[d];
        const T from = start[r * z.dims + d];
        const T total = fma(weight, slope, stage == 0 ? from : sums[r * z.dims + d]);
        sums[r * z.dims + d] = total;
        if (at_end) start[r * z.dims + d] = total;
        inputs[r * z.inputs + d] = at_end ? total : fma(previous, slope, from);
      });
      if (lane < kRows) {
        inputs[lane * z.inputs + z.d] =
            at_end ? s.time_of(step + 1, 0) : s.time_of(step, stage + 1);
      }
      __syncwarp();
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kSecond != Second::none) {
      for (int mask = 16; mask > 0; mask /= 2) {
        traces[r] += __shfl_xor_sync(~0u, traces[r], mask);
      }
    }
    if (row + r >= z.n) continue;
    for (int d = lane; d < z.d; d += 32) y[(row + r) * z.d + d] = inputs[r * z.inputs + d];
    if (kSecond != Second::none && lane == 0) integral[row + r] = traces[r];
  }
}

template <class T, Second kSecond>
void launch_solve(const Solve<T>& s, View y0, View y, View integral, View states) {
  const Tiles tiles = tiles_of(s.sizes.n, 4, shared_limit(), [&](const Tiles& t) {
    const int rows = t.per_block() * row_elements<kSecond>(s.sizes);
    return static_cast<std::size_t>(s.places.end + rows) * sizeof(T);
  });
  const auto blocks =
      static_cast<unsigned>((s.sizes.n + tiles.per_block() - 1) / tiles.per_block());
  const auto run = [&](auto kernel) {
    gpu::launch(kernel, blocks, kThreads, tiles.shared_bytes, gpu::default_stream(), s, tiles.warps,
                y0.as<const T>(), y.as<T>(), integral.as<T>(), states.as<T>());
  };
  if constexpr (std::is_same_v<T, float> && kSecond != Second::own) {
    if (s.sizes.padded == Held::kUnits && tiles.rows < 4) {
      if (tiles.rows == 1) return run(solve_rows<T, kSecond, 1, true>);
      return run(solve_rows<T, kSecond, 2, true>);
    }
  }
  if (tiles.rows == 1) return run(solve_rows<T, kSecond, 1, false>);
  if (tiles.rows == 2) return run(solve_rows<T, kSecond, 2, false>);
  return run(solve_rows<T, kSecond, 4, false>);
}

}  // namespace

bool CudaBackend::has_cnf_solve(const CnfField& field, const SolveSteps& steps,
                                bool gradient) const {
  if (!is_solvable(field, steps, gradient)) return false;
  const int64_t h = (*field.x.shape)[0];
  const int64_t d = (*field.x.shape)[1];
  if (h > kMostUnits || d > kMostUnits) return false;
  const Second second = second_of(field);
  const auto fits = [&](auto type) {
    using T = decltype(type);
    const Sizes z = sizes_of<T>(1, d, h);
    const Places p = places_of(z, second);
    const int elements = gradient ? adjoint_places_of(z, p, second).rows +
                                        adjoint_row_elements(z, second, steps.stages)
                                  : p.end + row_elements<Second::same>(z);
    return static_cast<std::size_t>(elements) * sizeof(T) <= shared_limit();
  };
  return field.x.dtype == DType::float32 ? fits(float{}) : fits(double{});
}

void CudaBackend::cnf_solve(const CnfField& field, const SolveSteps& steps, View y0, View y,
                            View integral, View states) {
  visit_floating("cnf_solve", y0.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (y0.numel() == 0) return;
    const Second second = second_of(field);
    const Solve<T> s = solve_of<T>(field, steps, (*y0.shape)[0], second);
    if (second == Second::own) {
      launch_solve<T, Second::own>(s, y0, y, integral, states);
    } else if (second == Second::same) {
      launch_solve<T, Second::same>(s, y0, y, integral, states);
    } else {
      launch_solve<T, Second::none>(s, y0, y, integral, states);
    }
  });
}

}  // namespace flowgrad::kernels
