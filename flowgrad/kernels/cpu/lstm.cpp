#include <algorithm>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"

// An LSTM's steps. The recurrent weights are packed once for the whole sequence, and rows of the
// batch go to the threads, each with all of its steps: there is nothing to wait for between them.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows that are worth a thread, and multiplications that are worth a second one.
constexpr int64_t kLeastRows = 4;

/// Sizes, and the place of a step's rows in arrays (L, N, ...).
struct Steps {
  int64_t steps, rows, hidden;
  const int64_t* lengths;
  bool reverse;

  Steps(const LstmSteps& l, const View& gates)
      : steps((*gates.shape)[0]),
        rows((*gates.shape)[1]),
        hidden((*l.weight.shape)[1]),
        lengths(l.lengths.defined() ? l.lengths.as<const int64_t>() : nullptr),
        reverse(l.reverse) {}
  int64_t time(int64_t step) const { return reverse ? steps - 1 - step : step; }
  bool inside(int64_t row, int64_t time) const { return lengths == nullptr || time < lengths[row]; }
  int64_t at(int64_t time, int64_t row) const { return (time * rows + row) * hidden; }

  /// f(first row, rows) for the parts of the batch. A row's bits do not depend on its part.
  template <class F>
  void each_part(F&& f) const {
    const bool serial = steps * rows * hidden * hidden < kParallelWork || num_threads() == 1;
    const int64_t parts = serial ? 1 : std::clamp<int64_t>(rows / kLeastRows, 1, num_threads());
    parallel_for(parts, [&](int64_t i) {
      const int64_t begin = rows * i / parts;
      f(begin, rows * (i + 1) / parts - begin);
    });
  }
};

template <class T>
void run(const Steps& s, const T* weight, const T* from_x, const T* h0, const T* c0, T* out,
         T* to_h, T* to_c, T* gates, T* h_before, T* c_before) {
  const int64_t hidden = s.hidden, width = 4 * hidden;
  T* packed = scratch_of<T>(ScratchSlot::packed_b, packed_elements<T>(hidden, width));
  const Factor<T> factor = Factor<T>{weight, 1, hidden, hidden, width}.pack(packed);
  s.each_part([&](int64_t first, int64_t rows) {
    T* const h = to_h + first * hidden;
    T* const c = to_c + first * hidden;
    std::copy_n(h0 + first * hidden, rows * hidden, h);
    std::copy_n(c0 + first * hidden, rows * hidden, c);
    T* const own = gates == nullptr ? scratch_of<T>(ScratchSlot::operand, rows * width) : nullptr;
    for (int64_t step = 0; step < s.steps; ++step) {
      const int64_t t = s.time(step), at = s.at(t, first);
      T* const of_step = own != nullptr ? own : gates + 4 * at;
      if (h_before != nullptr) std::copy_n(h, rows * hidden, h_before + at);
      if (c_before != nullptr) std::copy_n(c, rows * hidden, c_before + at);
      std::copy_n(from_x + 4 * at, rows * width, of_step);
      factor.multiply(rows, h, of_step, nullptr, true);
      for (int64_t r = 0; r < rows; ++r) {
        T* const to = out + at + r * hidden;
        if (!s.inside(first + r, t)) {
          std::fill_n(to, hidden, T(0));
          continue;
        }
        T *const state = h + r * hidden, *const memory = c + r * hidden;
        lstm_table<T>().cell(of_step + r * width, memory, hidden, memory, state);
        std::copy_n(state, hidden, to);
      }
    }
  });
}

template <class T>
struct StateCotangents {
  const T *out, *h, *c;
  T *from_x, *h0, *c0;
};

template <class T>
void run_back(const Steps& s, const T* weight, const T* gates, const T* c_before, const T* c_last,
              const StateCotangents<T>& g) {
  const int64_t hidden = s.hidden, width = 4 * hidden;
  T* packed = scratch_of<T>(ScratchSlot::packed_b, packed_elements<T>(width, hidden));
  const Factor<T> factor = Factor<T>{weight, hidden, 1, width, hidden}.pack(packed);
  s.each_part([&](int64_t first, int64_t rows) {
    T* const g_h = g.h0 + first * hidden;
    T* const g_c = g.c0 + first * hidden;
    std::copy_n(g.h + first * hidden, rows * hidden, g_h);
    std::copy_n(g.c + first * hidden, rows * hidden, g_c);
    T* const given = scratch_of<T>(ScratchSlot::operand, hidden);
    for (int64_t step = s.steps - 1; step >= 0; --step) {
      const int64_t t = s.time(step), at = s.at(t, first);
      const T* const c_after =
          step + 1 < s.steps ? c_before + s.at(s.time(step + 1), first) : c_last + first * hidden;
      T* const to = g.from_x + 4 * at;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t i = r * hidden;
        if (!s.inside(first + r, t)) {
          std::fill_n(to + 4 * i, width, T(0));
          continue;
        }
        for (int64_t j = 0; j < hidden; ++j) given[j] = g_h[i + j] + g.out[at + i + j];
        lstm_table<T>().cell_grad(gates + 4 * (at + i), c_before + at + i, c_after + i, given,
                                  g_c + i, hidden, to + 4 * i);
        std::fill_n(g_h + i, hidden, T(0));
      }
      factor.multiply(rows, to, g_h, nullptr, true);
    }
  });
}

}  // namespace

void CpuBackendFast::lstm(const LstmSteps& l, View from_x, View h0, View c0, View out, View h,
                          View c, View gates, View h_before, View c_before) {
  visit_floating("lstm", from_x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    run(Steps(l, from_x), l.weight.as<const T>(), from_x.as<const T>(), h0.as<const T>(),
        c0.as<const T>(), out.as<T>(), h.as<T>(), c.as<T>(), gates.as<T>(), h_before.as<T>(),
        c_before.as<T>());
  });
}

void CpuBackendFast::lstm_grad(const LstmSteps& l, View gates, View c_before, View c, View g_out,
                               View g_h, View g_c, View g_from_x, View g_h0, View g_c0) {
  visit_floating("lstm_grad", gates.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    run_back<T>(Steps(l, gates), l.weight.as<const T>(), gates.as<const T>(),
                c_before.as<const T>(), c.as<const T>(),
                {g_out.as<const T>(), g_h.as<const T>(), g_c.as<const T>(), g_from_x.as<T>(),
                 g_h0.as<T>(), g_c0.as<T>()});
  });
}

}  // namespace flowgrad::kernels
