#include <cmath>
#include <vector>

#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

namespace {

using Row = std::vector<double>;

/// One row of the batch, walked through its steps.
struct Walk {
  int64_t steps, rows, hidden, row, length;
  bool reverse;

  Walk(const LstmSteps& l, const View& gates, int64_t row)
      : steps((*gates.shape)[0]),
        rows((*gates.shape)[1]),
        hidden((*l.weight.shape)[1]),
        row(row),
        length(l.lengths.defined() ? l.lengths.as<const int64_t>()[row] : steps),
        reverse(l.reverse) {}
  int64_t time(int64_t step) const { return reverse ? steps - 1 - step : step; }
  /// The row's first element at a time, in arrays of `width` a row.
  int64_t at(int64_t time, int64_t width) const { return (time * rows + row) * width; }
};

template <class T>
Row load(const T* from, int64_t n) {
  return Row(from, from + n);
}
template <class T>
void store(const Row& from, T* to) {
  for (size_t j = 0; j < from.size(); ++j) to[j] = static_cast<T>(from[j]);
}

}  // namespace

void ReferenceBackend::lstm(const LstmSteps& l, View from_x, View h0, View c0, View out, View h,
                            View c, View gates, View h_before, View c_before) {
  visit_floating("lstm", from_x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* const weight = l.weight.as<const T>();
    for (int64_t row = 0; row < (*from_x.shape)[1]; ++row) {
      const Walk w(l, from_x, row);
      const auto n = static_cast<size_t>(w.hidden);
      Row state = load(h0.as<const T>() + row * w.hidden, w.hidden);
      Row memory = load(c0.as<const T>() + row * w.hidden, w.hidden);
      for (int64_t step = 0; step < w.steps; ++step) {
        const int64_t t = w.time(step), at = w.at(t, w.hidden);
        if (h_before.defined()) store(state, h_before.as<T>() + at);
        if (c_before.defined()) store(memory, c_before.as<T>() + at);
        if (t >= w.length) {
          store(Row(n), out.as<T>() + at);
          if (gates.defined()) store(Row(4 * n), gates.as<T>() + 4 * at);
          continue;
        }
        Row gate = load(from_x.as<const T>() + 4 * at, 4 * w.hidden);
        for (size_t i = 0; i < 4 * n; ++i) {
          for (size_t j = 0; j < n; ++j)
            gate[i] += static_cast<double>(weight[i * n + j]) * state[j];
          gate[i] = i / n == 2 ? std::tanh(gate[i]) : scalar::sigmoid(gate[i]);
        }
        for (size_t j = 0; j < n; ++j) {
          memory[j] = gate[n + j] * memory[j] + gate[j] * gate[2 * n + j];
          state[j] = gate[3 * n + j] * std::tanh(memory[j]);
        }
        store(state, out.as<T>() + at);
        if (gates.defined()) store(gate, gates.as<T>() + 4 * at);
      }
      store(state, h.as<T>() + row * w.hidden);
      store(memory, c.as<T>() + row * w.hidden);
    }
  });
}

void ReferenceBackend::lstm_grad(const LstmSteps& l, View gates, View c_before, View c, View g_out,
                                 View g_h, View g_c, View g_from_x, View g_h0, View g_c0) {
  visit_floating("lstm_grad", gates.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* const weight = l.weight.as<const T>();
    for (int64_t row = 0; row < (*gates.shape)[1]; ++row) {
      const Walk w(l, gates, row);
      const auto n = static_cast<size_t>(w.hidden);
      Row to_h = load(g_h.as<const T>() + row * w.hidden, w.hidden);
      Row to_c = load(g_c.as<const T>() + row * w.hidden, w.hidden);
      Row after = load(c.as<const T>() + row * w.hidden, w.hidden);
      for (int64_t step = w.steps - 1; step >= 0; --step) {
        const int64_t t = w.time(step), at = w.at(t, w.hidden);
        Row to_gate(4 * n);
        if (t < w.length) {
          const Row gate = load(gates.as<const T>() + 4 * at, 4 * w.hidden);
          const Row before = load(c_before.as<const T>() + at, w.hidden);
          for (size_t j = 0; j < n; ++j) {
            const double i = gate[j], f = gate[n + j], g = gate[2 * n + j], o = gate[3 * n + j];
            const double given =
                to_h[j] + static_cast<double>(g_out.as<const T>()[at + static_cast<int64_t>(j)]);
            const double squashed = std::tanh(after[j]);
            to_c[j] += given * o * (1 - squashed * squashed);
            to_gate[j] = to_c[j] * g * i * (1 - i);
            to_gate[n + j] = to_c[j] * before[j] * f * (1 - f);
            to_gate[2 * n + j] = to_c[j] * i * (1 - g * g);
            to_gate[3 * n + j] = given * squashed * o * (1 - o);
            to_c[j] *= f;
          }
          std::fill(to_h.begin(), to_h.end(), 0.0);
          for (size_t i = 0; i < 4 * n; ++i)
            for (size_t j = 0; j < n; ++j)
              to_h[j] += to_gate[i] * static_cast<double>(weight[i * n + j]);
          after = before;
        }
        store(to_gate, g_from_x.as<T>() + 4 * at);
      }
      store(to_h, g_h0.as<T>() + row * w.hidden);
      store(to_c, g_c0.as<T>() + row * w.hidden);
    }
  });
}

}  // namespace flowgrad::kernels
