#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/matmul_tile.cuh"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/functions.h"

// An LSTM, one launch a step. A block owns a tile of rows and hidden units with all four gates of
// them, so that what follows the product needs nobody else's results.
namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// Rows, and hidden units, of a block: one thread for each pair. Depth of a slice of the product.
constexpr int kTile = 16, kThreads = kTile * kTile;

struct Sizes {
  int rows, hidden;
  const int64_t* lengths;  // or nullptr
  GPU_INLINE bool inside(int row, int time) const {
    return lengths == nullptr || time < lengths[row];
  }
};

/// Where a thread stands: its row and hidden unit, and their place in (rows, hidden).
struct Place {
  int row, unit, row_in_tile, unit_in_tile;
  bool exists;
  int64_t at;
  GPU_INLINE explicit Place(const Sizes& s) {
    row_in_tile = static_cast<int>(threadIdx.x) / kTile;
    unit_in_tile = static_cast<int>(threadIdx.x) % kTile;
    row = static_cast<int>(blockIdx.y) * kTile + row_in_tile;
    unit = static_cast<int>(blockIdx.x) * kTile + unit_in_tile;
    exists = row < s.rows && unit < s.hidden;
    at = int64_t{row} * s.hidden + unit;
  }
};

template <class T>
struct Step {
  Sizes s;
  int time;
  const T *weight, *from_x, *h, *c;
  T *next_h, *next_c, *out;
  T* gates;  // or nullptr
};

template <class T>
__global__ void __launch_bounds__(kThreads) lstm_step(const __grid_constant__ Step<T> p) {
  GPU_SHARED(T, state, [kTile][kTile + 1]);
  GPU_SHARED(T, weight, [4][kTile][kTile + 1]);
  const Place at(p.s);
  const int hidden = p.s.hidden;
  const int first_row = static_cast<int>(blockIdx.y) * kTile;
  const int first_unit = static_cast<int>(blockIdx.x) * kTile;
  T sum[4] = {};
  for (int k0 = 0; k0 < hidden; k0 += kTile) {
    // Row i of a slice, and place k in it, as this thread loads it.
    const int i = at.row_in_tile, k = k0 + at.unit_in_tile;
    state[i][at.unit_in_tile] =
        first_row + i < p.s.rows && k < hidden ? p.h[int64_t{first_row + i} * hidden + k] : T(0);
#pragma unroll
    for (int gate = 0; gate < 4; ++gate)
      weight[gate][i][at.unit_in_tile] =
          first_unit + i < hidden && k < hidden
              ? p.weight[(int64_t{gate} * hidden + first_unit + i) * hidden + k]
              : T(0);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
      const T h = state[at.row_in_tile][j];
#pragma unroll
      for (int gate = 0; gate < 4; ++gate)
        sum[gate] = multiply_add(h, weight[gate][at.unit_in_tile][j], sum[gate]);
    }
    __syncthreads();
  }
  if (!at.exists) return;
  if (!p.s.inside(at.row, p.time)) {
    p.out[at.at] = 0;
    p.next_h[at.at] = p.h[at.at];
    p.next_c[at.at] = p.c[at.at];
    return;
  }
  const int64_t place = int64_t{at.row} * 4 * hidden + at.unit;
  T gate[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    gate[i] = p.from_x[place + i * hidden] + sum[i];
    gate[i] = i == 2 ? tanh(gate[i]) : scalar::sigmoid(gate[i]);
    if (p.gates != nullptr) p.gates[place + i * hidden] = gate[i];
  }
  const T c = multiply_add(gate[1], p.c[at.at], gate[0] * gate[2]);
  const T h = gate[3] * tanh(c);
  p.next_c[at.at] = c;
  p.next_h[at.at] = h;
  p.out[at.at] = h;
}

/// One step back in time: g_h comes from the gates' gradient of the step after, where there is one
/// (g_later not null) and its row was inside, and else is what it was. Only that where gates is
/// null.
template <class T>
struct StepBack {
  Sizes s;
  int time, later;
  const T *weight, *g_later, *gates, *c_before, *c, *g_out;
  T *g_h, *g_c, *g_from_x;
};

