#include <algorithm>
#include <utility>
#include <vector>

#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/kernels/sampler_move.h"

// A sampler's whole solve, a block of rows at a time through all stages. Weights are packed once;
// what is left to read for few rows is as fast as the cache that holds them.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows of a block: their activations stay in the second-level cache.
constexpr int64_t kBlockRows = 112;
/// Rows that a thread takes at least. Fewer in all, and the threads share every product instead:
/// each then reads its part of the weights, not all of them.
constexpr int64_t kThreadRows = 32;

template <class T>
struct Solver {
  int64_t rows, outputs, width;
  bool guided;
  T guidance;
  const Sampler& s;
  std::vector<SamplerMove<T>> moves;
  std::vector<Factor<T>> weights;  // first, hidden and last of SamplerNet

  Solver(const Sampler& s, const View& x)
      : rows((*x.shape)[0]),
        outputs((*x.shape)[1]),
        width((*s.net.first.shape)[1]),
        guided(s.guidance != 1 && s.net.condition.defined()),
        guidance(static_cast<T>(s.guidance)),
        s(s),
        moves(s.stages.begin(), s.stages.end()) {
    const SamplerNet& net = s.net;
    T* memory = scratch_of<T>(ScratchSlot::operand, packed_elements<T>(outputs, width) +
                                                        3 * (packed_elements<T>(width, width) +
                                                             packed_elements<T>(width, outputs)));
    weights.push_back({net.first.as<const T>(), width, 1, outputs, width});
    for (int64_t i = 0; i < 3; ++i)
      weights.push_back({net.hidden.as<const T>() + i * width * width, 1, width, width, width});
    for (int64_t i = 0; i < 3; ++i)
      weights.push_back({net.last.as<const T>() + i * outputs * width, 1, width, width, outputs});
    for (Factor<T>& weight : weights) weight.pack(memory);
  }

  /// Rows [begin, begin + n). With guidance every row is evaluated twice, the second time without
  /// its condition.
  void solve(int64_t begin, int64_t n, const T* x0, T* out) const {
    const int64_t m = guided ? 2 * n : n, numbers = n * outputs;
    T* at = scratch_of<T>(ScratchSlot::solve, m * (3 * width + 2 * outputs) + 3 * numbers);
    const auto take = [&at](int64_t count) { return std::exchange(at, at + count); };
    T* const h = take(m * width);
    T* const u = take(m * width);
    T* const w = take(m * width);
    T* const v = take(m * outputs);
    T* const x = take(m * outputs);
    T* const y = take(numbers);
    T* const sum = take(numbers);
    T* const z = take(numbers);
    std::copy_n(x0 + begin * outputs, numbers, x);
    std::copy_n(x, numbers, y);
    std::fill_n(sum, numbers, T(0));
    for (size_t stage = 0; stage < moves.size(); ++stage) {
      if (guided) std::copy_n(x, numbers, x + numbers);
      evaluate(static_cast<int64_t>(stage), begin, n, m, x, h, u, w, v);
      const SamplerMove<T>& move = moves[stage];
      if (move.x_noise != T(0)) draw(move.noise, begin * outputs, numbers, z);
      for (int64_t i = 0; i < numbers; ++i) {
        const T along = guided ? v[numbers + i] + (v[i] - v[numbers + i]) * guidance : v[i];
        move.apply(along, z[i], x[i], y[i], sum[i]);
      }
    }
    std::copy_n(x, numbers, out + begin * outputs);
  }

 private:
  void activate(int op, T* values, int64_t n) const {
    elementwise_table<T>().unary[op](values, values, n, T(0), T(0));
  }

  /// v (m, A) of x (m, A), rows from n on without the condition.
  void evaluate(int64_t stage, int64_t begin, int64_t n, int64_t m, const T* x, T* h, T* u, T* w,
                T* v) const {
    const SamplerNet& net = s.net;
    const T* const times = net.times.as<const T>() + stage * width;
    const bool conditioned = net.condition.defined();
    if (conditioned) {
      const int64_t step = (*net.condition.shape)[0] == 1 ? 0 : width;
      const auto add = elementwise_table<T>().binary[number::binary_add];
      for (int64_t r = 0; r < n; ++r)
        add(times, net.condition.as<const T>() + (begin + r) * step, h + r * width, width);
      for (int64_t r = n; r < m; ++r) std::copy_n(times, width, h + r * width);
    }
    const Factor<T>* const hidden = &weights[1];
    const Factor<T>* const last = &weights[4];
    weights[0].multiply(m, x, h, conditioned ? nullptr : times, conditioned);
    activate(net.relu ? number::unary_relu : number::unary_silu, h, m * width);
    const T* const bias = net.bias.as<const T>();
    hidden[0].multiply(m, h, u, bias);
    activate(number::unary_silu, u, m * width);
    hidden[1].multiply(m, h, w, bias + width);
    hidden[2].multiply(m, u, w, nullptr, true);
    activate(number::unary_silu, w, m * width);
    last[0].multiply(m, h, v, net.last_bias.as<const T>());
    last[1].multiply(m, u, v, nullptr, true);
    last[2].multiply(m, w, v, nullptr, true);
  }

  /// Numbers [begin, begin + n) of unit noise `row`.
  void draw(int64_t row, int64_t begin, int64_t n, T* z) const {
    if (s.noise.defined()) {
      std::copy_n(s.noise.as<const T>() + row * rows * outputs + begin, n, z);
      return;
    }
    for (int64_t i = 0; i < n; ++i)
      z[i] = normal::element<T>(s.seed, s.first_stream + static_cast<uint64_t>(row),
                                static_cast<uint64_t>(begin + i));
  }
};

}  // namespace

bool CpuBackendFast::has_sampler(DType dtype, int64_t, int64_t outputs) {
  return (dtype == DType::float32 || dtype == DType::float64) && outputs > 0;
}

void CpuBackendFast::sample(const Sampler& sampler, View x, View out) {
  if (out.numel() == 0) return;
  visit_floating("sample", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Solver<T> solver(sampler, x);
    // As many blocks for every thread: no value depends on the block of its row.
    const int64_t threads = std::clamp<int64_t>(solver.rows / kThreadRows, 1, num_threads());
    const int64_t blocks = divide_up(divide_up(solver.rows, kBlockRows), threads) * threads;
    parallel_for(blocks, [&](int64_t i) {
      const int64_t begin = solver.rows * i / blocks, end = solver.rows * (i + 1) / blocks;
      solver.solve(begin, end - begin, x.as<const T>(), out.as<T>());
    });
  });
}

}  // namespace flowgrad::kernels