template <class T>
__global__ void __launch_bounds__(kThreads) lstm_step_back(const __grid_constant__ StepBack<T> p) {
  GPU_SHARED(T, later, [kTile][kTile + 1]);
  GPU_SHARED(T, weight, [kTile][kTile + 1]);
  const Place at(p.s);
  const int hidden = p.s.hidden, width = 4 * hidden;
  const int first_row = static_cast<int>(blockIdx.y) * kTile;
  T sum = 0;
  for (int k0 = 0; k0 < width && p.g_later != nullptr; k0 += kTile) {
    const int i = at.row_in_tile, k = k0 + at.unit_in_tile;
    later[i][at.unit_in_tile] = first_row + i < p.s.rows && k < width
                                    ? p.g_later[int64_t{first_row + i} * width + k]
                                    : T(0);
    weight[i][at.unit_in_tile] =
        k0 + i < width && at.unit < hidden ? p.weight[int64_t{k0 + i} * hidden + at.unit] : T(0);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kTile; ++j)
      sum = multiply_add(later[at.row_in_tile][j], weight[j][at.unit_in_tile], sum);
    __syncthreads();
  }
  if (!at.exists) return;
  T given = p.g_h[at.at];
  if (p.g_later != nullptr && p.s.inside(at.row, p.later)) given = sum;
  p.g_h[at.at] = given;
  if (p.gates == nullptr) return;
  const int64_t place = int64_t{at.row} * width + at.unit;
  if (!p.s.inside(at.row, p.time)) {
    for (int i = 0; i < 4; ++i) p.g_from_x[place + i * hidden] = 0;
    return;
  }
  given += p.g_out[at.at];
  T gate[4];
  for (int i = 0; i < 4; ++i) gate[i] = p.gates[place + i * hidden];
  const T squashed = tanh(p.c[at.at]);
  const T to_c = p.g_c[at.at] + given * gate[3] * (T(1) - squashed * squashed);
  const T before = p.c_before[at.at];
  p.g_from_x[place] = to_c * gate[2] * gate[0] * (T(1) - gate[0]);
  p.g_from_x[place + hidden] = to_c * before * gate[1] * (T(1) - gate[1]);
  p.g_from_x[place + 2 * hidden] = to_c * gate[0] * (T(1) - gate[2] * gate[2]);
  p.g_from_x[place + 3 * hidden] = given * squashed * gate[3] * (T(1) - gate[3]);
  p.g_c[at.at] = to_c * gate[1];
}

/// The host's view of a sequence.
struct Sequence {
  Sizes sizes;
  int64_t steps;
  bool reverse;
  dim3 blocks;

  Sequence(const LstmSteps& l, const View& gates)
      : sizes{static_cast<int>((*gates.shape)[1]), static_cast<int>((*l.weight.shape)[1]),
              l.lengths.defined() ? l.lengths.as<const int64_t>() : nullptr},
        steps((*gates.shape)[0]),
        reverse(l.reverse),
        blocks(static_cast<unsigned>((sizes.hidden + kTile - 1) / kTile),
               static_cast<unsigned>((sizes.rows + kTile - 1) / kTile)) {}
  int64_t time(int64_t step) const { return reverse ? steps - 1 - step : step; }
  int64_t state() const { return int64_t{sizes.rows} * sizes.hidden; }
};

}  // namespace

void CudaBackend::lstm(const LstmSteps& l, View from_x, View h0, View c0, View out, View h, View c,
                       View gates, View h_before, View c_before) {
  visit_floating("lstm", from_x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Sequence q(l, from_x);
    const int64_t n = q.state();
    if (n == 0) return;
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    // A step reads one state and writes the next: those that are kept, or two in turn.
    const Scratch turn(4 * bytes);
    const auto state = [&](int64_t step, const View& kept, const View& last, int which) {
      if (step == q.steps) return last.as<T>();
      if (kept.defined()) return kept.as<T>() + q.time(step) * n;
      return turn.as<T>() + (2 * which + step % 2) * n;
    };
    gpu::copy_on_device(state(0, h_before, h, 0), h0.data, bytes, gpu::default_stream());
    gpu::copy_on_device(state(0, c_before, c, 1), c0.data, bytes, gpu::default_stream());
    for (int64_t i = 0; i < q.steps; ++i) {
      const int64_t t = q.time(i);
      gpu::launch(lstm_step<T>, q.blocks, kThreads, 0, gpu::default_stream(),
                  Step<T>{q.sizes, static_cast<int>(t), l.weight.as<const T>(),
                          from_x.as<const T>() + 4 * t * n, state(i, h_before, h, 0),
                          state(i, c_before, c, 1), state(i + 1, h_before, h, 0),
                          state(i + 1, c_before, c, 1), out.as<T>() + t * n,
                          gates.defined() ? gates.as<T>() + 4 * t * n : nullptr});
    }
  });
}

void CudaBackend::lstm_grad(const LstmSteps& l, View gates, View c_before, View c, View g_out,
                            View g_h, View g_c, View g_from_x, View g_h0, View g_c0) {
  visit_floating("lstm_grad", gates.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Sequence q(l, gates);
    const int64_t n = q.state();
    if (n == 0) return;
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    gpu::copy_on_device(g_h0.data, g_h.data, bytes, gpu::default_stream());
    gpu::copy_on_device(g_c0.data, g_c.data, bytes, gpu::default_stream());
    for (int64_t i = q.steps - 1; i >= -1; --i) {
      StepBack<T> p{};
      p.s = q.sizes;
      p.weight = l.weight.as<const T>();
      p.g_h = g_h0.as<T>();
      p.g_c = g_c0.as<T>();
      if (i + 1 < q.steps) {
        p.later = static_cast<int>(q.time(i + 1));
        p.g_later = g_from_x.as<const T>() + 4 * p.later * n;
      }
      if (i >= 0) {
        const int64_t t = q.time(i);
        p.time = static_cast<int>(t);
        p.gates = gates.as<const T>() + 4 * t * n;
        p.c_before = c_before.as<const T>() + t * n;
        p.c = i + 1 < q.steps ? c_before.as<const T>() + p.later * n : c.as<const T>();
        p.g_out = g_out.as<const T>() + t * n;
        p.g_from_x = g_from_x.as<T>() + 4 * t * n;
      }
      gpu::launch(lstm_step_back<T>, q.blocks, kThreads, 0, gpu::default_stream(), p);
    }
  });
}

}  // namespace flowgrad::kernels
